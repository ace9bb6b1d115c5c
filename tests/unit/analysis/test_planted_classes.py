"""Neurons planted dead, saturated, sporadic, missing, weak and normal are found: no miss, no false alarm."""

from collections import Counter

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, statistics_of
from planted import LENGTH, PROMPTS, layer_of_each, reference_classes, reference_rho

from nfinspect.analysis.classes import (
    FAULTS,
    RHO_BINS,
    HealthOptions,
    bin_sums,
    saturation,
    saturation_bounds,
)
from nfinspect.analysis.health import classify_run, network_report
from nfinspect.analysis.neurons import list_neurons
from nfinspect.analysis.planted import PlantedLayer
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Keep, Layer

KINDS = ("relu", "gelu_new", "silu", "tanh", "sigmoid", "resid")
SEEDS = range(10)


def planted_run(make_run: MakeRun, seed: int, keep: Keep = "all") -> tuple[RunFile, list[PlantedLayer]]:
    rng = np.random.default_rng(seed)
    plants = layer_of_each(KINDS, rng)
    prompts = [array_prompt("baseline" if i % 2 else "tulip", LENGTH, 20) for i in range(PROMPTS)]
    run = make_run(
        [plant.layer for plant in plants],
        prompts,
        {plant.layer.layer_id: plant.values for plant in plants},
        {plant.layer.layer_id: plant.fired for plant in plants if plant.fired is not None},
        keep,
    )
    return run, plants


def found_classes(run: RunFile, layer: Layer) -> list[str]:
    rows = list_neurons(run, site=layer.site, layer=layer.layer, sort="neuron", descending=False, limit=None)
    return [row.cls for row in rows.rows]


@pytest.mark.parametrize("keep", ["all", "stats"])
@pytest.mark.parametrize("seed", SEEDS)
def test_planted_classes_are_found_exactly(make_run: MakeRun, seed: int, keep: Keep) -> None:
    run, plants = planted_run(make_run, seed, keep)
    for plant in plants:
        assert found_classes(run, plant.layer) == list(plant.classes), plant.layer.activation


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_counts_reach_the_report(make_run: MakeRun, seed: int) -> None:
    run, plants = planted_run(make_run, seed)
    report = network_report(run, "mlp")
    for layer, plant in zip(report.layer_analyses, plants, strict=False):
        counts = Counter(plant.classes)
        assert {name: layer.count(name) for name in FAULTS} == {name: counts[name] for name in FAULTS}
        assert layer.normal_neurons == counts["normal"]


@pytest.mark.parametrize("scale", ["layer", "absolute"])
@pytest.mark.parametrize("skip_first", [False, True])
def test_options_agree_with_the_rules_as_plain_loops(make_run: MakeRun, scale: str, skip_first: bool) -> None:
    run, plants = planted_run(make_run, 99)
    options = HealthOptions(0.02, 0.3, "layer" if scale == "layer" else "absolute", skip_first)
    counted = np.arange(PROMPTS * LENGTH) % LENGTH > 0 if skip_first else slice(None)
    for plant in plants:
        site = classify_run(run, plant.layer.site, options)
        rows = site.table.filter(np.asarray(site.table.column("layer")) == plant.layer.layer)
        expected = reference_classes(
            plant.values[counted],
            plant.layer.activation,
            absolute=scale == "absolute",
            missing=0.02,
            weak=0.3,
            gated=plant.fired is not None,
        )
        assert rows.column("class").to_pylist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_near_the_layer_scale_are_exact(make_run: MakeRun, seed: int) -> None:
    """Neurons whose rarity turns on values in the histogram bin that the layer scale cuts."""
    rng = np.random.default_rng(seed)
    tokens = 600
    values = np.abs(rng.normal(size=(tokens, 200))).astype(np.float32)
    values[:, 100:] = 0
    for neuron in range(100, 200):
        values[rng.choice(tokens, 1, replace=False), neuron] = 30
        some = rng.choice(tokens, rng.integers(2, 12), replace=False)
        values[some, neuron] = np.maximum(values[some, neuron], rng.uniform(0.35, 0.6, len(some)))
    layer = Layer(0, "mlp", 0, "m", 200, "relu", "positive")
    run = make_run([layer], [array_prompt("a", 30) for _ in range(20)], {0: values})
    expected = reference_classes(values, "relu")
    assert {"sporadic", "normal"} <= set(expected[100:])  # the case occurs both ways
    assert found_classes(run, layer) == expected
    assert not any(row.approximate for row in list_neurons(run, limit=None).rows)


@pytest.mark.parametrize("seed", range(3))
def test_saturation_that_the_moments_leave_open_is_counted_in_the_values(make_run: MakeRun, seed: int) -> None:
    """rho 0.93 with the extremes in 93 % of the tokens, and 0.96 all along: the moments leave both open."""
    rng = np.random.default_rng(seed)
    tokens = 300  # not a whole number of blocks: padding must not count
    sides = rng.random((tokens, 2)) < 0.5
    values = rng.uniform(0.2, 0.8, size=(tokens, 20)).astype(np.float32)
    values[:, :2] = np.where(sides, 0.0005, 0.9995)
    values[rng.choice(tokens, 21, replace=False), 0] = 0.5
    values[:, 1] = np.where(sides[:, 1], 0.02, 0.98)
    values[np.arange(tokens) % 30 == 0, :2] = 0.5  # with position 0 both are below 0.95
    layer = Layer(0, "mlp", 0, "m", 20, "sigmoid", "positive")
    prompts = [array_prompt("a", 30) for _ in range(10)]
    run = make_run([layer], prompts, {0: values})
    later = np.arange(tokens) % 30 > 0
    for counted, options in ((later, HealthOptions(skip_first=True)), (slice(None), HealthOptions())):
        expected = reference_classes(values[counted], "sigmoid")
        assert classify_run(run, "mlp", options).table.column("class").to_pylist() == expected
        assert expected[1] == ("normal" if isinstance(counted, slice) else "saturated")
        assert expected[0] == "normal"
    assert not any(row.approximate for row in list_neurons(run, limit=None).rows)
    about = classify_run(make_run([layer], prompts, {0: values}, keep="stats"), "mlp", HealthOptions(skip_first=True))
    assert about.table.column("approximate").to_pylist() == [True, True, *[False] * 18]


@pytest.mark.parametrize("seed", SEEDS)
def test_saturation_is_the_published_measure_and_lies_within_its_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, (low, high) in {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}.items():
        shapes = rng.uniform(0.05, 2, size=(2, 1, 30))
        values = (low + (high - low) * rng.beta(shapes[0], shapes[1], size=(400, 30))).astype(np.float32)
        sums = np.zeros((30, RHO_BINS))
        bin_sums(sums, np.arange(30), values.T, np.ones((30, 400), np.bool_), low, high)
        rho = saturation(sums, np.full(30, 400))
        assert rho == pytest.approx([reference_rho([float(x) for x in c], name) for c in values.T], abs=1e-12)
        lowest, highest = saturation_bounds(statistics_of(values), low, high)
        assert (lowest <= rho + 1e-9).all()
        assert (rho <= highest + 1e-9).all()
        if name == "tanh":
            assert lowest == pytest.approx(rho, abs=1e-9)
