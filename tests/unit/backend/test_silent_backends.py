"""A backend that lives and says nothing, as one that a signal has stopped: whoever asks is told so, and can go on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_backends import wait_until

from nfinspect.backend import client, directory
from nfinspect.backend.client import Backend
from nfinspect.backend.directory import NotAnswering, living
from nfinspect.backend.protocol import JobState, Status
from nfinspect.cli import main
from nfinspect.tui.captures import Captures, JobAt
from nfinspect.tui.lab import Change, Setup
from nfinspect.tui.lab_job import Experiment


@pytest.fixture
def pid(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(client, "PATIENCE", 1.0)
    monkeypatch.setattr(client, "AGAIN", 0.1)
    monkeypatch.setattr(directory, "ANSWER", 1.0)
    (entry,) = living(shared)[0]
    yield entry.pid
    os.kill(entry.pid, signal.SIGCONT)
    with Backend.connect(shared, "gpt2") as backend:
        wait_until(lambda: answered(backend) is not None and backend.status().job is None)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: directory._is_stopped(pid))


def answered(backend: Backend) -> Status | None:
    try:
        return backend.status()
    except NotAnswering:
        return None


def text_job(model: Path) -> list[str]:
    return ["text", "Tulips", "--model", str(model), "--json"]


def test_who_asks_is_told_and_goes_on_when_it_does(shared: Path, model: Path, pid: int) -> None:
    with Backend.connect(shared, "gpt2") as backend:
        stop(pid)
        for _ in range(3):
            with pytest.raises(NotAnswering, match=rf"gpt2 \(process {pid}\) is stopped: kill -CONT {pid}"):
                backend.status()
        with pytest.raises(NotAnswering):
            Backend.connect(shared, "gpt2")
        with pytest.raises(NotAnswering):
            Backend.find(shared, str(model))
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: answered(backend))
        job = backend.submit(text_job(model))
        assert isinstance(job, JobState), "the answers that came late were skipped"
        while not job.ended:
            job = backend.wait(job)
        assert job.state == "done" and b"".join(backend.output(job.id)).startswith(b"{")


def test_it_is_listed_as_what_it_is(shared: Path, pid: int, capsys: pytest.CaptureFixture[str]) -> None:
    stop(pid)
    assert main(["backends", "--store", str(shared)]) == 0
    assert f"the backend gpt2 (process {pid}) is stopped: kill -CONT {pid} lets it go on" in capsys.readouterr().err
    assert main(["backends", "--stop", "gpt2", "--store", str(shared)]) == 1
    assert "is stopped" in capsys.readouterr().err


def test_a_capture_that_is_watched_is_not_over(shared: Path, model: Path, text: Path, pid: int) -> None:
    (shared / "slow").write_text("0.05")
    line = ["capture", str(model), "--text", str(text), "--context", "16", "--batch-size", "4", "--max-tokens", "640",
            "--layers", "0", "--run", "stopped", "--store", str(shared)]  # fmt: skip
    with Backend.connect(shared, "gpt2") as backend:
        job = backend.submit(line)
    watch = Captures(shared).watch(JobAt("gpt2", job.id), job)
    try:
        wait_until(lambda: watch.look().job.done)
        stop(pid)
        wait_until(lambda: watch.look().silent)
        seen = watch.look()
        assert "is stopped" in seen.silent and not seen.over and not seen.lost
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not watch.look().silent)
        wait_until(lambda: watch.look().over)
        assert watch.look().job.state == "done"
    finally:
        watch.close()
        (shared / "slow").unlink()


def test_an_experiment_of_the_lab_can_be_given_up(shared: Path, model: Path, pid: int) -> None:
    experiment = Experiment(
        shared, Setup("r", str(model), prompt="Tulips are", changes=(Change("zero", "L1/N5"),), controls=5000)
    )
    experiment.begin()
    try:
        wait_until(lambda: experiment.look().job.phase == "controls")
        stop(pid)
        wait_until(lambda: experiment.look().silent)
        assert not experiment.look().job.ended
        experiment.cancel()
        job = experiment.look().job
        assert job.state == "cancelled" and "is stopped" in job.line
    finally:
        experiment.close()


def test_ctrl_c_ends_the_wait_for_it(shared: Path, model: Path, pid: int, tmp_path: Path) -> None:
    """Before, the command waited for an answer to its cancelling, too."""
    (shared / "slow").write_text("0.05")
    program = "import sys; from nfinspect.backend import client; client.PATIENCE = client.AGAIN = 0.2; " \
        "from nfinspect.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    words = tmp_path / "words.txt"
    words.write_text("Tulips are red. " * 400)
    with words.open() as corpus, subprocess.Popen(
        [sys.executable, "-c", program, "capture", str(model), "--text", corpus.name, "--context", "16",
         "--batch-size", "1", "--layers", "0", "--run", "cut", "--backend", "--store", str(shared)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "NFINSPECT_PROGRESS_SECONDS": "0"},
    ) as command:  # fmt: skip
        assert command.stderr is not None
        with Backend.connect(shared, "gpt2") as backend:
            wait_until(lambda: (job := backend.status().job) is not None and job.done)
        stop(pid)
        said = ""
        while "is stopped" not in said:
            assert (said := command.stderr.readline()), "it has ended"
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
    (shared / "slow").unlink()


STOPPED_ONCE = """
import os, signal, sys
from nfinspect.backend import client
from nfinspect.cli import main

client.PATIENCE = client.AGAIN = 0.2
asked = client.Backend.output

def output(self, *given):
    if not stopped:
        stopped.append(os.kill(int(sys.argv[1]), signal.SIGSTOP))
    return asked(self, *given)

stopped = []
client.Backend.output = output
sys.exit(main(sys.argv[2:]))
"""


def test_one_that_is_stopped_while_it_passes_on_what_was_printed(shared: Path, model: Path, pid: int) -> None:
    words = [*text_job(model), "--backend", "--store", str(shared)]
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED_ONCE, str(pid), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "NFINSPECT_PROGRESS_SECONDS": "0"},
    ) as command:  # fmt: skip
        assert command.stderr is not None
        said = ""
        while "is stopped" not in said:
            assert (said := command.stderr.readline()), "it has ended"
        os.kill(pid, signal.SIGCONT)
        printed, _ = command.communicate(timeout=60)
    assert command.returncode == 0 and json.loads(printed)["text"] == "Tulips"
