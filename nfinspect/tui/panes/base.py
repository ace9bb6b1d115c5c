"""What all panes share, above all the one threading rule.

`Pane.load(group, work, then)` runs `work` in an exclusive thread worker; `work` gets what it needs as arguments (frozen
values), never from the pane, which may change meanwhile. The worker only posts a frozen `Loaded` or `Failed`; `then`,
called on the app's loop, owns the state. An answer that is no longer asked for is dropped. Nothing here, and nothing in
a pane, waits for a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from textual.binding import Binding
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.widgets.paged_table import PAGE, PagedTable
from nfinspect_store.paths import expanded

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.requests import JobState
    from nfinspect.tui.session import Session
    from nfinspect.tui.sheets import Sheet
    from nfinspect_store.statements import Statement

Answer = TypeVar("Answer")

CANCELLED = "cancelled"

LOG = "log"
"""The name and the crumb of the pane of the log."""

OPENING = "opening"
"""The group of the work that opens a run, in the pane in which it was asked for."""


@dataclass(frozen=True, eq=False)
class Work(Generic[Answer]):
    """What was asked of a worker. In each group only the last request counts.

    busy: what is said if it takes a while. lasting: it leaves something behind (a file, a process), so that it is not
    given up without a question. unwanted: gets an answer that is no longer asked for.
    """

    group: str
    then: Callable[[Answer], None]
    failed: Callable[[str], None]
    busy: str = ""
    lasting: bool = False
    unwanted: Callable[[Answer], None] | None = None


@dataclass
class Loaded(Message, bubble=False):
    """A worker's answer."""

    work: Work[Any]
    value: Any
    statements: Sequence[Statement] = ()


@dataclass
class Failed(Message, bubble=False):
    """A worker's error, as one line."""

    work: Work[Any]
    line: str


def one_line(error: BaseException) -> str:
    """An error as the app shows it.

    Ours say what to do; anything else is named, so that it can be reported.
    """
    from nfinspect_store.errors import NfinspectError

    text = " ".join(str(error).split())
    if isinstance(error, NfinspectError):
        return text
    return f"unexpected {type(error).__name__}: {text}" if text else f"unexpected {type(error).__name__}"


def arranging_keys(group: str, *, before: str) -> tuple[Binding, ...]:
    """The keys of a table that is filtered and sorted. Their ids are `group.filter` and so on, that of `,` is
    `group.before`.
    """
    return (
        Binding("slash", "filter", "Filter", key_display="/", id=f"{group}.filter"),
        Binding("s", "sort", "Sort", id=f"{group}.sort"),
        Binding(
            "full_stop", "sort_step(1)", "Sort by the next column", key_display=".", show=False, id=f"{group}.sort_next"
        ),
        Binding(
            "comma", "sort_step(-1)", "Sort by the column before", key_display=",", show=False, id=f"{group}.{before}"
        ),
        Binding("I", "invert", "Invert the order", show=False, id=f"{group}.invert"),
    )


