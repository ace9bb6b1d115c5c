"""Several runs compared: the same analysis of each, over the depth of their networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.analyses.analysis_spec import Measure
from nfinspect.present.numbers import duration
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.compare import compare_columns, figure_of
from nfinspect.tui.commands import make_command
from nfinspect.tui.comparing import SIGNS, TOPICS, Comparison, LayerRow, OfRun, Topic, key_name, of_run
from nfinspect.tui.listing import Arranged, Listing
from nfinspect.tui.panes.base import Pane, arranging_keys
from nfinspect.tui.panes.command import CommandQueue
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.opening import Opened, comparing_keys, open_runs, sites_in_common, take_over
from nfinspect.tui.panes.sorted_rows import ACTIONS, SortedRows, SortingKeys
from nfinspect.tui.places import place
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.jobs import Job
    from nfinspect.tui.requests import JobState
    from nfinspect.tui.session import Session


@dataclass(frozen=True)
class Compared:
    """A worker's answer, with its rows in order."""

    comparison: Comparison
    rows: Arranged


LISTING = Listing(
    rows=lambda comparison: comparison.rows,
    value=figure_of,
    place=lambda row: (row.layer, row.sign),
    text=lambda row: row.run,
    named=("layer",),
    order=("depth", False),
    empty="no run has this analysis",
)


