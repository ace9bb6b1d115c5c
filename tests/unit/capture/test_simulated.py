"""Simulated networks: what was planted is what is found, and the run is a run like any other."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sampled import sampled

from nfinspect.analysis.array_health import array_health
from nfinspect.analysis.detection import ClassDetection, detection, run_detection
from nfinspect.analysis.planted import ACTIVATIONS, NetworkPlan, planted_network
from nfinspect.capturing.simulated import simulate_run
from nfinspect_store.errors import RequestError, RunExists
from nfinspect_store.export import export_run
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

SMALL = {"layers": 3, "neurons": 120, "tokens": 256}
FAULTS = ("dead", "saturated", "sporadic", "missing", "weak")


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("seed", range(10))
def test_precision_and_recall_are_one(tmp_path: Path, activation: str, seed: int) -> None:
    found = simulate_run(tmp_path / "s.duckdb", NetworkPlan(**SMALL, activation=activation, seed=seed))
    assert [one.name for one in found.detection] == [*FAULTS, "normal"]
    assert all(one.planted >= 3 for one in found.detection)
    assert {(one.precision, one.recall) for one in found.detection} == {(1.0, 1.0)}


@pytest.mark.parametrize("activation", sampled(ACTIVATIONS, 2))
def test_the_run_is_sound_and_its_truth_can_be_queried(tmp_path: Path, activation: str) -> None:
    path = tmp_path / "s.duckdb"
    plan = NetworkPlan(**SMALL, activation=activation, seed=3)
    found = simulate_run(path, plan)
    assert verify_run(path).ok
    planted = [(p.layer.layer, i, name) for p in planted_network(plan) for i, name in enumerate(p.classes)]
    with RunFile.open(path) as run:
        assert (run.info.kind, run.info.seed, run.info.settings["activation"]) == ("simulated", 3, activation)
        rows = run.sql("SELECT layer, neuron, class FROM planted WHERE site = 'mlp' ORDER BY ALL").fetchall()
        assert rows == sorted(planted)
        assert np.array_equal(run.activations("mlp", 1), list(planted_network(plan))[1].values)
        assert run_detection(run) == found.detection


@pytest.mark.parametrize("activation", sampled(["relu", "tanh"], 2))
def test_health_falls_from_layer_to_layer(tmp_path: Path, activation: str) -> None:
    plan = NetworkPlan(6, 200, 256, activation, degradation=2.0)
    planted = [Counter(layer.classes) for layer in planted_network(plan)]
    for name in FAULTS:
        assert planted[-1][name] == 3 * planted[0][name]
    report = simulate_run(tmp_path / "s.duckdb", plan).health
    scores = [layer.health_score for layer in report.layer_analyses]
    assert scores == sorted(scores, reverse=True) and scores[0] - scores[-1] > 0.1
    assert report.parts.degradation_penalty > 0
    even = simulate_run(tmp_path / "even.duckdb", NetworkPlan(6, 200, 256, activation, degradation=0.0)).health
    assert even.parts.degradation_penalty == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_are_such_as_the_activation_gives(activation: str) -> None:
    low, high = {
        "relu": (0.0, np.inf),
        "gelu": (-0.1701, np.inf),
        "silu": (-np.inf, np.inf),
        "tanh": (-1.0, 1.0),
        "sigmoid": (0.0, 1.0),
    }[activation]
    for layer in planted_network(NetworkPlan(**SMALL, activation=activation)):
        assert low <= layer.values.min() and layer.values.max() <= high
        assert (layer.fired is not None) == (activation == "silu")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_of_any_shape_are_found_exactly(activation: str) -> None:
    """Few neurons, many faults, few tokens: what is not refused is found."""
    rng = np.random.default_rng(11)
    seen = 0
    while seen < 30:
        shares = {name: float(rng.choice([0, 0.01, 0.1, 0.3])) for name in FAULTS}
        neurons, tokens = int(rng.choice([6, 12, 30, 100])), int(rng.choice([200, 333, 512]))
        try:
            plan = NetworkPlan(2, neurons, tokens, activation, float(rng.choice([0, 2])), seen, shares)
            layers = list(planted_network(plan))
        except RequestError:
            continue
        seen += 1
        for layer in layers:
            found = array_health(layer.layer, layer.values, layer.fired).classes
            assert found.tolist() == list(layer.classes), (plan, layer.layer.layer)


def test_without_shares_nothing_is_planted_and_the_network_is_healthy(tmp_path: Path) -> None:
    found = simulate_run(tmp_path / "s.duckdb", NetworkPlan(**SMALL, shares={}))
    assert found.health.overall_health_score == 1.0
    assert [(one.planted, one.found, one.recall) for one in found.detection[:-1]] == [(0, 0, None)] * 5


def test_the_truth_is_exported_with_the_other_tables(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    simulate_run(path, NetworkPlan(**SMALL))
    done = export_run(path, tmp_path / "out", formats=["csv", "parquet"], activations=False)
    assert {"planted.csv", "planted.parquet", "neurons.csv"} <= set(done.files)
    with RunFile.open(path) as run:
        truth = run.sql("SELECT site, layer, neuron, class FROM planted").fetchall()
    rows = pq.read_table(tmp_path / "out" / "planted.parquet").to_pylist()
    assert [tuple(row.values()) for row in rows] == truth and len(truth) == 360
    with (tmp_path / "out" / "planted.csv").open(newline="") as text:
        assert [(r["site"], int(r["layer"]), int(r["neuron"]), r["class"]) for r in csv.DictReader(text)] == truth
    assert export_run(path, tmp_path / "one", formats=["csv"], tables=["planted"], activations=False).files == (
        "planted.csv",
    )
    with pytest.raises(RequestError, match="no table 'planted'"):
        export_run(store / "planted.duckdb", tmp_path / "none", tables=["planted"])


def test_the_seed_decides() -> None:
    first, again, other = (list(planted_network(NetworkPlan(**SMALL, seed=seed))) for seed in (5, 5, 6))
    assert all(np.array_equal(a.values, b.values) and a.classes == b.classes for a, b in zip(first, again, strict=True))
    assert first[0].classes != other[0].classes


def test_precision_and_recall_of_a_known_confusion() -> None:
    planted = ["dead", "dead", "dead", "weak", "weak", "normal"]
    found = ["dead", "dead", "weak", "weak", "normal", "dead"]
    by_name = {one.name: one for one in detection(planted, found)}
    assert by_name["dead"] == ClassDetection("dead", 3, 3, 2)
    assert by_name["dead"].precision == by_name["dead"].recall == pytest.approx(2 / 3)
    assert (by_name["weak"].precision, by_name["weak"].recall) == (0.5, 0.5)
    assert (by_name["normal"].precision, by_name["normal"].recall) == (0.0, 0.0)
    assert (by_name["missing"].precision, by_name["missing"].recall) == (None, None)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"activation": "softmax"}, "relu, gelu"),
        ({"tokens": 199}, "200 tokens"),
        ({"layers": 0}, "1 to 1000 layers"),
        ({"layers": 1001}, "1 to 1000 layers"),
        ({"layers": 1, "neurons": 2**18}, "67,108,864 in a layer"),
        ({"neurons": 5}, "a healthy neuron"),
        ({"neurons": 2**20, "tokens": 2**10}, "values at most"),
        ({"shares": {"odd": 0.1}}, "shares from 0 to 1"),
        ({"degradation": -1.0}, "degradation"),
        ({"degradation": float("inf")}, "degradation"),
        ({"seed": 2**63}, "seed"),
        ({"seed": None}, "whole numbers"),
        ({"layers": 2.5}, "whole numbers"),
    ],
)
def test_plans_that_cannot_be_are_refused(plan: dict[str, object], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        NetworkPlan(**plan)  # type: ignore[arg-type]


def test_what_a_bounded_activation_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    plan = NetworkPlan(2, 100, 256, "tanh", shares={"saturated": 0.1, "sporadic": 0.02})
    with pytest.raises(RequestError, match="fewer saturated neurons with sporadic"):
        simulate_run(path, plan)
    with pytest.raises(RequestError, match="healthy tanh neurons are weak"):
        simulate_run(path, NetworkPlan(1, 100, 256, "tanh", shares={"saturated": 0.45}))
    assert not path.exists()
    simulate_run(path, NetworkPlan(**SMALL))
    with pytest.raises(RunExists):
        simulate_run(path, NetworkPlan(**SMALL))