class Pane(Widget):
    """A place in the app. `crumb` is its name in the breadcrumbs, `hint` the text at their right end."""

    DEFAULT_CSS = """
    Pane { height: 1fr; width: 1fr; layout: vertical; }
    Pane .panel { height: 1fr; }
    Pane.-roomy Preview { display: block; }
    Pane.-zoom .-beside { display: none !important; }
    Pane.-zoom .-zoomed { height: 1fr !important; width: 1fr !important; max-width: 100% !important; }
    """

    SHORT: ClassVar[int] = 18
    """Lines below which a pane is `-short`: all but its table gets lower, so that rows stay in sight."""

    SHORTER: ClassVar[int] = 16
    """Lines below which a pane is `-shorter`, too: what can be spared is hidden."""

    ROOMY: ClassVar[int] = 27
    """Lines from which a pane is `-roomy`: below a list there is room for what the row under the cursor is about."""

    TALL: ClassVar[int] = 34
    """Lines from which a pane is `-tall`: there is room for more than the table."""

    help_text: str = ""
    """What this pane shows and what its figures mean, for the help screen."""

    first_focus: ClassVar[str] = "*"
    """Which widget has the keys when the pane first comes on screen; later the one that had them when it left."""

    option_keys: ClassVar[Mapping[str, str]] = {}
    """Options of the command that this place answers for, and the actions that do the same here."""

    idle: ClassVar[Mapping[str, str]] = {}
    """Why an action cannot be done, if it cannot."""

    last_focus: Widget | None = None

    follows: ClassVar[bool] = False
    """Whether it is read again with every commit of a run under way, not only when it comes on screen."""

    commits_read: int | None = None
    """How many commits of a run under way this pane has seen; None for a file."""

    job_key: tuple[str, str] | None = None
    """The run and the analysis of the command that this place shows."""

    def __init__(self, crumb: str, session: Session | None = None) -> None:
        super().__init__()
        self.crumb = crumb
        self._session = session
        self._asked: dict[str, Work[Any]] = {}
        self._may_replace: str | None = None
        self.pages_under_way: dict[str, int] = {}
        self._timer: Timer | None = None
        self._seconds = 0.0

    @property
    def hub(self) -> Hub:
        return cast("Hub", self.app)

    @property
    def session(self) -> Session:
        assert self._session is not None, "this pane belongs to no run"
        return self._session

    @property
    def session_or_none(self) -> Session | None:
        return self._session

    @property
    def run_name(self) -> str | None:
        return self._session.name if self._session is not None else None

    @property
    def glyphs(self) -> Glyphs:
        return self.hub.glyphs

    @property
    def hint(self) -> str:
        return ""

    @property
    def signed_hint(self) -> str:
        """The hint, after the sign that panels are hidden."""
        return f" {self.glyphs.dot} ".join(filter(None, ("zoomed (z)" if self.has_class("-zoom") else "", self.hint)))

    def sheet(self) -> Sheet | None:
        """The table of this place, for the sheets of its columns; None without one. That of the table with the keys,
        as it is drawn, where a pane does not say more.
        """
        from nfinspect.tui.sheets import drawn

        here = next((table for table in self.query(PagedTable) if table.has_focus), None)
        table = here or next((table for table in self.query(PagedTable) if table.display), None)
        rows = None if table is None else table.every_row
        return None if table is None or rows is None else drawn(self.crumb, table.columns, rows, self.glyphs)

    def by_keys(self, text: str) -> str:
        """A line that speaks of options, with the keys that do the same here."""
        for option, action in self.option_keys.items():
            if option in text:
                held = (one.binding for one in self.screen.active_bindings.values() if one.node is self)
                keys = (self.app.get_key_display(binding) for binding in held if binding.action == action)
                text = text.replace(option, next(keys, option))
        return text

    @property
    def set_names(self) -> Sequence[str]:
        """The sets of neurons that a filter may name here."""
        return ()

    def members_of(self, text: str) -> Collection[tuple[int, int]]:
        """The neurons of a set `@name` at the site of this place. Raises RequestError for one that is not there."""
        from nfinspect_store.errors import RequestError

        raise RequestError(f"no set {text}: these rows are of no run")

    @property
    def equivalent(self) -> tuple[str, ...]:
        """The arguments of the `nfinspect` command that answers what this place shows; empty if there is none."""
        return ()

    def why_idle(self, action: str) -> str:
        """Why a key's action cannot be done now; empty if there is no more to say than that."""
        if action == "choose":
            return "there is no row to open"
        arranges = action in ("filter", "sort", "sort_step", "invert")
        return self.idle.get(action, "there are no rows to filter or sort" if arranges else "")

    def key(self, action: str) -> str:
        """The key of one of this place's actions, as the user has bound it."""
        bound = next(one for one in type(self).BINDINGS if isinstance(one, Binding) and one.action == action)
        if own := self.app._keymap.get(bound.id or ""):
            bound = replace(bound, key=own.partition(",")[0].strip(), key_display=None)
        return self.app.get_key_display(bound)

    @property
    def table(self) -> PagedTable:
        return self.query_one(PagedTable)

    def on_resize(self) -> None:
        """Called in addition to a subclass' own."""
        self.set_height(self.size.height)

    def set_height(self, lines: int) -> None:
        """Before the first layout, too: styling and laying out a pane twice takes as long as its answers do."""
        self.set_class(lines < self.SHORT, "-short", update=self.is_attached)
        self.set_class(lines < self.SHORTER, "-shorter", update=self.is_attached)
        self.set_class(lines >= self.ROOMY, "-roomy", update=self.is_attached)
        self.set_class(lines >= self.TALL, "-tall", update=self.is_attached)

    def entered(self) -> None:
        """The pane has come on screen."""

    def read_again(self) -> None:
        """Its run has changed: read what is shown again, and leave the cursor where it is."""

    def marks_changed(self) -> None:
        """What is marked, noted or in a set has changed, here or in another process."""
        for table in self.query(PagedTable):
            table.refresh()

    def left(self) -> None:
        """The pane has gone off screen; it may come back. Its drawn lines, which are drawn again then, are most of what
        a full collection of garbage would look through.
        """
        self._stop_looking()
        for widget in self.walk_children(Widget):
            widget._styles_cache.clear()

    def job_news(self, state: JobState) -> None:
        """From the board, twice a second while the command of `job_key` runs, and once when it has ended."""

    def other_job_ended(self) -> None:
        """From the board: a command of another place has ended."""

    def look_every(self, seconds: float, look: Callable[[], None]) -> None:
        """Look at something again and again, until the pane is left or another interval is asked for."""
        if seconds != self._seconds:
            self._stop_looking()
            self._seconds, self._timer = seconds, self.set_interval(seconds, look)

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._seconds, self._timer = 0.0, None

    def pick(
        self, title: str, options: Sequence[str], here: str | None, then: Callable[[str], None], *, width: int = 44
    ) -> None:
        """Let the user choose one of several words; `then` gets it, if one is chosen."""
        from nfinspect.tui.dialogs import Picker

        def chosen(option: str | None) -> None:
            if option is not None:
                then(option)

        self.app.push_screen(Picker(title, options, self.glyphs, here, width=width), chosen)

    # work

    @property
    def asked(self) -> Collection[Work[Any]]:
        """All the work of this place that is under way."""
        return self._asked.values()

    @property
    def busy_with(self) -> list[Work[Any]]:
        """The work of this place that is announced in the status line."""
        return [work for work in self._asked.values() if work.busy]

    def cancel_work(self) -> bool:
        """Cancel what this place is working on, as ctrl+c asks. Returns whether there was anything."""
        if not (busy := self.busy_with):
            return False
        if self._session is not None:
            self._session.interrupt()
        for work in busy:
            if not work.lasting:  # of the others the worker itself says how they ended
                self.on_failed(Failed(work, CANCELLED))
        return True

    def load(
        self,
        group: str,
        work: Callable[[], Answer],
        then: Callable[[Answer], None],
        failed: Callable[[str], None] | None = None,
        *,
        busy: str = "",
        lasting: bool = False,
        unwanted: Callable[[Answer], None] | None = None,
    ) -> None:
        """Have a worker do `work`, and call `then` with its answer, or `failed` with an error as one line (by default
        the status line shows it).

        If the group is asked again before that, only the last answer counts. busy, lasting, unwanted: see Work.
        """
        asked = self._asked[group] = Work(group, then, failed or self.say_failed, busy, lasting, unwanted)

        def answer() -> None:
            try:
                value, statements = self._heard(work)
            except Exception as error:  # whatever a worker raises becomes a line, and never ends the app
                self.post_message(Failed(asked, one_line(error)))
            else:
                self.post_message(Loaded(asked, value, statements))

        if busy:
            self.hub.busy(self, asked)
        self.run_worker(answer, name=group, group=group, exclusive=True, thread=True, exit_on_error=False)

    def _heard(self, work: Callable[[], Answer]) -> tuple[Answer, Sequence[Statement]]:
        """In a worker: what `work` gives, and the statements that it asked of a run."""
        if self._session is None:
            return work(), ()
        from nfinspect_store.statements import heard

        with heard() as statements:
            return work(), statements

    def load_page(
        self,
        offset: int,
        work: Callable[[], Answer],
        then: Callable[[Answer], None],
        failed: Callable[[str], None],
        *,
        busy: str = "",
    ) -> None:
        """Load a page of the table. The page on screen and the one ahead are in two groups, so that both are loaded."""
        group = f"page {offset // PAGE % 2}"
        if (pushed_out := self.pages_under_way.get(group)) is not None and pushed_out != offset:
            self.table.lost(pushed_out)
        self.pages_under_way[group] = offset
        self.load(group, work, then, failed, busy=busy)

    def on_loaded(self, message: Loaded) -> None:
        work = message.work
        if self._done(work):
            work.then(message.value)
            self.hub.note(self, message.statements)
            self.hub.answered(self)
        elif work.unwanted is not None:
            work.unwanted(message.value)

    def on_failed(self, message: Failed) -> None:
        if self._done(message.work):
            message.work.failed(message.line)
            self.hub.answered(self)

    def _done(self, work: Work[Any]) -> bool:
        """Whether its answer is still asked for."""
        if self._asked.get(work.group) is not work:
            return False
        del self._asked[work.group]
        self.hub.done(self, work)
        return True

    def say_failed(self, line: str) -> None:
        """A piece of work ended in an error."""
        self.hub.say(line, "bad")

    # files

    def export(self) -> Export | None:
        """What this place shows, as a file; None if there is nothing."""
        return None

    def action_export(self) -> None:
        if (export := self.export()) is None:
            self.hub.say("there is nothing to export yet", "warn")
        else:
            self.hub.ask(self, "export", "export to", self._export_to, self._may_replace or _file_name(export))

    def _export_to(self, name: str) -> None:
        """Nothing is replaced unasked. Into a directory it goes under the name that was offered."""
        export = self.export()
        if not name or export is None:
            return
        if os.path.isdir(expanded(name)):
            name = os.path.join(name, _file_name(export))
        if not os.path.isdir(expanded(name).parent) or name.endswith("/"):
            self.hub.say(f"cannot write {name}: there is no such directory, make it first", "bad")
            return
        if name != self._may_replace and os.path.exists(expanded(name)):
            self._may_replace = name
            self.hub.say(f"{name} is there already: e and the same name again replaces it", "warn")
            return
        self._may_replace = None
        self.load("export", partial(export.write, name), self.exported, busy="exporting", lasting=True)

    def exported(self, line: str) -> None:
        self.hub.say(line, "good")

    # zoom

    def action_zoom(self) -> None:
        """Show the focused panel alone (its siblings, at every level, are hidden), or all panels again."""
        self._zoom()
        self.hub.update_trail()

    def _zoom(self) -> None:
        zoomed = self.has_class("-zoom")
        self.set_class(not zoomed, "-zoom")
        for widget in self.query(".-zoomed, .-beside"):
            widget.remove_class("-zoomed", "-beside")
        focused = self.screen.focused
        if zoomed or focused is None or self not in focused.ancestors:
            self.remove_class("-zoom")
            return
        for node in focused.ancestors_with_self:
            if node is self:
                break
            node.add_class("-zoomed")
            if node.parent is not None:
                for sibling in node.parent.children:
                    sibling.set_class(sibling is not node, "-beside")


def _file_name(export: Export) -> str:
    """The name that is offered, without what a shell would make something else of."""
    return re.sub(r"[^\w.-]+", "-", export.name)
