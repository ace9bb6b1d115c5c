"""Opening a run, in a worker, while the place in which it was asked for stays on screen; going where a line says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.tui.panes.base import OPENING, one_line
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

    writer = next((one.progress for one in app.listed if one.name == name), None)
    asked = f": asking process {writer.pid}, which captures it" if writer is not None else ""
    pane.load(OPENING, opened, show, busy=f"opening {name}{asked}", unwanted=close)


def go_to_typed(app: Hub, text: str) -> None:
    """Go where a line typed after `:` says, an own word of the user or a place."""
    from nfinspect.tui.aliases import expanded_alias
    from nfinspect.tui.navigate import go_to

    try:
        go_to(app, expanded_alias(text, app.aliases))
    except Exception as error:  # whatever a mistyped address raises is a line
        app.say(one_line(error), "bad")
