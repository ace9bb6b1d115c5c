"""Health from arrays is the health that a run of the same values has."""

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt
from planted import LENGTH, PROMPTS, TOKENS, layer_of_each, reference_classes

from nfinspect.analysis.array_health import array_health, array_statistics
from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.health import classify_run
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.types import Layer

KINDS = ("relu", "gelu", "silu", "tanh", "sigmoid", "resid")
OPTIONS = (
    HealthOptions(),
    HealthOptions(0.02, 0.3, "absolute", threshold_activation_rate=0.45),
    HealthOptions(0.1, 0.9),
)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_says_the_same(make_run: MakeRun, seed: int) -> None:
    plants = layer_of_each(KINDS, np.random.default_rng(seed))
    run = make_run(
        [plant.layer for plant in plants],
        [array_prompt("a", LENGTH) for _ in range(PROMPTS)],
        {plant.layer.layer_id: plant.values for plant in plants},
        {plant.layer.layer_id: plant.fired for plant in plants if plant.fired is not None},
    )
    for options in OPTIONS:
        for site in ("mlp", "resid"):
            told = classify_run(run, site, options)
            layers = [plant for plant in plants if plant.layer.site == site]
            mine = [array_health(p.layer, p.values, p.fired, options) for p in layers]
            assert [c for found in mine for c in found.classes] == told.table.column("class").to_pylist()
            for found, expected in zip(mine, told.layers, strict=True):
                a, b = found.health.to_json(), expected.to_json()
                spread, held = a.pop("activation_distribution"), b.pop("activation_distribution")
                assert a.pop("scale") == pytest.approx(b.pop("scale"), rel=1e-12)
                assert a.pop("activation_rate") == pytest.approx(b.pop("activation_rate"), rel=1e-12)
                assert a == b
                assert spread.pop("percentiles") == pytest.approx(held.pop("percentiles"))
                assert spread == pytest.approx(held, rel=1e-9, abs=1e-12)


def test_statistics_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=(50, 7)).astype(np.float32)
    wide = values.astype(np.float64)
    stats = array_statistics(values)
    assert stats.mean == pytest.approx(wide.mean(0)) and stats.std == pytest.approx(wide.std(0, ddof=1))
    assert stats.mean_abs == pytest.approx(np.abs(wide).mean(0))
    assert stats.fired.tolist() == (values > 0).sum(0).tolist()
    assert stats.minimum.tolist() == values.min(0).tolist() and stats.maximum.tolist() == values.max(0).tolist()


def test_one_token_has_no_spread_to_be_saturated_by() -> None:
    layer = Layer(0, "mlp", 0, "m", 3, "relu", "positive")
    found = array_health(layer, np.array([[0, 2, 2]], np.float32))
    assert list(found.classes) == ["dead", "normal", "normal"]
    assert found.health.activation_rate == pytest.approx(2 / 3)


def test_a_layer_of_zeros_is_dead_and_does_not_fire() -> None:
    for fires, activation in (("scale", ""), ("positive", "tanh")):
        layer = Layer(0, "resid", 0, "m", 4, activation, fires)
        found = array_health(layer, np.zeros((10, 4), np.float32))
        assert set(found.classes) == {"dead"} and found.health.activation_rate == 0


def test_layers_larger_than_a_stripe_agree_with_the_plain_loops() -> None:
    values = np.maximum(np.random.default_rng(2).normal(size=(TOKENS, 1000)), 0).astype(np.float32)
    values[:, ::50] = 0
    layer = Layer(0, "mlp", 0, "m", 1000, "relu", "positive")
    assert values.size > 2**20
    assert list(array_health(layer, values).classes) == reference_classes(values, "relu")


def test_what_cannot_be_judged_is_refused() -> None:
    layer = Layer(0, "mlp", 0, "m", 3, "relu", "positive")
    gated = Layer(0, "mlp", 0, "m", 3, "silu", "gate")
    for given, values in (
        (layer, np.zeros((2, 4))),
        (layer, np.zeros((0, 3))),
        (layer, np.zeros(3)),
        (gated, np.ones((2, 3))),
    ):
        with pytest.raises(RequestError):
            array_health(given, values.astype(np.float32))
    with pytest.raises(StoreError, match="NaN or infinite"):
        array_health(layer, np.array([[1, np.nan, 2]], np.float32))