class ComparePane(SortingKeys, Pane):
    """Rows are the layers of all runs, by depth. What a run lacks, `r` computes by a command of that run."""

    help_text = (
        "Depth is layer / (layers - 1): 0 is a network's first layer, 1 its last, so that networks of different size "
        "share one axis. In the drawing each run has a letter: a capital at each of its layers, small ones on the way "
        "between them, X at the row under the cursor. The figures are those of the newest saved result over all layers "
        "of each run, on its own text; health is counted at once. Each run is read at its default site, or, after "
        "S, at one that all have. r computes what is missing, run after run; attention in a run's own pane. Enter "
        "goes to the layer's neurons."
    )
    first_focus = "#rows"
    idle: ClassVar[Mapping[str, str]] = {
        "cancel": "nothing is being computed here",
        "make": "there is nothing left to compute",
        "diff": "a diff is of two runs",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "make", "Make what is missing", id="compare.make"),
        Binding("x", "cancel", "Cancel", id="compare.cancel"),
        *arranging_keys("analysis", before="sort_before"),
        *(Binding(str(i + 1), f"topic({i})", one.name, show=False, id=key_name(i)) for i, one in enumerate(TOPICS[:9])),
        Binding("c", "drawing", "Drawing", id="compare.drawing"),
        Binding("d", "diff", "Neuron by neuron", id="compare.diff"),
        *comparing_keys("compare"),
    ]  # fmt: skip

    DEFAULT_CSS = """
    ComparePane #about { height: auto; max-height: 6; padding: 0 1; }
    ComparePane #chart { height: 10; }
    ComparePane.-tall #chart { height: 20; }
    ComparePane.-short #chart { height: 7; }
    ComparePane.-shorter #about { max-height: 5; }
    ComparePane.-shorter #chart { display: none; }
    ComparePane.-empty #chart { display: none; }
    """

    def __init__(self, runs: tuple[str, ...]) -> None:
        super().__init__(f"compare {len(runs)} runs")
        self._runs = runs
        self._topic: Topic = TOPICS[0]
        self._site: str | None = None
        self._drawings: dict[str, int] = {}
        self._found: Comparison | None = None
        self._shown_topic: Topic | None = None
        self._seen_ended = -1
        self._reading = False
        self.rows = SortedRows(self, lambda: LISTING, self.columns, self.reorder)
        self.queue = CommandQueue(self, self.draw_about, self.changed)

    def compose(self) -> ComposeResult:
        yield Headline(id="about")
        yield ChartBox(id="chart")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=3, empty="", id="rows")
        table.add_class("panel", "ruled-top")
        yield table

    @property
    def hint(self) -> str:
        return self._topic.name

    @property
    def equivalent(self) -> tuple[str, ...]:
        """Where every run has the analysis; what needs a model has no command for several runs."""
        found, topic = self._found, self._topic
        whole = found is not None and self._shown_topic is topic and not any(one.lacks for one in found.runs)
        if not whole or topic.needs_model:
            return ()
        site = ("--site", self._site) if self._site else ()
        return (topic.analysis, "--runs", ",".join(self._runs), *topic.options, *site)

    @property
    def run_name(self) -> str | None:
        """The run under the cursor: a place that is typed after `:` is one of this run."""
        row: LayerRow | None = self.table.current if self.is_mounted else None
        return row.run if row is not None else None

    # reading

    def entered(self) -> None:
        lost = [name for name in self._runs if name not in self.hub.sessions]
        if self._found is None or self._seen_ended != self.hub.board.ended or lost:
            self.changed()
        else:
            self.draw_about()

    def changed(self) -> None:
        self._seen_ended = self.hub.board.ended
        self._reading = True
        self.draw_about()
        closed = [name for name in self._runs if name not in self.hub.sessions]
        self.load("opened", partial(open_runs, self.hub.engine, closed), self._opened, busy="opening the runs")

    def _opened(self, answer: Opened) -> None:
        if why := take_over(self.hub, answer):
            self.hub.say(why, "bad")
        sessions = {name: self.hub.sessions.get(name) for name in self._runs}
        compare = partial(_compare, sessions, self._topic, self._site, self.rows.arranger())
        self.load("compared", compare, self._show, self._failed, busy="comparing")

    def _show(self, compared: Compared) -> None:
        other = self._shown_topic is not compared.comparison.topic
        self._found, self._reading, self._shown_topic = compared.comparison, False, compared.comparison.topic
        self.set_class(not compared.rows.total, "-empty")
        self.table.set_columns(self.columns())
        self.rows.put(compared.rows)
        if other:
            self.table.move_to(0)
        self.draw_about()
        self._draw_chart()
        self.hub.update_trail()
        self.refresh_bindings()

    # rows

    def columns(self) -> list[Column]:
        return compare_columns(self._topic, self._runs, self.glyphs)

    def reorder(self) -> None:
        found = self._found
        if self._reading or found is None:
            self.changed()
        else:
            arrange = self.rows.arranger()
            sort = lambda: Compared(found, arrange(found))  # noqa: E731
            self.load("compared", sort, self._show, self._failed, busy="sorting")

    def _to_make(self) -> tuple[str, ...]:
        """The runs for which the analysis can be computed."""
        return tuple(one.run for one in self._found.runs if one.can_be_made) if self._found is not None else ()

    def _failed(self, line: str) -> None:
        self.say_failed(line)
        self._reading = False

    # the lines above

    def on_resize(self) -> None:
        self.draw_about()

    def draw_about(self) -> None:
        g, wide = self.glyphs, self.size.width >= 120
        tabs: list[list[Cell | str]] = []
        for i, topic in enumerate(TOPICS):
            here = topic is self._topic
            name = f"[{topic.name}]" if here else topic.name
            tabs.append([Cell(f"{i + 1} ", "bold"), Cell(name, "accent" if here else "dim")])
        about = self.query_one("#about", TextBlock)
        rows = cells.flowed(tabs, "  " if wide else " ", max(1, self.size.width - about.gutter.width))
        if self._found is not None and self._found.topic is self._topic:
            there: list[Cell | str] = []
            for one in self._found.runs:
                if one.rows:
                    between = g.dot.center(3) if there else ""
                    there += [between, Cell(one.sign, "bold"), Cell(f" {one.run} {one.site}: {one.said}")]
            runs_without_result: list[Cell | str] = []
            for one in self._found.runs:
                if one.lacks:
                    why = "could not be computed" if one.run in self.queue.problems else one.lacks
                    runs_without_result.append(Cell(f"{'; ' if runs_without_result else ''}{one.run}: {why}", "warn"))
            if self._to_make() and not self.queue.under_way:
                runs_without_result += [Cell("  r", "bold"), " computes it"]
            filtered = [Cell(f"  {self.rows.said}", "accent")] if self.rows.said else []
            rows += [row for row in ([*there, *filtered], runs_without_result) if row]
        state, (run, analysis) = self.queue.runner.state, self.queue.runner.key
        if state is not None:
            said = Cell("cancelling" if state.cancelled else state.line or "starting")
            since = duration(state.seconds, g)
            rows.append(
                [
                    Cell(f"{analysis} of {run}, {since}: ", "dim"),
                    said,
                    Cell("  x", "bold"),
                    " cancels",
                ]
            )
        about.put(cells.lines(rows))

    # the drawing

    @property
    def _measure(self) -> Measure:
        return self._topic.measures[self._drawings.get(self._topic.name, 0)]

    def on_chart_box_resized(self) -> None:
        self._draw_chart()

    def on_paged_table_moved(self) -> None:
        self._draw_chart()

    def _draw_chart(self) -> None:
        size = self.query_one("#chart").content_size
        if self._found is not None and self._found.rows and size.width > 0:
            row: LayerRow | None = self.table.current
            plain = self.glyphs.plain
            chart = partial(_chart, self._found, self._measure, row, size.width, size.height, plain)
            self.load("chart", chart, self._put_chart)

    def _put_chart(self, chart: tuple[str, tuple[Cell, ...]]) -> None:
        self.query_one("#chart", ChartBox).put_drawing(*chart, self.glyphs)

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "make":
            return bool(self._to_make())
        if action == "cancel":
            return self.queue.runner.state is not None
        if action == "diff":
            return len(self._runs) == 2
        return action not in ACTIONS or self.rows.sortable

    def job_news(self, state: JobState) -> None:
        self.draw_about()

    def cancel_work(self) -> bool:
        return self.queue.runner.cancel() or super().cancel_work()

    def action_cancel(self) -> None:
        self.queue.runner.cancel()

    def action_make(self) -> None:
        topic, engine, sessions = self._topic, self.hub.engine, self.hub.sessions
        runs = [(name, sessions[name]) for name in self._to_make() if name in sessions]
        self.queue.make(
            topic.analysis,
            tuple((run, partial(_start, engine, session, topic, self._site)) for run, session in runs),
        )

    def action_topic(self, place: int) -> None:
        if TOPICS[place] is not self._topic:
            self._topic, self._found = TOPICS[place], None
            self.queue.problems, self.rows.shown = frozenset(), None
            self.rows.reset()
            self.changed()

    def action_diff(self) -> None:
        self.hub.into(place("diff", *self._runs, self._site))

    def action_drawing(self) -> None:
        place = self._drawings.get(self._topic.name, 0)
        self._drawings[self._topic.name] = (place + 1) % len(self._topic.measures)
        self._draw_chart()

    def action_site(self) -> None:
        common = sites_in_common(self.hub, self._runs)
        defaults = {s.default_site for name, s in self.hub.sessions.items() if name in self._runs}
        order: list[str | None] = [None, *common] if len(defaults) > 1 else [*common]
        if len(order) < 2:
            self.hub.say("the runs have no other site in common", "dim")
            return
        here = order.index(self._site) if self._site in order else 0
        self._site = order[(here + 1) % len(order)]
        self.hub.say(f"read at {self._site}" if self._site else "each at its default site", "dim")
        self.changed()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        row: LayerRow = message.row
        session = self.hub.sessions.get(row.run)
        if session is None:
            self.hub.say(f"{row.run} is no longer open", "warn")
            self.changed()
        else:
            self.hub.into(place("neurons", session, row.site, layer=row.layer), row.run)

    def action_copy(self) -> None:
        if self._found is None:
            return
        keys = ("depth", "run", "layer", "neurons", *(measure.key for measure in self._topic.measures))
        rows = [[figure_of(row, key) for key in keys] for row in self.rows.current]
        self.hub.copy("\n".join("\t".join("" if x is None else str(x) for x in row) for row in [list(keys), *rows]))

    def export(self) -> Export | None:
        return json_export(f"compare-{self._topic.name}.json", self._found, self.rows.not_told)


