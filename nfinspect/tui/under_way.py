"""Following a run that is being written: what the status line says of it, and when panes read it again.

Twice a second, while a pane of such a run is on screen, a worker asks how far it is. Layers, lists, neurons
and traces are read again when there is a new commit, other panes when they come on screen. When the capture has ended
the session reads the file, and every pane of it is read again where it is.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from nfinspect.tui.columns.live import RESUME, standing_line

if TYPE_CHECKING:
    from textual.timer import Timer

    from nfinspect.tui.cells import Cell
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.glyphs import Glyphs
    from nfinspect.tui.panes.base import Pane
    from nfinspect.tui.requests import Standing
    from nfinspect.tui.session import Session

SECONDS = 0.5
"""Between two looks: shorter ones would be felt on a slow link."""


READ_SECONDS = 0.9
"""Between two readings of what is on screen, so that a slow link is not filled: with SECONDS and the reading itself it
is less than 2 s behind a commit (docs/decisions/0015).
"""


class Screenside(Protocol):
    """What following needs of the app."""

    engine: Engine
    glyphs: Glyphs

    @property
    def pane(self) -> Any: ...
    @property
    def screen_stack(self) -> list[Any]: ...
    def say(self, text: str, tone: str = "", *, keep: bool = False) -> None: ...
    def stand(self, cell: Cell | None) -> None: ...
    def set_interval(self, interval: float, callback: Any) -> Timer: ...


class Follower:
    """Held by the app; all of it is called on the app's loop."""

    def __init__(self, app: Screenside) -> None:
        self._app = app
        self._timer: Timer | None = None
        self._told: dict[Session, Standing] = {}
        self._read_at = 0.0

    def entered(self, pane: Pane, *, new: bool) -> None:
        """A pane has come on screen; a new one is reading its run already."""
        session = pane.session_or_none
        if session is None or (not session.under_way and pane.commits_read is None):
            self._stop()
            return
        if not new and pane.commits_read != session.commits:
            pane.read_again()
        pane.commits_read = session.commits
        if session.under_way:
            self._stand(self._told.get(session))
            if self._timer is None:
                self._timer = self._app.set_interval(SECONDS, self.look)
            self.look()
        else:
            self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self._app.stand(None)

    def look(self) -> None:
        pane = self._app.pane
        session = pane.session_or_none
        if session is None or not pane.is_attached or len(self._app.screen_stack) > 1:
            return
        if any(work.group == "standing" for work in pane.asked):  # a slow answer is waited for
            return
        look = partial(_look, self._app.engine, session)
        pane.load("standing", look, partial(self._show, pane, session), lambda line: None)

    def _show(self, pane: Pane, session: Session, standing: Standing) -> None:
        self._told[session] = standing
        if pane is not self._app.pane:
            return
        now, ended = time.monotonic(), standing.commits is None
        reading = any(work.group != "standing" for work in pane.asked)  # begun again and again it would never end
        due = ended or (pane.follows and not reading and now - self._read_at >= READ_SECONDS)
        if due and pane.commits_read != standing.commits:
            pane.commits_read, self._read_at = standing.commits, now
            pane.read_again()
        if standing.commits is None:
            self._ended(session)
        else:
            self._stand(standing)

    def _ended(self, session: Session) -> None:
        self._told.pop(session, None)
        self._stop()
        if session.info.status == "complete":
            self._app.say(f"the capture of {session.name} has ended: this is all of it", "good")
        else:
            told = ":live shows it, and r resumes it" if self._app.engine.captures.knows(session.name) else RESUME
            self._app.say(f"the capture of {session.name} is {session.info.status}: {told}", "warn", keep=True)

    def _stand(self, standing: Standing | None) -> None:
        self._app.stand(None if standing is None else standing_line(standing, self._app.glyphs))


def _look(engine: Engine, session: Session) -> Standing:
    """In a worker. The job is remembered: should its backend be killed, it can be resumed."""
    if not engine.captures.knows(session.name):
        engine.captures.of_run(session.name)
    return session.look()
