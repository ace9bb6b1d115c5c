"""Backends in processes of their own, for tests: none outlives its test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nfinspect.backend.client import Backend
from nfinspect.backend.directory import living
from nfinspect.backend.protocol import JobState

HERE = Path(__file__).parent
SAMPLES = HERE.parents[2] / "samples"
PATIENCE = 120.0


def started(
    store: Path, model: Path, *options: str, segment_seconds: float = 0.0
) -> tuple["subprocess.Popen[bytes]", Backend]:
    """A backend with a slow capture (slow_backend.py), connected to. segment_seconds: between two commits; 0: one after
    every batch.
    """
    store.mkdir(parents=True, exist_ok=True)
    said = store / "stderr.txt"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "slow_backend.py"), "backend", str(model), "--store", str(store)]
            + ["--idle", "3m", *options],  # should the tests be killed, it ends by itself
            cwd=store,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1", "SEGMENT_SECONDS": str(segment_seconds)},
            start_new_session=True,
        )
    wait_until(lambda: process.poll() is not None or any(e.pid == process.pid for e in living(store)[0]))
    name = next((e.id for e in living(store)[0] if e.pid == process.pid), None)
    if name is None:
        raise AssertionError(said.read_text())
    return process, Backend.connect(store, name)


def wait_until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def ended(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a backend that is told to end, and is killed if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def finished(backend: Backend, arguments: Sequence[str], directory: Path | None = None) -> JobState:
    """The state of a job that has ended."""
    job = backend.submit(arguments, directory)
    while not job.ended:
        job = backend.wait(job)
    return job
