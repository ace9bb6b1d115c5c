"""The processors that this process may use, also where each of its threads is bound to one.

OpenMP binds the threads that compute (OMP_PROC_BIND), and a thread that one of them starts inherits its processor:
writers would then share a single one with the model.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from nfinspect_store.errors import RequestError

Writers = int | Literal["auto"]
"""How many threads record and write a run: a number, or `auto`."""

MOST = 16
"""The threads of `auto`: more have never been measured [own]."""

THREADS = Path("/proc/self/task")


def processors() -> frozenset[int]:
    """The processors that any thread of this process may use; empty where the system does not tell (macOS)."""
    allowed: set[int] = set()
    if hasattr(os, "sched_getaffinity"):
        allowed |= os.sched_getaffinity(0)
        with suppress(OSError):
            for thread in THREADS.iterdir():
                with suppress(OSError):  # it has ended
                    allowed |= os.sched_getaffinity(int(thread.name))
    return frozenset(allowed)


def processor_count() -> int:
    """How many processors this process may use, one or more."""
    return len(processors()) or os.cpu_count() or 1


def writer_threads(writers: Writers) -> int:
    """The number that `writers` stands for. Raises RequestError."""
    if writers == "auto":  # one processor is left to DuckDB (docs/decisions/0013)
        return max(1, min(processor_count() - 1, MOST))
    if not isinstance(writers, int) or isinstance(writers, bool) or writers < 1:
        raise RequestError(f"expected a number of writers, 1 or more, or auto, found {str(writers)[:40]!r}")
    return writers


def unbind() -> None:
    """Let the calling thread use every processor of the process."""
    if allowed := processors():
        with suppress(OSError):  # not allowed in some containers: then it stays where it is
            os.sched_setaffinity(0, allowed)
