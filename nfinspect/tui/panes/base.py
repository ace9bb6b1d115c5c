"""What all panes share, above all the one threading rule.

`Pane.load(what, call)` runs `call` in an exclusive thread worker of group `what`; the worker only posts a
frozen `Loaded` or `Failed`; the pane's handler `show_<what>` owns the state. An answer to a question that
is no longer asked is dropped by its ticket. Nothing here, and nothing in a pane, waits for a thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget

from nfinspect.tui.engine import Session
from nfinspect.tui.glyphs import Glyphs

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub


CANCELLED = "cancelled"

OPENING = "opened_or_live"
"""The work of a pane in which a run was asked for: see `show_opened_or_live`."""

LEAVES_SOMETHING = ("exported", "start", "started", "deleted")
"""Pieces of work that leave something behind: files, processes."""


@dataclass
class Loaded(Message, bubble=False):
    """A worker's answer."""

    what: str
    ticket: int
    value: Any


@dataclass
class Failed(Message, bubble=False):
    """A worker's error, as one line."""

    what: str
    ticket: int
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
    """The keys of a table that is filtered and sorted. group: of their names in a keymap; before: the name of `,`."""
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
    """A place in the app. `crumb` is its name in the breadcrumbs, `hint` what stands at their right end."""

    DEFAULT_CSS = """
    Pane { height: 1fr; width: 1fr; layout: vertical; }
    Pane .panel { height: 1fr; }
    Pane.-zoom .-beside { display: none !important; }
    Pane.-zoom .-zoomed { height: 1fr !important; width: 1fr !important; max-width: 100% !important; }
    """

    SHORT: ClassVar[int] = 18
    """Lines below which a pane is `-short`: what stands beside its table gets lower, so that rows stay in sight."""

    SHORTER: ClassVar[int] = 16
    """Lines below which a pane is `-shorter`, too: then it goes."""

    help_text: str = ""
    """What this pane shows and how its figures are meant, for the help screen."""

    first_focus: ClassVar[str] = "*"
    """Which widget has the keys when the pane first comes on screen; later the one that had them when it left."""

    last_focus: Widget | None = None

    def __init__(self, crumb: str, session: Session | None = None) -> None:
        super().__init__()
        self.crumb = crumb
        self._session = session
        self._tickets: Counter[str] = Counter()

    @property
    def hub(self) -> Hub:
        return cast("Hub", self.app)

    @property
    def session(self) -> Session:
        assert self._session is not None, "this pane belongs to no run"
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

    def on_resize(self) -> None:
        """Called beside the subclasses' own."""
        self.set_class(self.size.height < self.SHORT, "-short")
        self.set_class(self.size.height < self.SHORTER, "-shorter")

    def entered(self) -> None:
        """The pane has come on screen."""

    def left(self) -> None:
        """The pane has gone off screen; it may come back."""

    # work

    def cancel_work(self) -> bool:
        """Cancel what this place is working on, as ctrl+c asks for. Whether there was anything."""
        if not (under_way := self.hub.work_of(self)):
            return False
        if self._session is not None:
            self._session.interrupt()
        for what in under_way:
            if what not in LEAVES_SOMETHING:  # of the others the worker itself tells how they ended
                self.on_failed(Failed(what, self._tickets[what], CANCELLED))
                self._tickets[what] += 1  # an answer that comes all the same is to a question that is no longer asked
        return True

    def load(self, what: str, call: Callable[[], Any], *, busy: str = "") -> None:
        """Answer `what` in a worker; `show_<what>` gets the value. `busy` is shown if it takes a while."""
        self._tickets[what] += 1
        ticket = self._tickets[what]

        def work() -> None:
            try:
                value = call()
            except Exception as error:  # whatever a worker meets ends as one line, never as a dead app
                self.post_message(Failed(what, ticket, one_line(error)))
            else:
                self.post_message(Loaded(what, ticket, value))

        if busy:
            self.hub.busy(self, what, busy)
        self.run_worker(work, name=what, group=what, exclusive=True, thread=True, exit_on_error=False)

    def on_loaded(self, message: Loaded) -> None:
        if message.ticket != self._tickets[message.what]:
            if message.what == OPENING and message.value[1] is not None:
                message.value[1].close()
            return
        self.hub.done(self, message.what)
        getattr(self, f"show_{message.what}")(message.value)

    def on_failed(self, message: Failed) -> None:
        if message.ticket != self._tickets[message.what]:
            return
        self.hub.done(self, message.what)
        self.failed(message.what, message.line)

    def failed(self, what: str, line: str) -> None:
        """A piece of work ended in an error."""
        self.hub.say(line, "bad")

    def show_opened_or_live(self, answer: tuple[str, Session | None]) -> None:
        """A run that was asked for here is open, or being captured."""
        name, session = answer
        if session is not None:
            self.show_opened(session)
        elif self.hub.pane is self:
            self.hub.follow(name)

    def show_opened(self, session: Session) -> None:
        """A run that was asked for here is open. Whoever has gone elsewhere meanwhile stays there."""
        self.hub.opened(session, show=self.hub.pane is self)

    # zoom

    def action_zoom(self) -> None:
        """The focused panel alone, or all panels again: what stands beside it, at every level, is hidden."""
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
