"""Writing to disk, while a capture goes on, what DuckDB has handed to the operating system.

A commit is durable: it syncs the file and waits for everything written since the last sync, 8 to 10 ns a value on a
cloud disk. Synced early, most of that wait overlaps with the forward passes (docs/decisions/0010).
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

EVERY = 0.1
"""Seconds between two looks at the file's size [own]."""

WORTH = 4 * 2**20
"""Bytes by which the file has to grow before it is synced again [own]."""


class BackgroundFlush:
    """Syncs one growing file from a thread, between `start` and `stop`.

    Call `close` only after DuckDB has closed the file: a process that closes any handle of a file loses its locks.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._sync = getattr(os, "fdatasync", os.fsync)
        self._synced = os.fstat(self._file).st_size
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="nfinspect-flush", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the sync it is in. Does nothing where none runs."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        os.close(self._file)

    def _run(self) -> None:
        with suppress(OSError):  # DuckDB's own sync meets what is wrong with the disk, and reports it
            while not self._over.wait(EVERY):
                size = os.fstat(self._file).st_size
                if size - self._synced >= WORTH:
                    self._sync(self._file)
                    self._synced = size
