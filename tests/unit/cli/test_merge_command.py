"""`capture --shard` and `merge` as users call them, in a job array."""

import json
import subprocess
import sys
from pathlib import Path

import nfinspect_samples
import pytest
from command_line import Run

from nfinspect_store.reader import RunFile

MODEL = str(nfinspect_samples.path("gpt2-relu"))


@pytest.fixture
def capture(nfinspect: Run, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "tulip.txt").write_text("".join(f"Tulip {i} is red\n" for i in range(7)))
    return ("capture", MODEL, "--prompts", "tulip.txt", "--generate", "2", "--batch-size", "2", "--run", "mine")


def test_parts_are_captured_and_merged(nfinspect: Run, store: Path, capture: tuple[str, ...]) -> None:
    for part in ("2/2", "1/2"):
        done = nfinspect(*capture, "--shard", part)
        assert done.returncode == 0, done.stderr
        name = f"mine.part-{part[0]}-of-2"
        assert f"captured {name} " in done.stderr
        assert f"this is part {part[0]} of 2 of a capture" in nfinspect("health", name).stdout
    (store / "mine.part-1-of-2.results").mkdir(exist_ok=True)
    (store / "mine.part-2-of-2.duckdb.heartbeat").write_text("{}")
    files = sorted(str(path) for path in store.glob("mine.part-*"))  # as a shell expands mine.part-*
    assert len(files) >= 4
    done = nfinspect("merge", "mine", *files)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("merged")]
    assert line.startswith("merged mine (") and "): 2 parts, 7 prompts, " in line
    found = json.loads(nfinspect("info", "mine", "--json").stdout)
    assert (found["prompts"], found["status"], found["notes"]) == (7, "complete", [])
    assert found["settings"]["merged"]["parts"] == ["mine.part-1-of-2", "mine.part-2-of-2"]
    assert nfinspect("verify", "mine").returncode == 0
    again = nfinspect("merge", "mine", "mine.part-2-of-2", "mine.part-1-of-2", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["written"] is False
    assert "mine is left as it is: it holds these parts already" in again.stderr


def test_what_cannot_be_merged_is_refused_in_a_line(
    nfinspect: Run, store: Path, capture: tuple[str, ...], tmp_path: Path
) -> None:
    assert nfinspect(*capture, "--shard", "1/2").returncode == 0
    done = nfinspect("merge", "mine", "mine.part-1-of-2")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "missing are prompts 4-6 (part 2 of 2) (--partial merges what is there)" in done.stderr
    assert not (store / "mine.duckdb").exists()
    assert "expected a part of a capture, found planted" in nfinspect("merge", "mine", "planted").stderr
    assert nfinspect("merge", "mine", "nothing").returncode == 1
    assert nfinspect("merge", "mine").returncode == 2
    done = nfinspect("merge", "mine", str(store / "mine.part-1-of-2.results"))
    assert done.returncode == 1 and "expected parts of a capture, found none" in done.stderr
    assert nfinspect("merge", "-x/", "mine.part-1-of-2").returncode == 2
    out = tmp_path / "elsewhere" / "some.duckdb"
    done = nfinspect("merge", str(out), "mine.part-1-of-2", "--partial", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["missing"] == [{"first": 4, "last": 6}] and document["path"] == str(out)
    with RunFile.open(out) as run:
        assert run.prompts == 4
    for wrong in (("--shard", "0/2"), ("--shard", "3/2"), ("--ray",), ("--workers", "2")):
        assert nfinspect(*capture, *wrong).returncode == 2
    assert nfinspect(*capture, "--shard", "1/2", "--where", "beyond=p99").returncode == 2


@pytest.mark.slow
def test_a_job_array_of_a_shell(store: Path, capture: tuple[str, ...], tmp_path: Path) -> None:
    """The lines of docs/commands.md, with the variables that SLURM and torchrun set."""
    prefix = " ".join([sys.executable, "-m", "nfinspect", *capture])
    slurm = 'for SLURM_ARRAY_TASK_ID in 1 2; do {} --shard "$SLURM_ARRAY_TASK_ID/2" || exit; done'
    torchrun = 'WORLD_SIZE=2; for RANK in 0 1; do {} --shard "$((RANK + 1))/$WORLD_SIZE" || exit; done'
    merge = f'{sys.executable} -m nfinspect merge mine "$NFINSPECT_STORE"/mine.part-*'
    environment = {"NFINSPECT_STORE": str(tmp_path / "array"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    sizes = []
    for lines in (slurm, torchrun):
        script = f'{lines.format(prefix)}; {merge} && rm "$NFINSPECT_STORE"/mine.part-*'
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        path = tmp_path / "array" / "mine.duckdb"
        with RunFile.open(path) as run:
            sizes.append((run.prompts, run.tokens, run.activations("mlp", 0).tobytes()))
        path.unlink()
    assert sizes[0] == sizes[1]


def test_a_run_that_leaves_its_values_in_its_parts(
    nfinspect: Run, store: Path, capture: tuple[str, ...], tmp_path: Path
) -> None:
    for part in ("1/2", "2/2"):
        assert nfinspect(*capture, "--shard", part).returncode == 0
    parts = ["mine.part-1-of-2", "mine.part-2-of-2"]
    done = nfinspect("merge", "mine", *parts, "--attach", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (
        document["attached"]
        and document["written"]
        and document["bytes"] < sum((store / f"{part}.duckdb").stat().st_size for part in parts)
    )
    assert nfinspect("merge", "one", "mine").returncode == 0
    told = json.loads(nfinspect("info", "mine", "--json").stdout)["parts"]
    assert [(one["path"], one["problem"]) for one in told] == [(f"{part}.duckdb", None) for part in parts]
    assert json.loads(nfinspect("info", "one", "--json").stdout)["parts"] == []
    (line,) = [line for line in nfinspect("runs").stdout.splitlines() if line.lstrip().startswith("mine ")]
    assert "complete, in 2 parts" in line
    assert nfinspect("verify", "mine").returncode == 0
    query = "SELECT layer, neuron, token_idx, value FROM activations ORDER BY ALL"
    for asked in (("sql", "{}", query, "--format", "csv"), ("neuron", "{}", "L1/N5"), ("health", "{}", "--json")):
        mine, one = (nfinspect(*(word.format(run) for word in asked)) for run in ("mine", "one"))
        assert mine.returncode == 0, mine.stderr
        assert mine.stdout == one.stdout

    refused = nfinspect("delete", "--yes", parts[0])
    assert refused.returncode == 1 and "mine keeps its values in mine.part-1-of-2" in refused.stderr
    (store / f"{parts[0]}.duckdb").rename(tmp_path / "away.duckdb")
    assert nfinspect("health", "mine").returncode == 0
    lost = nfinspect("sql", "mine", query)
    assert (
        lost.returncode == 1 and f"{parts[0]}.duckdb is missing" in lost.stderr and len(lost.stderr.splitlines()) == 1
    )
    assert f"LOST: {store / parts[0]}.duckdb is missing" in nfinspect("info", "mine").stdout
    assert nfinspect("verify", "mine").returncode == 1
    deleted = nfinspect("delete", "--yes", "mine")
    assert deleted.returncode == 0 and f"its values stay in {parts[0]}.duckdb, {parts[1]}.duckdb" in deleted.stderr
    assert (store / f"{parts[1]}.duckdb").exists()
