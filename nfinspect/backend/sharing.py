"""A run that is being written, read by others through cursors of the writer's own instance.

DuckDB lets no other process read a file that one writes, and a second handle in this process would release the writer's
lock when closed (heartbeat.py). A cursor of the writer's instance sees what is committed. Each reader has a snapshot: a
read-only transaction, in which DuckDB refuses whatever would change the run.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from nfinspect.backend.protocol import RunEnded
from nfinspect_store.connect import CATALOG
from nfinspect_store.errors import RunNotFound
from nfinspect_store.writer import RunWriter

PATIENCE = 2.0
"""Seconds that a snapshot has to end before its client is cut off."""


WATCHED = 10.0
"""Seconds for which a run counts as watched after it was opened: who looks again and again keeps no snapshot."""


class Snapshot:
    """One run as of one commit. `busy` is held while it is queried."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, commits: int, abort: Callable[[], None]) -> None:
        self.cursor = cursor
        self.commits = commits
        self.abort = abort
        self.busy = threading.RLock()
        self.closed = False

    def close(self) -> None:
        with self.busy:
            if not self.closed:
                self.closed = True
                with contextlib.suppress(duckdb.Error):
                    self.cursor.execute("ROLLBACK")
                self.cursor.close()


class SharedRuns:
    """The run that this process writes, if it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writer: RunWriter | None = None
        self._base: duckdb.DuckDBPyConnection | None = None
        self._snapshots: set[Snapshot] = set()
        self._opened = -WATCHED

    @contextlib.contextmanager
    def sharing(self, writer: RunWriter) -> Iterator[None]:
        """While the block runs, `snapshot` reads what `writer` has committed. Leaves when no snapshot is left."""
        base = writer.reading_cursor()
        with self._lock:
            self._writer, self._base = writer, base
        try:
            yield
        finally:
            with self._lock:
                self._writer = self._base = None
                left = list(self._snapshots)
            _end(left)
            base.close()

    @property
    def watched(self) -> bool:
        """Whether somebody reads the run, or wanted to in the last seconds."""
        return bool(self._snapshots) or time.monotonic() - self._opened < WATCHED

    def snapshot(self, path: Path, abort: Callable[[], None]) -> Snapshot:
        """The run at `path` as of its last commit. abort: cuts off whoever reads it.

        Raises RunNotFound if this process does not write that run, or has not committed anything yet.
        """
        with self._lock:
            writer, base = self._writer, self._base
            if writer is None or base is None or writer.path.resolve() != path.resolve():
                raise RunEnded(f"{path.stem} is not being captured by this backend: its file can be read")
            self._opened = time.monotonic()
            if not writer.tokens:
                raise RunNotFound(f"{path.stem} is being captured and has committed nothing yet: try again in a minute")
            cursor = base.cursor()
            cursor.execute(f"USE {CATALOG}")
            with writer.committing:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                cursor.execute("SELECT status FROM run").fetchall()  # only now does the transaction see the run
                commits = writer.commits
            found = Snapshot(cursor, commits, abort)
            self._snapshots.add(found)
            return found

    def forget(self, snapshot: Snapshot) -> None:
        snapshot.close()
        with self._lock:
            self._snapshots.discard(snapshot)


def _end(snapshots: list[Snapshot]) -> None:
    """Close every snapshot; queries are interrupted, and clients that do not read their answer are cut off."""
    until = time.monotonic() + PATIENCE
    for snapshot in snapshots:
        while not snapshot.busy.acquire(timeout=0.05):
            with contextlib.suppress(duckdb.Error):
                snapshot.cursor.interrupt()
            if time.monotonic() > until:
                snapshot.abort()
        try:
            snapshot.close()
        finally:
            snapshot.busy.release()
