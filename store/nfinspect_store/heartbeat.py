"""The small file next to a run that is being written: `<run>.duckdb.heartbeat`.

While one process writes a DuckDB file, no other can even read it, so whoever lists the store learns from the heartbeat
what the capture is doing, and whether its process is still alive.
"""

import contextlib
import json
import math
import os
import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from nfinspect_store.small_files import read_small
from nfinspect_store.types import Progress

SUFFIX = ".heartbeat"

STALE = 30.0
"""Seconds without a beat after which a capture on another host counts as dead: its process cannot be looked up."""


RENEWAL = 10.0
"""Seconds between rewrites of a heartbeat used as a context manager [own]."""


LATEST = 253_402_300_799.0
"""The last second of the year 9999, in seconds since the epoch."""


def heartbeat_path(run_path: Path) -> Path:
    return run_path.with_name(run_path.name + SUFFIX)


class Heartbeat:
    """The writer's side. The file is replaced by renaming, so that a reader never sees half of it."""

    def __init__(self, run_path: str | Path, *, model: str = "", edits: str = "", min_interval: float = 0.5) -> None:
        """edits: of the model, in words. min_interval: a beat within so many seconds of the last and in the same phase
        is skipped.
        """
        self.path = heartbeat_path(Path(run_path))
        self._model = model
        self._edits = edits
        self._min_interval = min_interval
        self._started_at = time.time()
        self._last: Progress | None = None
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._renewal: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Repeat the last beat until the block ends: a batch may take minutes, and so may closing the file."""
        self._renewal = threading.Thread(target=self._renew, name="nfinspect-heartbeat", daemon=True)
        self._renewal.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            with self._writing:
                if self._last is not None and not self._ended.is_set():
                    self._last = replace(self._last, updated_at=time.time())
                    self._write(self._last)

    def beat(
        self,
        *,
        tokens_done: int = 0,
        tokens_total: int | None = None,
        tokens_per_second: float = 0.0,
        bytes: int = 0,  # noqa: A002 -- its name everywhere else
        phase: str = "reading",
    ) -> None:
        """Record how far the capture is. Never raises: a heartbeat must not end a capture, even on a full disk."""
        now = time.time()
        with self._writing:
            if self._last and self._last.phase == phase and now - self._last.updated_at < self._min_interval:
                return
            self._last = Progress(
                pid=os.getpid(),
                host=socket.gethostname(),
                started_at=self._started_at,
                updated_at=now,
                tokens_done=int(tokens_done),
                tokens_total=None if tokens_total is None else int(tokens_total),
                tokens_per_second=float(tokens_per_second),
                bytes=int(bytes),
                phase=phase,
                alive=True,
                edits=self._edits,
            )
            self._write(self._last)

    def _write(self, progress: Progress) -> None:
        facts = {**vars(progress), "model": self._model, "process_started": process_start(os.getpid())}
        del facts["alive"]  # for the reader to find out
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Call when the run is finished or given up, and nobody writes to it. Never raises: that would hide the error
        that ended the capture, and a heartbeat left behind is recognised as a dead process's.
        """
        self._ended.set()
        if self._renewal is not None:
            self._renewal.join()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class HeartbeatFile:
    """What a heartbeat file says."""

    progress: Progress
    model: str


def read_heartbeat(run_path: str | Path) -> Progress | None:
    """The progress of the capture that writes to `run_path`; None without a (readable) heartbeat file.

    `alive` says whether that process still runs: on this host by its pid and start time, on another by a beat within
    the last 30 seconds.
    """
    found = read_heartbeat_file(run_path)
    return found.progress if found else None


def read_heartbeat_file(run_path: str | Path) -> HeartbeatFile | None:
    """As `read_heartbeat`, with the name of the model that is being captured."""
    try:
        facts = json.loads(read_small(heartbeat_path(Path(run_path))))
        progress = Progress(
            pid=int(facts["pid"]),
            host=str(facts["host"]),
            started_at=float(facts["started_at"]),
            updated_at=float(facts["updated_at"]),
            tokens_done=int(facts["tokens_done"]),
            tokens_total=None if facts["tokens_total"] is None else int(facts["tokens_total"]),
            tokens_per_second=float(facts["tokens_per_second"]),
            bytes=int(facts["bytes"]),
            phase=str(facts["phase"]),
            edits=str(facts.get("edits", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not _possible(progress):
        return None
    return HeartbeatFile(replace(progress, alive=_alive(progress, facts)), str(facts.get("model", "")))


def _possible(progress: Progress) -> bool:
    """Whether a capture can have written this: the file may be anyone's."""
    times = (progress.started_at, progress.updated_at)
    counts = (progress.tokens_done, progress.tokens_total or 0, progress.bytes)
    return (
        all(0 <= time <= LATEST for time in times)
        and all(0 <= count < 2**63 for count in counts)
        and 0 <= progress.tokens_per_second < math.inf
    )


def being_written(run_path: str | Path) -> bool:
    """Whether a live process writes to the run.

    Ask before opening a run: inside the writing process itself DuckDB's file lock would not object, and closing the
    second handle would release the writer's lock (POSIX locks belong to the process).
    """
    progress = read_heartbeat(run_path)
    return progress is not None and progress.alive


def _alive(progress: Progress, facts: dict[str, Any]) -> bool:
    if progress.host != socket.gethostname():
        return abs(time.time() - progress.updated_at) <= STALE
    if progress.pid <= 0:
        return False
    try:
        os.kill(progress.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's process, or an impossible pid: the start time below decides
    started = process_start(progress.pid)
    recorded = facts.get("process_started")
    return recorded is None or started is None or started == recorded


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where /proc does not say; -1 for a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = stat[stat.rindex(")") + 1 :].split()  # the command's name before it may contain spaces
    return -1 if state in "ZX" else int(rest[18])
