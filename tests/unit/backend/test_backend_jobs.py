"""Jobs of a backend: one at a time, paused, cancelled, failing; and commands that run in it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_backends import ended, finished, started, wait_until

from nfinspect.backend.client import Backend, Lost
from nfinspect.backend.directory import FOLDER, NoBackend
from nfinspect.backend.protocol import JobState
from nfinspect.cli import main
from nfinspect_store.reader import RunFile


@pytest.fixture
def backend(shared: Path) -> Iterator[Backend]:
    with Backend.connect(shared, "gpt2") as one:
        yield one
    for name in ("slow", "fail"):
        (shared / name).unlink(missing_ok=True)


def capture(model: Path, text: Path, store: Path, run: str, tokens: int = 384) -> list[str]:
    """Six batches of four windows, unless told otherwise, each committed."""
    of_text = ["--text", str(text), "--context", "16", "--batch-size", "4", "--max-tokens", str(tokens)]
    return ["capture", str(model), *of_text, "--layers", "0", "--run", run, "--store", str(store)]


def told(backend: Backend, job: JobState, what: str) -> JobState:
    while job.state != what:
        assert not job.ended, job
        job = backend.wait(job)
    return job


def test_captures_wait_in_a_queue_and_can_be_paused_and_cancelled(
    backend: Backend, shared: Path, model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shared / "slow").write_text("0.1")
    first = backend.submit(capture(model, text, shared, "first", 6400))
    second = backend.submit(capture(model, text, shared, "second"))
    third = backend.submit(["text", "Tulips", "--model", str(model)])
    while not first.done:
        first = backend.wait(first)
    status = backend.status()
    assert status.job is not None and status.job.id == first.id and status.idle_seconds == 0
    assert [job.id for job in status.queue] == [second.id, third.id]
    assert (
        status.job.total == 6400
        and status.job.rate > 0
        and status.job.bytes > 0
        and status.job.run.endswith("first.duckdb")
    )
    assert status.job.seconds_left is not None
    assert main(["backends", "--store", str(shared)]) == 0
    assert "capture" in capsys.readouterr().out

    assert backend.act(first.id, "pause").state == "paused"
    done = backend.status().job.done  # type: ignore[union-attr]
    first = backend.wait(backend.wait(first))
    assert first.done <= done + 64  # the batch that was being read
    assert backend.act(second.id, "cancel").state == "cancelled"
    assert [job.id for job in backend.status().queue] == [third.id]
    backend.act(first.id, "go on")
    reached = first.done
    while first.done <= reached + 64:
        first = backend.wait(first)
    backend.act(first.id, "cancel")
    first = told(backend, first, "cancelled")
    assert first.status == 130 and "--resume to continue" in first.line
    third = told(backend, third, "done")
    document = b"".join(backend.output(third.id)).decode()
    assert "3 tokens through gpt2-relu" in document and third.status == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [("out of memory: tried to allocate 9 GiB", "does not fit into the memory of cpu: use a shorter --context")],
)
def test_running_out_of_memory_is_one_line_and_costs_the_job_alone(
    backend: Backend, shared: Path, model: Path, text: Path, error: str, said: str
) -> None:
    (shared / "fail").write_text(error)
    arguments = capture(model, text, shared, "oom", 16)
    job = finished(backend, arguments)
    assert job.state == "failed" and job.status == 1
    assert said in job.line and "\n" not in job.line
    assert not list(shared.glob("oom*"))
    assert finished(backend, arguments).state == "done"


def test_a_command_that_fails_says_why_as_it_does_alone(backend: Backend, shared: Path, model: Path) -> None:
    job = finished(backend, ["logits", str(model), "L99/N0"])
    assert job.status in (1, 2) and job.line.startswith("nfinspect: ") and "found 99" in job.line
    job = finished(backend, ["logits", str(shared / "other"), "L0/N0"])
    assert job.status == 1 and "this backend holds" in job.line
    job = finished(backend, ["logits", str(model), "L0/N0", "--dtype", "bfloat16"])
    assert job.status == 1 and "--dtype float32" in job.line
    job = finished(backend, ["text"])
    assert job.status == 2 and "Missing argument" in job.line


def test_a_client_that_goes_takes_its_command_along(backend: Backend, shared: Path, model: Path, text: Path) -> None:
    (shared / "slow").write_text("0.2")
    with Backend.connect(shared, "gpt2") as gone:
        job = gone.submit(capture(model, text, shared, "gone", 6400), attached=True)
        while not job.done:
            job = gone.wait(job)
    wait_until(lambda: backend.status().job is None)
    assert backend.wait(job).state == "cancelled"


HEAVY = ("torch", "transformers", "duckdb", "pyarrow", "numpy", "textual")
"""What takes longer to import than a backend takes to answer."""


@pytest.mark.parametrize(
    "line",
    [
        "logits model L1/N5",
        "logits model --lens Tulips",
        "text Tulips --model model --skip-first",
        "attention model --prompts p.txt",
        "ablate model --text p.txt --context 8",
        "generate model Tulips --new-tokens 2 --zero L1/N5",
        "capture model --text p.txt --estimate",
    ],
)
def test_backend_is_found_by_store_and_nothing_heavy_is_imported_here(
    shared: Path, model: Path, tmp_path: Path, line: str
) -> None:
    program = f"""
import sys
from nfinspect.cli import main
status = main(sys.argv[1:])
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
assert not heavy, heavy
sys.exit(status)
"""
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "p.txt").write_text("Tulips grow in the garden of the old house by the river.\n")
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split(), "--json", "--backend", "--store", str(shared)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    if line == "logits model L1/N5":
        assert document["model"] == "model" and len(document["promoted"]) == 10


def test_a_store_that_finds_no_backend_and_saves_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text", "Tulips", "--store", "s"]) == 2
    assert "--store goes with --backend" in capsys.readouterr().err
    assert main(["logits", "model", "L1/N5", "--store", "s"]) == 2
    assert "--store" in capsys.readouterr().err


def test_backend_where_none_holds_the_model_names_those_there_are(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", str(tmp_path), "--text", "t", "--backend", "--store", str(shared)]) == 1
    said = capsys.readouterr().err
    assert "expected a backend that holds" in said and "found gpt2 (" in said and "nfinspect backend" in said
    assert main(["delta", "r", "--backend", "--store", str(shared)]) == 2
    assert "--substitute" in capsys.readouterr().err
    assert main(["text", "a", "--simulated", "--backend"]) == 2
    assert main(["similar", "r", "L1/N5", "--backend", "--store", str(shared)]) == 2
    assert "--backend goes with --weights" in capsys.readouterr().err


def test_an_estimate_is_made_by_the_model_that_is_loaded(
    backend: Backend, shared: Path, model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are closed forms: 384 tokens of one layer with 768 neurons."""
    line = capture(model, text, shared, "never")
    assert main([*line, "--estimate", "--json", "--backend"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 384 and found["values"] == 384 * 768 and found["seconds"] > 0
    assert main([*line, "--estimate", "--backend"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["values", "294,912"]
    assert backend.status().job is None and not (shared / "never.duckdb").exists()
    assert main([*line, "--backend", "--ray", "--workers", "2"]) == 2
    assert "expected --ray or --backend" in capsys.readouterr().err


QUESTIONS = {
    "attention": "attention MODEL --prompts p.txt --json --recompute --method rollout",
    "attention by gradients": "attention MODEL --prompts p.txt --json --recompute --method gradient_guided",
    "ablate": "ablate MODEL --text p.txt --neurons n.txt --context 8 --json --recompute",
    "logits": "logits MODEL L1/N5 --json",
    "lens": "logits MODEL --lens Tulips --positions --json",
    "text": "text Tulips --model MODEL --json",
    "similar": "similar r L0/N5 --weights --json --recompute",
    "walk": "walk r --json --recompute",
    "delta": "delta r --substitute --draws 8 --json --recompute",
    "generate": "generate MODEL Tulips --new-tokens 6 --clamp L3/N1=40 --temperature 1 --json",
}


@pytest.mark.slow
def test_every_command_gives_the_bytes_of_a_process_of_its_own(
    shared: Path, model: Path, text: Path, tmp_path: Path
) -> None:
    """In another order than alone, and twice: what one leaves behind must not change the next."""
    (tmp_path / "p.txt").write_text("Tulips are red.\nTulips grow in the garden of the old house.\n")
    (tmp_path / "n.txt").write_text("L0/N1\nL1/N7\n")
    made = subprocess.run([sys.executable, "-m", "nfinspect", *capture(model, text, shared, "r")], check=False)
    assert made.returncode == 0

    def printed(line: str, *more: str) -> bytes:
        arguments = [*line.replace("MODEL", str(model)).split(), *more]
        if more or not line.startswith(("logits", "text")):
            arguments += ["--store", str(shared)]
        command = [sys.executable, "-m", "nfinspect", *arguments]
        env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    alone = {name: printed(line) for name, line in QUESTIONS.items()}
    for name in (*reversed(QUESTIONS), "attention", "text"):
        assert printed(QUESTIONS[name], "--backend") == alone[name], name


@pytest.mark.slow
def test_a_cuda_error_is_one_line_and_ends_the_backend_alone(model: Path, text: Path, tmp_path: Path) -> None:
    """After one, nothing works in a process that uses the GPU: what was committed stays, another backend is needed."""
    store = tmp_path / "store"
    process, backend = started(store, model, "--id", "cuda")
    try:
        wait_until(lambda: backend.status().state == "ready")
        (store / "slow").write_text("0.1")
        job = backend.submit(capture(model, text, store, "r", 6400))
        waiting = backend.submit(["logits", str(model), "L0/N0"])
        while not job.done:
            job = backend.wait(job)
        (store / "fail").write_text(
            "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"
        )
        while not job.ended:
            job = backend.wait(job)
        assert job.state == "failed" and job.status == 1 and "\n" not in job.line
        assert job.line.startswith("nfinspect: the GPU failed (CUDA error: an illegal memory access was encountered): ")
        with pytest.raises(Lost):
            while True:
                waiting = backend.wait(waiting)
        assert process.wait(60) == 1
        assert not (store / FOLDER).exists()
        with pytest.raises(NoBackend):
            Backend.connect(store, "cuda")
        with RunFile.open(store / "r.duckdb") as run:
            assert run.info.status == "failed" and run.tokens >= 64 and run.tokens % 64 == 0
            assert run.activations("mlp", 0).shape[0] == run.tokens
    finally:
        backend.close()
        ended(process)


def test_a_job_paused_while_it_waited_says_so_when_its_turn_comes(
    backend: Backend, shared: Path, model: Path, text: Path
) -> None:
    (shared / "slow").write_text("0.1")
    first = backend.submit(capture(model, text, shared, "before", 6400))
    second = backend.submit(capture(model, text, shared, "paused"))
    backend.act(second.id, "pause")
    backend.act(first.id, "cancel")
    wait_until(lambda: getattr(backend.status().job, "id", None) == second.id)
    running = backend.status().job
    (shared / "slow").unlink()
    backend.act(second.id, "go on")
    assert running is not None and running.state == "paused"
    assert told(backend, second, "done").status == 0


def test_a_directory_that_is_removed_while_its_job_waits_costs_that_job_alone(
    backend: Backend, shared: Path, model: Path, text: Path, tmp_path: Path
) -> None:
    (shared / "slow").write_text("0.1")
    first = backend.submit(capture(model, text, shared, "long", 6400))
    (tmp_path / "gone").mkdir()
    second = backend.submit(["text", "Tulips", "--model", str(model)], tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    backend.act(first.id, "cancel")
    second = told(backend, second, "failed")
    assert second.status == 1 and f"cannot run the command in {tmp_path / 'gone'}: No such file" in second.line
    assert finished(backend, ["text", "Tulips", "--model", str(model)]).state == "done"


@pytest.mark.slow
def test_sigterm_keeps_what_a_capture_has_read(model: Path, text: Path, tmp_path: Path) -> None:
    """Its handler ends it after the batch; a second signal would drop the segment, here everything."""
    store = tmp_path / "store"
    process, backend = started(store, model, segment_seconds=1000.0)
    try:
        with backend:
            wait_until(lambda: backend.status().state == "ready")
            (store / "slow").write_text("0.1")
            job = backend.submit(capture(model, text, store, "r", 6400))
            while not job.done:
                job = backend.wait(job)
            reached = job.done
            process.send_signal(signal.SIGTERM)
            job = told(backend, job, "cancelled")
            assert "the system asked for it" in job.line and job.status == 130
        assert process.wait(60) == 0
        with RunFile.open(store / "r.duckdb") as run:
            assert run.info.status == "interrupted" and run.tokens >= reached
    finally:
        ended(process)


@pytest.mark.slow
def test_ctrl_c_ends_a_backend_whose_last_job_was_cancelled(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process, backend = started(store, model)
    try:
        with backend:
            wait_until(lambda: backend.status().state == "ready")
            (store / "slow").write_text("0.1")
            job = backend.submit(["generate", str(model), "Tulips", "--new-tokens", "60"])
            wait_until(lambda: backend.tokens(job.id, 0).count > 3)
            backend.act(job.id, "cancel")
            told(backend, job, "cancelled")
            assert backend.status().state == "ready"
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        ended(process)