def _start(engine: Engine, session: Session, topic: Topic, site: str | None) -> Job:
    """In a worker: start the command that computes what a run lacks."""
    where = site or session.default_site
    return engine.start(make_command(topic.analysis, session, engine.store, where, choices=topic.options))


def _compare(
    sessions: dict[str, Session | None], topic: Topic, site: str | None, arrange: Callable[[Comparison], Arranged]
) -> Compared:
    """In a worker."""
    found = Comparison(
        topic,
        tuple(
            of_run(session, sign, topic, site) if session is not None else OfRun(name, sign, lacks="cannot be opened")
            for (name, session), sign in zip(sessions.items(), SIGNS, strict=False)
        ),
    )
    return Compared(found, arrange(found))


def _chart(
    found: Comparison, measure: Measure, row: LayerRow | None, width: int, height: int, plain: bool
) -> tuple[str, tuple[Cell, ...]]:
    """In a worker: the caption and the drawing. The run of the row under the cursor is drawn over the others."""
    from nfinspect.tui.widgets.plots import overlay

    def places(one: OfRun) -> tuple[tuple[float, float], ...]:
        pairs = ((layer.depth, layer.figures[measure.key]) for layer in one.rows)
        return tuple((depth, value) for depth, value in pairs if value is not None)

    runs = sorted(found.runs, key=lambda one: row is not None and one.run == row.run)
    here = row.figures.get(measure.key) if row is not None else None
    drawn = overlay(
        tuple((one.sign, places(one)) for one in runs if places(one)),
        (row.depth, here) if row is not None and here is not None else None,
        width,
        height - 1,
        plain,
        measure.unit == "count",
    )
    return f"{measure.meaning}; X: row", drawn
