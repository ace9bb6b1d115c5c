"""The check for GPUs runs, in small, on a CPU, and says what a machine lacks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu.gpu_check", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_everything_is_checked_and_nothing_is_left_behind(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    done = run("--device", "cpu", "--store", str(store), "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["quick"] is True and "no figure below is a measurement" in done.stdout
    assert all(one["right"] for one in found["checks"]) and len(found["checks"]) >= 12
    for part in (
        "gpt2-relu: live and replay: values",
        "statistics: histograms",
        "bfloat16 and plain hooks",
        "compiled steps and plain ones: values",
        "compiled steps: one graph for all steps and batches",
    ):
        assert any(one["name"] == part for one in found["checks"])
    # How many transformers makes is its version's: 5 in 5.15, 3 in 5.23.
    waits = [re.fullmatch(r"([1-9]) a step, \1 of them transformers' own", one["found"]) for one in found["checks"]]
    assert any(waits)
    names = {one["name"]: one for one in found["measures"]}
    for count in (1, 2):
        for keep, mode in (("stats", "live"), ("stats", "replay"), ("all", "replay"), ("all", "live")):
            figures = names[f"{count} texts, keep {keep}, {mode}"]
            assert figures["times_bare"] > 0 and figures["tokens_a_second"] > 0
            assert (figures.get("bytes_a_value", 0) > 3) == (keep == "all")
    for mode in ("live", "replay"):
        assert names[f"2 texts, compiled, keep stats, {mode}"]["first_batch"] > 0
    assert not [*store.iterdir()]


FAILING = """
import sys
from tests.gpu import checks

def values(*given):
    raise RuntimeError("CUDA error: an illegal memory access")

checks.values = values
checks.cost = checks.compiled_cost = checks.compiled = lambda *given: None
sys.exit(checks.check("cpu", quick=True, store=None, result=None))
"""


@pytest.mark.slow
def test_a_part_that_fails_is_told_and_the_others_go_on() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "SOMETHING IS WRONG" in done.stdout
    assert "WRONG  values: RuntimeError: CUDA error: an illegal memory access" in done.stdout
    assert "right  statistics: histograms" in done.stdout and "right  bfloat16 and plain hooks" in done.stdout


@pytest.mark.slow
def test_a_part_alone_runs_and_an_unknown_one_is_named() -> None:
    done = run("--device", "cpu", "--part", "statistics")
    assert done.returncode == 0 and "statistics: histograms" in done.stdout and "bare" not in done.stdout
    done = run("--device", "cpu", "--part", "speed")
    assert done.returncode == 1 and "compiled_cost, found speed" in done.stdout


@pytest.mark.slow
def test_a_machine_without_a_gpu_is_refused_in_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run()
    assert done.returncode == 1 and done.stdout.startswith("expected a machine with a CUDA GPU, found none")


@pytest.mark.slow
def test_the_wheels_to_carry_are_the_dependencies_that_such_a_machine_lacks() -> None:
    done = run("--wheels")
    assert done.returncode == 0
    command = next(line for line in done.stdout.splitlines() if " pip download " in line)
    carried = {word.split("==")[0] for word in command.split() if "==" in word}
    assert {"duckdb", "pyarrow", "scipy", "click"} <= carried and not carried & {"torch", "transformers", "numpy"}
