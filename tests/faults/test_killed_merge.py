"""A merge that dies leaves its parts as they were, and nothing else; two at once leave one sound run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import capture_run
from nfinspect.capturing.shard import Shard
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

LOCKS = Path("/proc/locks")

CHILD = """
import sys
from pathlib import Path
from nfinspect.capturing.merging import merge_runs
from nfinspect_store import merging
merging.VALUES_BYTES = 1  # a block at a time
def when_asked(done, total):
    print(done, flush=True)
    sys.stdin.readline()  # at its end it does not wait
paths = [Path(one) for one in sys.argv[2:]]
merge_runs(Path(sys.argv[1]), paths, told=when_asked, partial=len(paths) == 1)
print("merged", flush=True)
"""

STOPS = """
import os, signal
from nfinspect_store import atomic
put = atomic._put
def later(*given):
    os.kill(os.getpid(), signal.SIGSTOP)
    put(*given)
atomic._put = later
"""


@pytest.fixture
def parts(gpt2_dir: Path, tmp_path: Path) -> list[Path]:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 8001)))
    options = {"text": (text,), "run": "r", "context": 16, "batch_size": 4, "sites": ("mlp", "resid")}
    request = CaptureRequest(str(gpt2_dir), tmp_path / "store", **options)  # type: ignore[arg-type]
    return [capture_run(CaptureRequest(**{**vars(request), "shard": Shard(i, 2)})) for i in (1, 2)]


def begun(out: Path, parts: list[Path], blocks: int, before: str = "") -> "subprocess.Popen[str]":
    """A process that merges the parts, or one of them, and waits after so many blocks. before: what it runs first."""
    child = subprocess.Popen(
        [sys.executable, "-c", before + CHILD, str(out), *map(str, parts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None and child.stdin is not None
    for block in range(blocks):
        if block:
            child.stdin.write("\n")
            child.stdin.flush()
        assert child.stdout.readline().strip().isdigit()
    return child


def goes_on(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.close()
    child.stdin = None


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 12, 25])
def test_a_killed_merge_leaves_no_half_run(blocks: int, parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.duckdb"
    before = [path.read_bytes() for path in parts]
    child = begun(out, parts, blocks)
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    assert "merged" not in rest and child.returncode == -signal.SIGKILL
    assert not out.exists()
    assert all(path.name.startswith(".m.duckdb.nfinspect-") for path in out.parent.iterdir())
    assert [path.read_bytes() for path in parts] == before
    merge_runs(out, parts)
    assert [path.name for path in out.parent.iterdir()] == ["m.duckdb"]  # the dead process's file is gone
    assert verify_run(out).problems == ()
    with RunFile.open(out) as run:
        assert run.tokens == 8001


@pytest.mark.slow
def test_a_merge_whose_disk_is_full_leaves_nothing(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.duckdb"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)){CHILD}"
    done = subprocess.run(
        [sys.executable, "-c", limited, str(out), *map(str, parts)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "StorageFull" in done.stderr, done.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.slow
def test_two_processes_merge_the_same_parts_at_once(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.duckdb"
    children = [begun(out, one, 3) for one in (parts, parts[::-1])]
    for child in children:
        goes_on(child)
    for child in children:
        told, error = child.communicate(timeout=120)
        assert child.returncode == 0 and told.endswith("merged\n"), error
    assert [path.name for path in out.parent.iterdir()] == ["m.duckdb"]
    assert verify_run(out).problems == ()
    with RunFile.open(out) as run:
        assert run.tokens == 8001
    assert not merge_runs(out, parts).written


@pytest.mark.slow
@pytest.mark.parametrize("other", ["the whole", "the other part"])
def test_a_run_that_appears_during_a_merge_stays(other: str, parts: list[Path], tmp_path: Path) -> None:
    """A process merges some of the parts; meanwhile another one writes a run of that name, which holds more."""
    out = tmp_path / "out" / "m.duckdb"
    child = begun(out, parts[:1], 3)
    if other == "the whole":
        merge_runs(out, parts)
    else:
        shutil.copy(merge_runs(tmp_path / "elsewhere" / "m.duckdb", parts[1:], partial=True).path, out)
    before = out.read_bytes()
    told, error = child.communicate(timeout=120)
    assert child.returncode == 1 and "merged" not in told
    assert "RunExists: m holds " in error.splitlines()[-1], error
    assert [path.name for path in out.parent.iterdir()] == ["m.duckdb"] and out.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not LOCKS.exists(), reason="Linux says there who waits for a lock")
def test_nobody_puts_a_run_in_place_between_anothers_look_and_its_own(parts: list[Path], tmp_path: Path) -> None:
    """A process that merges one part has seen that there is no run, and is stopped before its own has its name."""
    out = tmp_path / "out" / "m.duckdb"
    child = begun(out, parts[:1], 1, before=STOPS)
    goes_on(child)
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    whole = begun(out, parts, 1)
    goes_on(whole)
    waits = re.compile(rf"-> FLOCK +ADVISORY +WRITE {whole.pid} ")
    while whole.poll() is None and not waits.search(LOCKS.read_text()):
        time.sleep(0.01)
    child.send_signal(signal.SIGCONT)
    for one in (child, whole):
        told, error = one.communicate(timeout=120)
        assert one.returncode == 0 and told.endswith("merged\n"), error
    with RunFile.open(out) as run:
        assert run.tokens == 8001  # of both parts: the second one replaces what it finds
    assert [path.name for path in out.parent.iterdir()] == ["m.duckdb"]
