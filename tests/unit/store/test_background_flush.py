"""A growing file is synced while it grows, and only then; DuckDB keeps its lock meanwhile."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nfinspect.capturing.arrays import array_info
from nfinspect_store import background_flush
from nfinspect_store.background_flush import BackgroundFlush
from nfinspect_store.types import Layer
from nfinspect_store.writer import RunWriter

LONG = 30.0


class Syncs:
    """Stands for the system's call: says when it has come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.came = threading.Semaphore(0)
        self._error = error
        monkeypatch.setattr(background_flush, "EVERY", 0.001)
        monkeypatch.setattr(background_flush, "WORTH", 1000)
        monkeypatch.setattr(os, "fdatasync", self._sync, raising=False)

    def _sync(self, file: int) -> None:
        self.came.release()
        if self._error is not None:
            raise self._error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    return path


def grow(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.write(b"x" * size)


def test_it_syncs_when_the_file_has_grown_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    flush = BackgroundFlush(path)
    flush.start()
    assert not syncs.came.acquire(timeout=0.05)  # what was there before counts as synced
    for _ in range(2):
        grow(path, 999)
        assert not syncs.came.acquire(timeout=0.05)
        grow(path, 1)
        assert syncs.came.acquire(timeout=LONG)
    flush.stop()
    grow(path, 5000)
    assert not syncs.came.acquire(timeout=0.05)
    flush.start()  # for the next segment
    assert syncs.came.acquire(timeout=LONG)
    flush.close()


def test_an_error_is_left_to_the_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch, OSError(errno.EIO, "Input/output error"))
    flush = BackgroundFlush(path)
    flush.start()
    grow(path, 1000)
    assert syncs.came.acquire(timeout=LONG)
    flush.stop()
    grow(path, 1000)
    assert not syncs.came.acquire(timeout=0.05)
    flush.close()


def test_the_writer_keeps_its_lock_and_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    monkeypatch.setattr(background_flush, "WORTH", 0)
    path = tmp_path / "run.duckdb"
    writer = RunWriter.create(path, array_info("run", 0), [Layer(0, "mlp", 0, "x", 4, "relu", "positive")])
    writer.put(0, np.ones((4, 256), np.float32))
    assert syncs.came.acquire(timeout=LONG)
    writer.abandon()
    assert "nfinspect-flush" not in {thread.name for thread in threading.enumerate()}
    assert opened_elsewhere(path) != 0
    writer.close()
    assert opened_elsewhere(path) == 0
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and "run.duckdb" in os.readlink(fd)]


def opened_elsewhere(path: Path) -> int:
    """Exit status of another process that opens the file to write."""
    script = f"import duckdb; duckdb.connect({str(path)!r})"
    return subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode
