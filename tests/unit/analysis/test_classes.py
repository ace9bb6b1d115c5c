"""The rules of methods §2 one by one, and their order."""

from dataclasses import replace

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers, statistics_of

from nfinspect.analysis.classes import HealthOptions, classify, dormancy, layer_scale
from nfinspect.analysis.counting import at_least, bounds_reaching
from nfinspect.analysis.health import classify_run, network_report
from nfinspect.analysis.neurons import list_neurons
from nfinspect_store.errors import NfinspectError, RequestError
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.types import Layer

DEFAULTS = HealthOptions()


def classes_of(values: np.ndarray, activation: str = "gelu", options: HealthOptions = DEFAULTS) -> list[str]:
    stats = statistics_of(values.astype(np.float32))
    scale = layer_scale(stats)
    above = (np.abs(values.astype(float)) >= scale).sum(axis=0)
    return classify(stats, activation, scale, above, options).tolist()


def columns(*values: object) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(v, float), 1000) for v in values], axis=1).astype(np.float32)


ALTERNATING = np.where(np.arange(1000) % 2, 1.0, -1.0)


def test_a_silent_layer_is_dead_whatever_its_activation() -> None:
    for activation in ("relu", "gelu", "tanh", ""):
        assert classes_of(np.zeros((1000, 3)), activation) == ["dead"] * 3


def test_relu_family_is_dead_only_at_exactly_zero_and_others_below_the_threshold() -> None:
    values = columns(ALTERNATING, 0.0, np.where(np.arange(1000) == 7, 1e-30, 0.0))
    for activation in ("relu", "relu2", "relu6", "relu_squared"):
        assert classes_of(values, activation) == ["normal", "dead", "missing"]
    assert classes_of(values, "gelu") == ["normal", "dead", "dead"]


def test_dead_comes_before_saturated_and_saturated_before_missing() -> None:
    # A constant far below the layer's scale is dead, not stuck; one well above the weak threshold is stuck.
    values = columns(ALTERNATING, ALTERNATING, 0.001, 0.05, 0.5, -0.5)
    assert classes_of(values) == ["normal", "normal", "dead", "weak", "saturated", "saturated"]


def test_thresholds_are_in_layer_scales_or_absolute() -> None:
    values = columns(ALTERNATING * 100, ALTERNATING * 100, ALTERNATING * 1.0)
    assert classes_of(values) == ["normal", "normal", "weak"]
    assert classes_of(values, options=replace(DEFAULTS, threshold_scale="absolute"))[2] == "normal"
    scaled = [classes_of(values * factor) for factor in (1e-3, 1.0, 1e3)]
    assert scaled[0] == scaled[1] == scaled[2]  # scale-free


def test_one_token_has_no_spread_and_is_not_saturated() -> None:
    stats = statistics_of(np.array([[1.0, 2.0]], np.float32))
    assert classify(stats, "gelu", layer_scale(stats), np.ones(2), DEFAULTS).tolist() == ["normal", "normal"]


def test_sporadic_needs_rarity_below_one_percent_and_ten_scales() -> None:
    def rare(count: int, strength: float) -> np.ndarray:
        return np.where(np.arange(1000) < count, strength, 0.0)

    crowd = [ALTERNATING] * 200  # so that the layer scale stays near 1
    values = columns(*crowd, rare(9, 12.0), rare(10, 12.0), rare(9, 9.0))
    assert classes_of(values)[200:] == ["sporadic", "normal", "weak"]


def test_nothing_fires_in_a_silent_residual_layer(make_run: MakeRun) -> None:
    layers = [Layer(0, "resid", 0, "h.0", 3, "", "scale")]
    run = make_run(layers, [array_prompt("a", 9)], {0: np.zeros((9, 3), np.float32)})
    assert [row.firing_rate for row in list_neurons(run).rows] == [0.0] * 3


def test_dormancy_is_undefined_where_the_scale_is_zero() -> None:
    stats = statistics_of(np.zeros((5, 2), np.float32))
    assert np.isnan(dormancy(stats, layer_scale(stats))).all()


def test_a_threshold_between_two_float32_values_is_not_rounded_down() -> None:
    below = np.float32(0.7)
    assert float(below) < 0.7 <= float(at_least(0.7))
    assert at_least(float(below)) == below


@pytest.mark.parametrize("seed", range(20))
def test_histogram_bounds_hold_the_exact_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(500, 8)) * np.exp(rng.normal(size=8) * 4)).astype(np.float32)
    counts = np.stack([np.bincount(bin_of(column), minlength=BINS) for column in values.T])
    thresholds = [float(abs(values[0, 0])), 1e-6, 0.75, 1.0, 1024.0, 5000.0]
    for threshold in thresholds:
        fewest, most = bounds_reaching(counts, threshold)
        exact = (np.abs(values.astype(float)) >= threshold).sum(axis=0)
        assert (np.abs(values) >= at_least(threshold)).sum(axis=0).tolist() == exact.tolist()
        assert (fewest <= exact).all()
        assert (exact <= most).all()


def test_undefined_statistics_are_null_and_never_zero(make_run: MakeRun) -> None:
    values = np.array([[3.0, 0.0]], np.float32)
    row = list_neurons(make_run(mlp_layers(1, 2), [array_prompt("a", 1)], {0: values})).rows[0]
    assert (row.n, row.mean, row.min, row.max) == (1, 3.0, 3.0, 3.0)
    assert (row.std, row.skewness, row.excess_kurtosis, row.rate_upper95) == (None, None, None, None)


def test_rule_of_three_and_near_dead(make_run: MakeRun) -> None:
    values = np.zeros((2000, 3), np.float32)
    values[:, 0] = 1
    values[5, 1] = 1.0
    run = make_run(mlp_layers(1, 3, "relu"), [array_prompt("a", 20) for _ in range(100)], {0: values})
    rows = list_neurons(run, sort="neuron", descending=False).rows
    assert [row.near_dead for row in rows] == [False, True, True]
    assert [row.rate_upper95 for row in rows] == [None, None, 3 / 2000]
    assert [row.cls for row in rows][2] == "dead"


def test_skip_first_leaves_out_position_zero_in_every_column(make_run: MakeRun) -> None:
    rng = np.random.default_rng(3)
    layers = [*mlp_layers(1, 40), Layer(1, "resid", 0, "h.0", 40, "", "scale")]
    prompts = [array_prompt("a", size) for size in (1, 7, 30, 12)]
    first = np.concatenate([np.arange(len(p.token_ids)) == 0 for p in prompts])
    values = {layer.layer_id: rng.normal(size=(50, 40)).astype(np.float32) for layer in layers}
    for array in values.values():
        array[first] *= 100  # an attention sink
        array[~first, 0] = 0  # nothing but the sink
    run = make_run(layers, prompts, values)
    for site, array in (("mlp", values[0]), ("resid", values[1])):
        whole = list_neurons(run, site=site, sort="neuron", descending=False)
        rows = list_neurons(
            run, site=site, sort="neuron", descending=False, options=HealthOptions(skip_first=True)
        ).rows
        assert rows[0].cls == "dead"
        assert whole.rows[0].cls != "dead"
        left = array[~first]
        assert [row.n for row in rows] == [46] * 40
        assert [row.max for row in rows] == pytest.approx(left.max(axis=0).tolist())
        assert [row.std for row in rows] == pytest.approx(left.astype(float).std(axis=0, ddof=1).tolist())
        scale = float(np.abs(left).astype(float).mean())
        fires = left > 0 if site == "mlp" else np.abs(left) >= 0.1 * scale
        assert [row.firing_rate for row in rows] == pytest.approx(fires.mean(axis=0).tolist())
        assert not any(row.approximate for row in rows)


def test_firing_by_scale_is_exact_from_values_and_marked_approximate_without(make_run: MakeRun) -> None:
    rng = np.random.default_rng(4)
    values = {0: (rng.normal(size=(300, 50)) * np.exp(rng.normal(size=50))).astype(np.float32)}
    layers = [Layer(0, "resid", 0, "h.0", 50, "", "scale")]
    prompts = [array_prompt("a", 30) for _ in range(10)]
    exact = list_neurons(make_run(layers, prompts, values), sort="neuron", descending=False)
    about = list_neurons(make_run(layers, prompts, values, keep="stats"), sort="neuron", descending=False)
    scale = np.abs(values[0].astype(float)).mean()
    rates = (np.abs(values[0]) >= 0.1 * scale).mean(axis=0).tolist()
    assert [row.firing_rate for row in exact.rows] == pytest.approx(rates)
    assert [row.firing_rate for row in about.rows] == pytest.approx(rates, abs=0.05)
    assert not any(row.approximate for row in exact.rows)
    assert all(row.approximate for row in about.rows)


def test_without_values_only_what_needed_a_count_is_approximate(make_run: MakeRun) -> None:
    values = np.full((1000, 200), 1.0, np.float32) * ALTERNATING[:, None].astype(np.float32)
    values[:, 7] = 0
    values[3, 7] = 40
    prompts = [array_prompt("a", 50) for _ in range(20)]
    run = make_run(mlp_layers(1, 200), prompts, {0: values}, keep="stats")
    rows = list_neurons(run, limit=None).rows
    assert [row.neuron for row in rows if row.approximate] == [7]
    assert [row.neuron for row in rows if row.cls == "sporadic"] == [7]
    assert network_report(run).approximate


def test_nothing_left_to_count_is_refused(make_run: MakeRun) -> None:
    run = make_run(mlp_layers(1, 4), [array_prompt("a", 1)], {0: np.ones((1, 4), np.float32)})
    with pytest.raises(RequestError, match="position 0"):
        classify_run(run, options=HealthOptions(skip_first=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold_missing": -1},
        {"threshold_missing": 0.5},
        {"threshold_weak": float("nan")},
        {"threshold_scale": "relative"},
        {"threshold_activation_rate": 2},
    ],
)
def test_thresholds_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        HealthOptions(**wrong)  # type: ignore[arg-type]


def test_unknown_site_is_refused(make_run: MakeRun) -> None:
    run = make_run(mlp_layers(1, 4), [array_prompt("a", 3)], {0: np.ones((3, 4), np.float32)})
    with pytest.raises(NfinspectError, match="mlp"):
        classify_run(run, "attn")
