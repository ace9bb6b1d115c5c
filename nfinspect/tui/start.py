"""The app as a process: from the command to an exit status, whatever ends it."""

from __future__ import annotations

import gc
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.tui.app import NfinspectApp
    from nfinspect.tui.engine import Engine


def run_app(
    store: Path,
    run: str | None = None,
    *,
    ascii: bool = False,  # noqa: A002 (named like the option)
    mouse: bool = True,
) -> int:
    """Open the app on a store, and on one of its runs if `run` is given. Returns the exit status.

    An unexpected error ends the app, and is raised here once the terminal is restored. DuckDB (0.1-0.2 s to import) is
    imported by the first worker, after the first paint.
    """
    gc.disable()  # until the first paint: what is imported stays, and looking through it takes a tenth of the time
    from nfinspect.tui.app import NfinspectApp
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.hangup import watch_terminal

    engine = Engine(Path(store))
    app = NfinspectApp(engine, run, plain=ascii)
    stop_watching = None
    if sys.__stdin__ is not None and sys.__stdin__.isatty():
        stop_watching = watch_terminal(sys.__stdin__.fileno(), partial(_hang_up, app), partial(_farewell, app, engine))
    try:
        status = app.run(mouse=mouse)
    finally:
        gc.enable()
        if stop_watching is not None:
            stop_watching()
        engine.close()
    if app._exception is not None:
        raise app._exception
    return app.return_code or status or 0


def _farewell(app: NfinspectApp, engine: Engine) -> None:
    app.close_runs()
    engine.end_jobs()


def _hang_up(app: NfinspectApp, status: int) -> None:
    """Called from a signal handler: the exit has to happen on the loop."""
    if app.loop is not None:
        app.loop.call_soon_threadsafe(partial(app.exit, status))
