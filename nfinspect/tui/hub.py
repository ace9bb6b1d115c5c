"""What panes, and the lines around them, ask of the app."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from textual.binding import Binding
    from textual.screen import Screen
    from textual.timer import Timer

    from nfinspect.backend.protocol import JobState
    from nfinspect.tui.captures import JobAt
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.glyphs import Glyphs
    from nfinspect.tui.jobs import JobBoard
    from nfinspect.tui.journal import Journal
    from nfinspect.tui.lab import Setup
    from nfinspect.tui.marks import MarkKeeper
    from nfinspect.tui.places import Place
    from nfinspect.tui.requests import Completer, TraceRequest
    from nfinspect.tui.session import Session
    from nfinspect_store.statements import Statement
    from nfinspect_store.types import RunEntry


class Hub(Protocol):
    """The app as its parts know it."""

    engine: Engine
    glyphs: Glyphs
    board: JobBoard
    sessions: dict[str, Session]
    marks: MarkKeeper
    journal: Journal
    traced: dict[str, TraceRequest]
    listed: Sequence[RunEntry]
    aliases: Mapping[str, str]
    typed_capture: dict[str, str]
    labs: dict[str, Setup]

    @property
    def pane(self) -> Any: ...
    @property
    def screen(self) -> Screen[Any]: ...

    # what there is to say, and to ask
    def say(self, text: str, tone: str = "", *, keep: bool = False, of: object = None) -> None: ...
    def over(self, work: object) -> None: ...
    def busy(self, pane: Any, work: Any) -> None: ...
    def done(self, pane: Any, work: Any) -> None: ...
    def ask(
        self,
        pane: Any,
        kind: str,
        sign: str,
        then: Callable[[str], None],
        text: str = "",
        select: str = "",
        completer: Completer | None = None,
    ) -> None: ...
    def copy(self, text: str) -> None: ...
    def note(self, pane: Any, statements: Sequence[Statement] = ()) -> None: ...

    # where to go
    def into(self, place: Place, run: str | None = None) -> None: ...
    def step_in(self, place: Place) -> None: ...
    def beside(self, place: Place, run: str | None = None) -> None: ...
    def jump(self, place: Place, session: Session) -> None: ...
    def to_runs(self) -> None: ...
    def to_layers(self, session: Session) -> None: ...
    def update_trail(self) -> None: ...
    def action_leave(self) -> None: ...
    async def action_out(self) -> None: ...

    # runs
    def open_run(self, name: str) -> None: ...
    def follow(self, run: str = "", at: JobAt | None = None, job: JobState | None = None) -> None: ...
    def opened(self, session: Session, *, show: bool = True) -> None: ...
    def forget_run(self, name: str) -> None: ...
    def release_unfinished(self) -> None: ...
    def session_here(self) -> Session | None: ...

    # of Textual
    def get_key_display(self, binding: Binding) -> str: ...
    def set_interval(self, interval: float, callback: Callable[[], Any]) -> Timer: ...
