"""A backend that fails at random points leaves what was committed, and nothing else: killed, out of memory, a GPU gone.

`make faults` fails it 50 times, `make test-slow` four times, once in each way.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running_backends import ended, started, wait_until

from nfinspect.backend.client import Backend, Lost, statuses
from nfinspect.backend.directory import FOLDER
from nfinspect.backend.protocol import JobState
from nfinspect.capturing.resume import HEADERS
from nfinspect.cli import main
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

WAYS = ("kill", "out of memory", "out of memory always", "CUDA error")
ROUNDS = int(os.environ.get("NFINSPECT_BACKEND_FAILURES", len(WAYS)))
TOKENS = 1280
"""Twenty batches of four windows, each committed."""


class Fallible:
    """A backend that is started again when it has ended."""

    def __init__(self, store: Path, model: Path) -> None:
        self.store = store
        self._model = model
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def connected(self) -> Backend:
        if self.process is not None and self.process.poll() is None:
            return Backend.connect(self.store, "m")
        self.process, backend = started(self.store, self._model, "--id", "m")
        self.starts += 1
        wait_until(lambda: backend.status().state == "ready")
        return backend


@pytest.fixture
def fallible(gpt2_dir: Path, tmp_path: Path) -> Iterator[Fallible]:
    one = Fallible(tmp_path / "store", gpt2_dir)
    yield one
    if one.process is not None:
        ended(one.process)


def words(path: Path) -> Path:
    rng = np.random.default_rng(5)
    path.write_text(" ".join(f"w{i}" for i in rng.integers(3, 101, TOKENS)))
    return path


def processes_of(session: int) -> list[int]:
    """The processes of a session that live."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state, _, _, of = (place / "stat").read_text().rpartition(") ")[2].split()[:4]
            except OSError:
                continue  # it has just ended
            if int(of) == session and state != "Z":
                found.append(int(place.name))
    return found


def how_it_ends(backend: Backend, job: JobState) -> tuple[JobState | None, str]:
    """The job once it has ended, and the last line of it; None if the backend was lost."""
    try:
        while not job.ended:
            job = backend.wait(job)
    except Lost as lost:
        return None, str(lost)
    return job, job.line


def check_round(fallible: Fallible, number: int, way: str, arguments: list[str], rng: np.random.Generator) -> int:
    """Fail a capture in one way; returns how many tokens were committed before it was resumed."""
    store, name = fallible.store, f"r{number}"
    backend = fallible.connected()
    process = fallible.process
    assert process is not None
    with backend:
        line = [*arguments, "--run", name]
        job = backend.submit(line)
        time.sleep(rng.uniform(0, 1.2))  # a random point: before the first batch, within any, at the end
        if way == "kill":
            process.send_signal(signal.SIGKILL)
        else:
            (store / "fail").write_text(f"{way}: an illegal memory access was encountered" if "CUDA" in way else way)
        job_end, said = how_it_ends(backend, job)
    (store / "fail").unlink(missing_ok=True)
    assert said and "\n" not in said, said
    if way == "kill":
        assert process.wait(30) == -signal.SIGKILL
        # Its last message may have been the end of the job, that it had just reached.
        assert job_end is None or job_end.state == "done"
        if job_end is None:
            assert f"nfinspect {' '.join(line)} --resume continues" in said
        alive, dead = statuses(store)
        assert alive == () and [entry.id for entry in dead] == ["m"]
    elif job_end is not None and job_end.state == "failed":
        if "CUDA" in way:
            assert said.startswith("nfinspect: the GPU failed (CUDA error: an illegal memory access was encountered)")
            assert process.wait(60) == 1
        else:
            assert "does not fit into the memory of cpu" in said
    else:  # the failure came after the last batch, or half batches went on
        assert job_end is not None and job_end.state == "done" and way != "kill"
    if process.poll() is not None:
        assert processes_of(process.pid) == []
        assert statuses(store) == ((), ())
        left = list((store / FOLDER).iterdir()) if (store / FOLDER).exists() else []
        assert left == []
    return resumed(store, name, line)


def resumed(store: Path, name: str, line: list[str]) -> int:
    path = store / f"{name}.duckdb"
    if not path.exists():  # it failed before anything was committed
        assert not list(store.glob(f"{name}.duckdb*"))
        return 0
    if path.stat().st_size <= HEADERS:  # killed while it created the file
        assert main([*line, "--resume"]) == 0
        return 0
    with RunFile.open(path) as run:
        tokens, status = run.tokens, run.info.status
        assert tokens % 16 == 0 and run.activations("mlp", 1).shape == (tokens, 64)
    if tokens:
        assert verify_run(path).problems == ()
    if status != "complete":
        assert main([*line, "--resume"]) == 0
    return tokens


@pytest.mark.slow
def test_what_a_failing_backend_had_committed_is_there_and_is_resumed(
    fallible: Fallible, gpt2_dir: Path, tmp_path: Path
) -> None:
    store, text = fallible.store, words(tmp_path / "words.txt")
    of_text = ["--text", str(text), "--context", "16", "--batch-size", "4"]
    arguments = ["capture", str(gpt2_dir), *of_text, "--store", str(store)]
    assert main([*arguments, "--run", "whole"]) == 0
    with RunFile.open(store / "whole.duckdb") as whole:
        expected = [whole.activations("mlp", layer) for layer in range(3)]
    (store / "slow").write_text("0.05")
    rng = np.random.default_rng(1)
    committed = []
    for number in range(ROUNDS):
        way = WAYS[number % len(WAYS)] if number < len(WAYS) else str(rng.choice(WAYS))
        committed.append(check_round(fallible, number, way, arguments, rng))
        path = store / f"r{number}.duckdb"
        if path.exists():
            with RunFile.open(path) as run:
                assert run.info.status == "complete" and run.tokens == TOKENS
                for layer, values in enumerate(expected):
                    np.testing.assert_array_equal(run.activations("mlp", layer), values)
            path.unlink()
    assert any(0 < tokens < TOKENS for tokens in committed), committed
    if told := os.environ.get("NFINSPECT_BACKEND_FAILURES_TOLD"):
        Path(told).write_text(f"{ROUNDS} failures, {fallible.starts} backends, committed tokens {sorted(committed)}\n")
