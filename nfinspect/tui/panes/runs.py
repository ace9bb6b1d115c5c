"""The runs of the store: what is there, what is being captured and how far it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from nfinspect.present.numbers import size
from nfinspect.tui.cells import content
from nfinspect.tui.columns.runs import about_run, backend_lines, being_made, is_unfinished, run_columns, welcome
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.places import place
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.backend.protocol import Status
    from nfinspect.tui.engine import Engine
    from nfinspect_store.types import RunEntry

LIVE_SECONDS = 0.5
"""Between two looks while a capture runs."""

QUIET_SECONDS = 3.0

ORDERS = ("created", "name", "model", "tokens", "bytes")


class RunsPane(Pane):
    """A table of runs, and one line about the one under the cursor."""

    help_text = (
        "Each run is one capture of one model: one DuckDB file in the store. A run that a backend captures opens "
        "like any other, as far as it is committed. One that another process captures shows its progress, and opens "
        "when it has finished; p shows how far it is, and how one that was interrupted goes on. c captures. A training "
        "that a FiringMonitor watches is a history: Enter shows it, live. Space marks runs, O compares the marked ones."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="runs.filter"),
        Binding("s", "order(1)", "Sort", id="runs.sort"),
        Binding(
            "full_stop",
            "order(1)",
            "Sort by the next column",
            key_display=".",
            show=False,
            id="runs.sort_next",
        ),
        Binding(
            "comma",
            "order(-1)",
            "Sort by the previous column",
            key_display=",",
            show=False,
            id="runs.sort_previous",
        ),
        Binding("I", "invert", "Invert the order", show=False, id="runs.invert"),
        Binding("r", "reload", "Read the store again", show=False, id="runs.reload"),
        Binding("c", "capture", "Capture", id="runs.capture"),
        Binding("p", "progress", "Progress", show=False, id="runs.progress"),
        Binding("d", "delete", "Delete", id="runs.delete"),
        Binding("space", "mark", "Mark", key_display="Space", id="runs.mark"),
        Binding("O", "compare", "Compare the marked", show=False, id="runs.compare"),
    ]

    DEFAULT_CSS = """
    RunsPane #about { height: 2; padding: 0 1; }
    RunsPane #backends { height: auto; max-height: 3; padding: 0 1; display: none; }
    RunsPane #empty { padding: 1 2; display: none; }
    RunsPane.-empty #empty { display: block; }
    RunsPane.-empty PagedTable { display: none; }
    """

    _runs: tuple[RunEntry, ...] | None = None
    _backends: tuple[Status, ...] = ()
    _filter = ""
    _order = ("created", True)

    def __init__(self, crumb: str) -> None:
        super().__init__(crumb)
        self._marked: dict[str, None] = {}
        self._resume: dict[RunEntry, str] = {}
        """The commands that go on with unfinished runs, as far as they were asked for."""

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("runs",)

    def compose(self) -> ComposeResult:
        table = PagedTable(
            run_columns(self.glyphs),
            glyphs=self.glyphs,
            empty="no run matches the filter: / with nothing shows all",
            id="runs",
        )
        table.add_class("panel")
        table.sorted_by = self._order
        table.marked = lambda run: run.kind != "history" and run.name in self._marked
        yield table
        yield TextPanel(id="empty")
        yield Headline(id="backends")
        yield Headline(id="about")

    @property
    def hint(self) -> str:
        return (f"only {self._filter!r} {self.glyphs.dot} " if self._filter else "") + str(self.hub.engine.store)

    def entered(self) -> None:
        self.hub.release_unfinished()
        self.action_reload()
        self.look_every(LIVE_SECONDS, self._look)

    def _look(self) -> None:
        if self.app.screen is self.screen:
            self.load("runs", partial(_listing, self.hub.engine), self._show)

    # answers

    def _show(self, listing: tuple[tuple[RunEntry, ...], tuple[Status, ...]]) -> None:
        """A new listing; drawn only if something changed, so that an idle store sends nothing."""
        runs, self._backends = listing
        self._draw_backends()
        if runs == self._runs:
            return
        live = any(run.status == "capturing" for run in runs) or any(one.job or one.queue for one in self._backends)
        self.look_every(LIVE_SECONDS if live else QUIET_SECONDS, self._look)
        self._runs = self.hub.listed = runs
        self._draw()

    def _draw(self) -> None:
        here = self.table.current
        rows = [r for r in self._runs or () if self._filter.lower() in f"{r.name} {r.model} {r.status}".lower()]
        key, descending = self._order

        def value(run: RunEntry) -> tuple[bool, object]:
            found = run.created_at if key == "created" else getattr(run, key)
            return (found is not None, found if found is not None else 0)

        rows.sort(key=value, reverse=descending)
        empty = not self._runs
        if empty != self.has_class("-empty"):
            self.set_class(empty, "-empty")
            if self.display:  # keys go to what has the focus, which must be what is shown
                self.call_after_refresh((self.query_one(TextPanel) if empty else self.table).focus)
        if empty:
            self.query_one(TextPanel).put(welcome(self.hub.engine.store, self.glyphs))
        if here is not None:
            place = next((i for i, run in enumerate(rows) if run.path == here.path), None)
            if place is not None:
                self.table.cursor = place
        self.table.sorted_by = self._order
        self.table.put_rows(rows)
        self._about()

    def _draw_backends(self) -> None:
        block = self.query_one("#backends", TextBlock)
        block.display = bool(self._backends)
        if self._backends:
            block.put(content(*backend_lines(self._backends, self.glyphs)))

    def _about(self) -> None:
        run = self.table.current
        block = self.query_one("#about", TextBlock)
        if run is None:
            block.put(Content(""))
            return
        block.put(content(*about_run(run, self.glyphs, self._resume.get(run, ""))))
        if is_unfinished(run) and run not in self._resume:
            self.load(
                "resume",
                partial(self.hub.engine.captures.resume_line, run.name),
                partial(self._put_resume, run),
                lambda line: None,
            )

    def _put_resume(self, run: RunEntry, line: str) -> None:
        self._resume[run] = line
        self._about()

    def _deleted(self, name: str) -> None:
        self.hub.say(f"deleted {name}", "good")
        self._runs = None
        self.action_reload()

    # keys

    def on_paged_table_moved(self) -> None:
        self._about()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        run = message.row
        if run.problem:
            self.hub.say(run.problem, "bad")
        elif run.kind == "history":
            self.hub.into(place("history", run.name))
        else:
            self.hub.open_run(run.name)

    def action_reload(self) -> None:
        busy = "reading the store" if self._runs is None else ""
        self.load("runs", partial(_listing, self.hub.engine), self._show, busy=busy)

    def action_capture(self) -> None:
        self.hub.into(place("capture"))

    def action_progress(self) -> None:
        """Of the run under the cursor if it is being captured, else of what a backend does."""
        from nfinspect.backend.protocol import makes_a_run
        from nfinspect.tui.captures import JobAt

        run = self.table.current
        known = run is not None and (run.progress is not None or self.hub.engine.captures.knows(run.name))
        known = known or (run is not None and bool(self._resume.get(run)))
        if run is not None and known and run.kind != "history" and run.status != "complete":
            self.hub.follow(run.name)
            return
        for backend in self._backends:
            for job in (backend.job, *backend.queue):
                if job is not None and makes_a_run(job.arguments):
                    self.hub.follow("", JobAt(backend.id, job.id), job)
                    return
        self.hub.say("nothing is being captured; c captures", "dim")

    def action_filter(self) -> None:
        self.hub.ask(self, "filter", "/", self._only, self._filter)

    def _only(self, text: str) -> None:
        self._filter = text
        self._draw()
        self.hub.update_trail()
        self.hub.say(f"runs with {text!r}; / with nothing shows all" if text else "", "dim")

    def action_order(self, step: int) -> None:
        key = ORDERS[(ORDERS.index(self._order[0]) + step) % len(ORDERS)]
        self._order = (key, key not in ("name", "model"))
        self._draw()

    def action_invert(self) -> None:
        self._order = (self._order[0], not self._order[1])
        self._draw()

    def action_delete(self) -> None:
        run = self.table.current
        if run is None:
            return
        if busy := being_made(run):
            self.hub.say(busy, "warn")
            return
        from nfinspect.tui.dialogs import Confirm

        what = f"{run.name} ({size(run.bytes, self.glyphs)})"
        question = f"Delete the {run.kind} {what}? It cannot be undone."
        self.app.push_screen(Confirm(question), partial(self._confirmed, run))

    def action_mark(self) -> None:
        run = self.table.current
        if run is None:
            return
        if run.kind == "history":
            self.hub.say("the history of a training has no layers to compare: Enter shows it", "warn")
            return
        if run.name in self._marked:
            del self._marked[run.name]
        else:
            self._marked[run.name] = None
        self.table.action_cursor(1)
        self.table.refresh()
        how = "O compares them" if len(self._marked) > 1 else "Space marks another to compare it with"
        self.hub.say(f"{len(self._marked):,} marked; {how}" if self._marked else "", "dim")

    def action_compare(self) -> None:
        from nfinspect.tui.navigate import to_comparison
        from nfinspect_store.errors import RequestError

        there = {run.name for run in self._runs or () if run.kind != "history"}
        self._marked = {name: None for name in self._marked if name in there}
        try:
            to_comparison(self.hub, tuple(self._marked))
        except RequestError as error:
            self.hub.say(str(error), "warn")

    def _confirmed(self, run: RunEntry, yes: bool | None) -> None:
        if not yes:
            self.hub.say("nothing deleted", "dim")
            return
        name, history = run.name, run.kind == "history"
        if not history:
            self.hub.forget_run(name)

        delete = self.hub.engine.delete_history if history else self.hub.engine.delete
        self.load(
            "deleted", partial(delete, name), lambda _: self._deleted(name), busy=f"deleting {name}", lasting=True
        )


def _listing(engine: Engine) -> tuple[tuple[RunEntry, ...], tuple[Status, ...]]:
    """In a worker: the runs of the store, and the backends that live."""
    return engine.runs(), engine.captures.statuses()
