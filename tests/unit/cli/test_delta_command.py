"""`nfinspect delta`: what it prints, what it keeps, and what it says when something is missing."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run

from nfinspect.analyses import spec, specs
from nfinspect.analysis.delta import ORDERS
from nfinspect.cli.analysis import analysis_command
from nfinspect.run import open_run
from nfinspect_store.results import list_results, run_results

SAMPLES = Path(__file__).parents[3] / "samples"
PROMPTS = ["The river runs through the old town.", "He cut the tulips at dawn, and sold them.", "A quiet street"] * 3


@pytest.fixture(scope="module")
def sample_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of each sample model over a few sentences."""
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import capture_run

    store = tmp_path_factory.mktemp("samples")
    prompts = store / "prompts.json"
    prompts.write_text(json.dumps({"prompts": PROMPTS}))
    for name in ("gpt2-relu", "mamba"):
        capture_run(CaptureRequest(str(SAMPLES / name), store, prompts=(PromptFile(prompts),), run=name))
    capture_run(CaptureRequest(str(SAMPLES / "mamba"), store, prompts=(PromptFile(prompts),), run="few", keep="stats"))
    return store


def document(run: Run, *arguments: str) -> Any:
    done = run("delta", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_contracts_fields(nfinspect: Run, store: Path) -> None:
    found = document(nfinspect, "planted")
    assert len(found["neurons"]) == 192 and "mamba_delta" not in found
    row = found["neurons"][0]
    assert {"site", "layer", "neuron", "step_sensitivity", "von_neumann_ratio"} <= set(row)
    constant = [(r["layer"], r["neuron"]) for r in found["neurons"] if r["step_sensitivity"] is None]
    assert constant == [(layer, neuron) for layer in range(3) for neuron in (0, 1)]  # dead, and stuck at 3
    assert [layer["constant"] for layer in found["layers"]] == [2, 2, 2]
    with open_run(store / "planted.duckdb") as run:
        assert found == json.loads(json.dumps(run.delta().to_json()))
    resid = document(nfinspect, "planted", "--site", "resid", "--layers", "1", "--sort", "von_neumann_ratio")
    ratios = [row["von_neumann_ratio"] for row in resid["neurons"]]
    assert {(row["site"], row["layer"]) for row in resid["neurons"]} == {("resid", 1)} and len(ratios) == 16
    assert ratios == sorted(ratios, reverse=True)


def test_the_options_are_the_analysis_own() -> None:
    """Of every analysis that a run is enough for: what the command takes if nothing is given is what Python takes."""
    for one in specs():
        if one.compute is None:
            continue
        signature = inspect.signature(one.compute).parameters
        defaults = analysis_command(one).make_context(one.name, ["RUN"]).params
        for name, value in one.defaults().items():
            assert defaults[name] == value == signature[name].default, (one.name, name)
    assert next(option for option in spec("delta").options if option.name == "sort").choices == ORDERS


def test_results_are_kept_with_their_settings(nfinspect: Run, store: Path) -> None:
    folder = run_results(store / "planted.duckdb")
    first = nfinspect("delta", "planted", "--json")
    assert "kept from" not in first.stderr
    again = nfinspect("delta", "planted", "--json")
    assert "kept from" in again.stderr and again.stdout == first.stdout
    document(nfinspect, "planted", "--min-ratio", "1.5")
    kept = list_results(folder)
    assert {result.kind for result in kept} == {"delta"}
    assert sorted(result.settings["min_ratio"] for result in kept) == [1.5, 2.0]
    assert next(r for r in kept if r.settings["min_ratio"] == 2).document == json.loads(first.stdout)
    anew = nfinspect("delta", "planted", "--json", "--recompute")
    assert "kept from" not in anew.stderr and anew.stdout == first.stdout


def test_the_table_for_people(nfinspect: Run) -> None:
    done = nfinspect("delta", "planted", "--top", "3")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "of 192 neurons at mlp, from 1,140 steps" in lines[0]  # 30 prompts of 40 tokens: 38 steps each
    assert lines[-1] == "and 189 more (--top 192)" and all(len(line) <= 80 for line in lines)
    assert sum(line.startswith("L") for line in lines) == 3
    assert not any(line.startswith("L") for line in nfinspect("delta", "planted", "--top", "0").stdout.splitlines())


def test_mamba_has_its_step_size(nfinspect: Run, sample_runs: Path) -> None:
    found = document(nfinspect, "mamba", "--store", str(sample_runs))
    assert len(found["neurons"]) == 4 * 320
    rows = found["mamba_delta"]
    assert [(row["layer"], row["channel"]) for row in rows] == [(i, c) for i in range(4) for c in range(320)]
    assert {"mean", "cv", "surprisal_correlation"} <= set(rows[0])
    assert all(row["mean"] > 0 and row["cv"] > 0 and abs(row["surprisal_correlation"]) <= 1 for row in rows)
    with open_run(sample_runs / "mamba.duckdb") as run:
        assert {row["n"] for row in rows} == {run.tokens - len(PROMPTS)}
    text = nfinspect("delta", "mamba", "--store", str(sample_runs), "--layers", "2,3", "--top", "2").stdout
    table = text[text.index("Mamba's step size") :].splitlines()
    assert [line.split()[0] for line in table[-2:]] == ["2", "3"]


def test_statistics_alone_leave_mambas_step_size(nfinspect: Run, sample_runs: Path) -> None:
    whole = document(nfinspect, "mamba", "--store", str(sample_runs))
    done = nfinspect("delta", "few", "--store", str(sample_runs), "--json")
    assert "statistics only" in done.stderr and done.returncode == 0
    found = json.loads(done.stdout)
    assert found["neurons"] == [] and found["mamba_delta"] == whole["mamba_delta"]
    assert "Mamba's step size" in nfinspect("delta", "few", "--store", str(sample_runs)).stdout
    refused = nfinspect("delta", "stats")
    assert refused.returncode == 1 and "--keep all" in refused.stderr and refused.stdout == ""


def test_substitution_from_the_runs_own_model(nfinspect: Run, sample_runs: Path) -> None:
    arguments = ("gpt2-relu", "--store", str(sample_runs), "--substitute", "--draws", "20", "--seed", "4")
    found = document(nfinspect, *arguments)
    about = found["substitution"]
    assert (about["draws"], about["seed"], about["lags"]) == (20, 4, [0, 1, 2, 4, 8])
    assert about["samples"][0] == 20 >= about["samples"][4]
    moved = [row["substitution_sensitivity"] for row in found["neurons"] if row["step_sensitivity"] is not None]
    means = np.array(moved, float).mean(0)
    assert means[0] > 2 * means[4] > 0
    done = nfinspect("delta", *arguments, "--top", "2")
    assert done.stderr.count("kept from") == 2 and "lag 8" in done.stdout
    assert document(nfinspect, *arguments, "--recompute") == found


def test_substitution_without_a_model(nfinspect: Run, sample_runs: Path) -> None:
    for arguments, said in (
        (("planted", "--substitute"), "this run names none: pass --model"),
        (("planted", "--substitute", "--model", "/no/such/model"), "--model says where it is"),
        (("gpt2-relu", "--store", str(sample_runs), "--substitute", "--model", str(SAMPLES / "mamba")), "a mamba in"),
        (("planted", "--model", "gpt2"), "--model goes with --substitute"),
        (("planted", "--sort", "mean"), "mean"),
        (("planted", "--layers", "9"), "no layer 9"),
    ):
        done = nfinspect("delta", *arguments)
        assert done.returncode in (1, 2) and done.stdout == "", arguments
        assert re.search(said, done.stderr), done.stderr
