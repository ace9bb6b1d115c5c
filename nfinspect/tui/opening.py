"""Opening a run: in a worker, while the place in which it was asked for stays on screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.tui.panes.base import OPENING
from nfinspect_store.errors import NfinspectError

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.session import Session


def open_run(app: Hub, name: str) -> None:
    """Open a run and go to its layers; or to its progress while it is captured by a process that lets nobody read it,
    or nothing is committed yet.
    """
    if (session := app.sessions.get(name)) is not None:
        app.opened(session)
        return
    pane, engine = app.pane, app.engine

    def opened() -> Session | None:
        try:
            return engine.open(name)
        except NfinspectError:
            progress = engine.progress(name)
            if progress is not None and progress.alive:
                return None
            raise

    def show(session: Session | None) -> None:
        if session is not None:
            app.opened(session, show=app.pane is pane)  # a user who has gone elsewhere stays there
        elif app.pane is pane:
            app.follow(name)

    def close(session: Session | None) -> None:
        if session is not None:
            session.close()

    pane.load(OPENING, opened, show, busy=f"opening {name}", unwanted=close)
