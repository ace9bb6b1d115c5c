"""A capture that dies leaves a run that can be read, and resuming gives the very run that would have been."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import capture_run
from nfinspect_store.errors import NfinspectError, NotARun, RunBusy, RunExists
from nfinspect_store.heartbeat import read_heartbeat
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

# The same capture as `request` below, with a segment after every batch and a pause that makes it killable.
CHILD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which ignores it
from nfinspect.capturing import segments, session
from nfinspect.capturing.request import CaptureRequest
segments.SEGMENT_SECONDS = 0.0
read = session.Capture.read_batch
def slowly(self, reader, batch):
    time.sleep(0.1)
    return read(self, reader, batch)
session.Capture.read_batch = slowly
model, store, text, resume = sys.argv[1:5]
request = CaptureRequest(model, Path(store), text=(Path(text),), run="r", context=16, batch_size=4,
                         sites=("mlp", "resid"), resume=resume == "resume")
try:
    session.capture_run(request)
except session.CaptureInterrupted as stopped:
    print(stopped)
    sys.exit(130)
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    rng = np.random.default_rng(5)
    path.write_text(" ".join(f"w{i}" for i in rng.integers(3, 101, 4001)))
    return path


def request_for(model: Path, store: Path, text: Path) -> CaptureRequest:
    return CaptureRequest(str(model), store, text=(text,), run="r", context=16, batch_size=4, sites=("mlp", "resid"))


def start(model: Path, store: Path, text: Path, resume: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), str(store), str(text), resume],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_tokens(store: Path, tokens: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        progress = read_heartbeat(store / "r.duckdb")
        if progress and progress.tokens_done >= tokens:
            return
        time.sleep(0.02)
    raise AssertionError("the capture did not get that far")


def assert_same_run(one: Path, other: Path) -> None:
    with RunFile.open(one) as a, RunFile.open(other) as b:
        assert a.tokens == b.tokens == 4001
        for layer in a.layers:
            np.testing.assert_array_equal(
                a.activations(layer.site, layer.layer), b.activations(layer.site, layer.layer)
            )
        tables = ("layers", "prompts", "tokens", "histograms", "neurons", "layer_health", "statistics", "prompt_means")
        for table in tables:
            different = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(different).fetchall() == b.sql(different).fetchall(), table


@pytest.mark.slow
def test_kill_leaves_the_last_segment_and_resume_gives_identical_values(
    gpt2_dir: Path, tmp_path: Path, text: Path
) -> None:
    store = tmp_path / "store"
    resume = ""
    for tokens in (700, 1900):  # killed twice, at different places of a block
        child = start(gpt2_dir, store, text, resume)
        wait_for_tokens(store, tokens)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        with RunFile.open(store / "r.duckdb") as run:
            assert run.info.status == "capturing"
            assert 0 < run.tokens < 4001
            assert run.activations("mlp", 1).shape == (run.tokens, 64)
        assert verify_run(store / "r.duckdb").problems == ()
        resume = "resume"
    capture_run(replace(request_for(gpt2_dir, store, text), resume=True))
    capture_run(request_for(gpt2_dir, tmp_path / "whole", text))
    assert_same_run(store / "r.duckdb", tmp_path / "whole" / "r.duckdb")
    assert sorted(p.name for p in store.iterdir() if "heartbeat" in p.name) == []


SEGMENT = 200_000
"""Bytes of a segment of FAST."""

FAST = """
import sys
from pathlib import Path
from nfinspect.capturing import segments, session
from nfinspect.capturing.request import CaptureRequest
segments.SEGMENT_BYTES, segments.COMMIT_SHARE = int(sys.argv[4]), 1e9
session.capture_run(CaptureRequest(sys.argv[1], Path(sys.argv[2]), text=(Path(sys.argv[3]),), run="r", context=16,
                                   batch_size=4, sites=("mlp", "resid")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fast_capture_that_is_killed_loses_one_segment_of_bytes(
    seed: int, gpt2_dir: Path, tmp_path: Path, text: Path
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", FAST, str(gpt2_dir), str(store), str(text), str(SEGMENT)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_tokens(store, int(np.random.default_rng(seed).integers(800, 2500)))
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = read_heartbeat(store / "r.duckdb")
    assert done is not None
    with RunFile.open(store / "r.duckdb") as run:
        neurons = sum(layer.neurons for layer in run.layers)
        batch = 4 * 16
        assert 0 < run.tokens < 4001
        assert 4 * neurons * (done.tokens_done - run.tokens) <= SEGMENT + 4 * neurons * batch
    assert verify_run(store / "r.duckdb").problems == ()
    capture_run(replace(request_for(gpt2_dir, store, text), resume=True))
    capture_run(request_for(gpt2_dir, tmp_path / "whole", text))
    assert_same_run(store / "r.duckdb", tmp_path / "whole" / "r.duckdb")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_segment_and_says_how_to_go_on(
    number: signal.Signals, gpt2_dir: Path, tmp_path: Path, text: Path
) -> None:
    store = tmp_path / "store"
    child = start(gpt2_dir, store, text)
    wait_for_tokens(store, 300)
    child.send_signal(number)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "with --resume to continue" in said and "of 4,001 tokens" in said
    with RunFile.open(store / "r.duckdb") as run:
        assert run.info.status == "interrupted"
    assert read_heartbeat(store / "r.duckdb") is None
    capture_run(replace(request_for(gpt2_dir, store, text), resume=True))
    with RunFile.open(store / "r.duckdb") as run:
        assert run.info.status == "complete" and run.tokens == 4001


@pytest.mark.slow
def test_two_captures_of_one_name_do_not_mix(gpt2_dir: Path, tmp_path: Path, text: Path) -> None:
    store = tmp_path / "store"
    child = start(gpt2_dir, store, text)
    wait_for_tokens(store, 64)
    with pytest.raises(RunExists):
        capture_run(request_for(gpt2_dir, store, text))
    with pytest.raises(RunBusy):
        capture_run(replace(request_for(gpt2_dir, store, text), resume=True))
    with pytest.raises(RunBusy):
        RunFile.open(store / "r.duckdb")
    child.communicate(timeout=120)
    assert child.returncode == 0
    with RunFile.open(store / "r.duckdb") as run:
        assert run.info.status == "complete" and run.tokens == 4001


FULL_DISK = """
import resource, sys
from pathlib import Path
from nfinspect.capturing import segments, session
from nfinspect.capturing.request import CaptureRequest
from nfinspect_store.errors import StorageFull
segments.SEGMENT_SECONDS = 0.0
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
request = CaptureRequest(sys.argv[1], Path(sys.argv[2]), text=(Path(sys.argv[3]),), run="r", context=16, batch_size=4,
                         sites=("mlp", "resid"))
try:
    session.capture_run(request)
except StorageFull as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 3_000_000])
def test_a_full_disk_is_one_line_and_earlier_runs_stay(limit: int, gpt2_dir: Path, tmp_path: Path, text: Path) -> None:
    """A limit on file size stands for the full disk: the system refuses the write in the same place."""
    store = tmp_path / "store"
    capture_run(replace(request_for(gpt2_dir, store, text), run="earlier", max_tokens=64, text=(text,)))
    before = (store / "earlier.duckdb").read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(gpt2_dir), str(store), str(text), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 1 and "full" in done.stdout, done.stdout
    assert (store / "earlier.duckdb").read_bytes() == before
    if (store / "r.duckdb").exists():
        with RunFile.open(store / "r.duckdb") as run:
            assert run.tokens > 0
    else:
        assert not list(store.glob("r.duckdb*"))


@pytest.mark.slow
def test_resume_refuses_another_line(gpt2_dir: Path, tmp_path: Path, text: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(NfinspectError, match="--limit-bytes"):
        capture_run(replace(request_for(gpt2_dir, store, text), limit_bytes=4_000_000))
    with RunFile.open(store / "r.duckdb") as run:
        assert run.info.status == "interrupted"
        assert 0 < run.tokens < 4001
    assert (store / "r.duckdb").stat().st_size <= 1.1 * 4_000_000  # what is expected, in pages of 256 KiB
    with pytest.raises(NfinspectError, match="seed: 0 then, 1 now"):
        capture_run(replace(request_for(gpt2_dir, store, text), resume=True, seed=1))
    with pytest.raises(NfinspectError, match="found none"):
        capture_run(replace(request_for(gpt2_dir, store, text), resume=True, seed=1, run=None))
    resumed = capture_run(replace(request_for(gpt2_dir, store, text), resume=True, run=None))
    assert resumed == store / "r.duckdb"
    with pytest.raises(NfinspectError, match="is complete"):
        capture_run(replace(request_for(gpt2_dir, store, text), resume=True))


def test_a_file_that_was_only_just_created_is_resumed_from_the_beginning(
    gpt2_dir: Path, tmp_path: Path, text: Path
) -> None:
    """Killed between the file's headers and its tables: DuckDB has written the former, and nothing can be lost."""
    request = replace(request_for(gpt2_dir, tmp_path / "store", text), max_tokens=64)
    (tmp_path / "store").mkdir()
    duckdb.connect(tmp_path / "store" / "r.duckdb").close()
    with pytest.raises(RunExists):
        capture_run(request)
    capture_run(replace(request, resume=True))
    with RunFile.open(tmp_path / "store" / "r.duckdb") as run:
        assert run.info.status == "complete" and run.tokens == 64
    other = tmp_path / "store" / "r2.duckdb"
    with duckdb.connect(other) as connection:
        connection.execute("CREATE TABLE mine AS SELECT range AS x FROM range(100000)")
    with pytest.raises(NotARun):
        capture_run(replace(request, run="r2", resume=True))
    assert other.exists()
