"""The engine on a real store, imported by the first worker that needs it:

the frame is on screen before DuckDB is.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.tui.engine import Session
    from nfinspect_store.catalog import RunEntry
    from nfinspect_store.types import Progress


class LateEngine:
    """An `Engine`. Listing runs needs no DuckDB where the catalog's cache knows them all."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._open: list[Session] = []

    def runs(self) -> tuple[RunEntry, ...]:
        from nfinspect_store.catalog import list_runs

        return tuple(list_runs(self.store))

    def open(self, run: str) -> Session:
        from nfinspect_store.catalog import run_path

        with self._lock:  # two first imports at once would wait for each other's half-made modules
            from nfinspect.tui.session import RunSession
        session = RunSession.open(run_path(self.store, run))
        self._open.append(session)
        return session

    def progress(self, run: str) -> Progress | None:
        """How far the capture of `run` is; None when nothing is being captured under that name."""
        from nfinspect_store.catalog import RUN_SUFFIX
        from nfinspect_store.heartbeat import read_heartbeat

        return read_heartbeat(self.store / (run + RUN_SUFFIX))

    def delete(self, run: str) -> None:
        from nfinspect_store.catalog import delete_run, run_path

        delete_run(run_path(self.store, run), force=True)

    def close(self) -> None:
        for session in self._open:
            session.interrupt()
            session.close()
        self._open.clear()
