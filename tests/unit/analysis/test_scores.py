"""Scores, patterns, issues, alerts and recommendations of methods §2."""

import json

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers

from nfinspect.analysis.classes import FAULTS, HealthOptions
from nfinspect.analysis.health import network_report, report_of_layers
from nfinspect.analysis.recommendations import layer_names
from nfinspect.analysis.scores import LayerHealth, make_layer_health, pattern, reading
from nfinspect_store.types import Layer


def layer(number: int = 0, rate: float = 0.5, activation: str = "gelu", absent: int = 0, **counts: int) -> LayerHealth:
    return make_layer_health(
        layer_name=f"h.{number}",
        site="mlp",
        layer=number,
        neurons=100,
        counts={name: counts.get(name, 0) for name in FAULTS},
        activation_rate=rate,
        threshold_activation_rate=0.01,
        scale=1.0,
        activation=activation,
        absent=absent,
    )


def test_layer_score_and_its_parts() -> None:
    found = layer(dead=10, saturated=20, missing=4, weak=8, sporadic=12)
    assert found.parts == pytest.approx(
        {"dead": 0.10, "saturated": 0.15, "sporadic": 0.03, "missing": 0.02, "weak": 0.02}
    )
    assert found.health_score == pytest.approx(1 - 0.32)
    assert found.normal_neurons == 46
    assert layer(dead=100).health_score == 0


def test_absent_neurons_are_no_healthy_ones() -> None:
    """Of 100 neurons 60 belong to experts that no token was routed to: 30 dead ones are three quarters of the rest."""
    found = layer(dead=30, weak=4, absent=60)
    assert found.parts["dead"] == pytest.approx(30 / 40) and found.parts["weak"] == pytest.approx(0.25 * 4 / 40)
    assert found.health_score == pytest.approx(1 - 0.75 - 0.025)
    assert (found.normal_neurons, found.firing_pattern) == (6, "dead")
    assert found.issues == ("dead: 30 of 40 neurons (75.0 %)", "weak: 4 of 40 neurons (10.0 %)")
    report = report_of_layers([found, layer(1)])
    assert report.missing_firing_percentage == pytest.approx(100 * 30 / 140)
    assert "100 neurons" not in report.summary and "30 dead (21.4 %)" in report.summary
    assert report.recommendations[0].startswith("Layer 0, dead: 75.0 % of the neurons")
    assert report_of_layers([found]).alerts[0].startswith("Critical: high missing firing rate, 75.0 %")
    nothing = layer(absent=100)
    assert nothing.health_score == 1 and nothing.issues == () and nothing.normal_neurons == 0


def test_pattern_needs_ten_percent_and_ties_go_to_the_earlier_class() -> None:
    counts = dict.fromkeys(FAULTS, 0)
    assert pattern({**counts, "weak": 9, "dead": 9}, 100) == "normal"
    assert pattern({**counts, "weak": 10, "dead": 9}, 100) == "weak"
    assert pattern({**counts, "weak": 20, "missing": 20, "sporadic": 20}, 100) == "sporadic"
    assert pattern({**counts, "weak": 30, "saturated": 29}, 100) == "weak"


def test_issues_name_classes_of_ten_percent_and_low_activation() -> None:
    assert layer(dead=9, rate=0.01).issues == ()
    found = layer(dead=10, weak=11, rate=0.0099)
    assert [issue.split(":")[0] for issue in found.issues] == ["dead", "weak", "low activation rate"]
    assert found.problematic


def test_network_score_is_the_mean_less_problems_and_degradation() -> None:
    layers = [layer(0), layer(1, weak=8), layer(2, dead=40), layer(3, dead=40)]
    report = report_of_layers(layers)
    mean = (1 + 0.98 + 0.6 + 0.6) / 4
    assert report.parts.mean_layer_score == pytest.approx(mean)
    assert report.parts.problematic_penalty == pytest.approx(0.05 * 2 / 4)
    assert report.parts.degradation_penalty == pytest.approx(0.05 * (1 - 0.6))  # thirds of one layer
    assert report.overall_health_score == pytest.approx(mean - 0.025 - 0.02)
    assert report.missing_firing_percentage == pytest.approx(100 * 80 / 400)
    six = report_of_layers([layer(i, dead=10 * i) for i in range(6)])
    assert (six.parts.first_third, six.parts.last_third) == pytest.approx((0.95, 0.55))


def test_a_network_that_improves_with_depth_is_not_punished() -> None:
    assert report_of_layers([layer(0, dead=5), layer(1)]).parts.degradation_penalty == 0


def test_scores_stay_within_zero_and_one() -> None:
    assert report_of_layers([layer(i, dead=100, rate=0.0) for i in range(3)]).overall_health_score == 0
    assert report_of_layers([layer()]).overall_health_score == 1


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (1.0, "excellent"),
        (0.8, "excellent"),
        (0.79, "good"),
        (0.6, "good"),
        (0.4, "moderate"),
        (0.39, "poor"),
        (0.2, "poor"),
        (0.19, "critical"),
        (0.0, "critical"),
    ],
)
def test_reading(score: float, word: str) -> None:
    assert reading(score)[0] == word


def test_alerts_at_their_thresholds() -> None:
    assert report_of_layers([layer(dead=25, missing=25)]).alerts[0].startswith("Warning: many problematic")
    critical = report_of_layers([layer(dead=26, missing=25)]).alerts
    assert critical[0].startswith("Critical: high missing firing rate, 51.0 %")
    three_of_ten = [layer(i, dead=20 if i < 3 else 0) for i in range(10)]
    assert report_of_layers(three_of_ten).alerts == ()
    assert len(report_of_layers([*three_of_ten[:9], layer(9, weak=20)]).alerts) == 1


def test_recommendations_follow_from_the_issues_and_name_their_layers() -> None:
    assert report_of_layers([layer(), layer(1, dead=9)]).recommendations == ()
    found = report_of_layers(
        [layer(0, dead=20, activation="relu"), layer(1, dead=20, activation="relu"), layer(2, saturated=15)]
    ).recommendations
    assert found[0].startswith("Layers 0-1, dead: 20.0 % of the relu neurons")
    assert "LeakyReLU" in found[0]
    assert found[1].startswith("Layer 2, saturated: 15.0 %")
    assert "clipping" in found[1]
    assert len(found) == 2
    smooth = report_of_layers([layer(0, dead=20)]).recommendations[0]
    assert "ReLU" not in smooth
    quiet = report_of_layers([layer(0, rate=0.001)]).recommendations[0]
    assert quiet.startswith("Layer 0, low activation rate: only 0.10 %")


def test_layer_names() -> None:
    assert layer_names([3]) == "Layer 3"
    assert layer_names([9, 0, 1, 2, 7]) == "Layers 0-2, 7, 9"


def test_stored_and_recomputed_reports_agree(make_run: MakeRun) -> None:
    rng = np.random.default_rng(5)
    layers = [*mlp_layers(3, 60), Layer(3, "resid", 0, "h.0", 20, "", "scale")]
    values = {x.layer_id: rng.normal(size=(120, x.neurons)).astype(np.float32) for x in layers}
    values[1][:, :20] = 0
    run = make_run(layers, [array_prompt("a", 12) for _ in range(10)], values)
    nearly = HealthOptions(threshold_missing=0.01 + 1e-12)  # not the defaults: recomputed
    for site in ("mlp", "resid"):
        stored, fresh = network_report(run, site), network_report(run, site, nearly)
        assert _rounded(stored.to_json()) == _rounded(fresh.to_json())
    assert network_report(run).layer_analyses[1].firing_pattern == "dead"


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value


def test_distribution_of_a_layer(make_run: MakeRun) -> None:
    rng = np.random.default_rng(6)
    values = (rng.normal(size=(400, 50)) * 3 + 1).astype(np.float32)
    run = make_run(mlp_layers(1, 50), [array_prompt("a", 40) for _ in range(10)], {0: values})
    found = network_report(run).layer_analyses[0].activation_distribution
    assert found is not None
    assert found.mean == pytest.approx(float(values.mean(dtype=float)))
    assert found.std == pytest.approx(float(values.std(dtype=float, ddof=1)))
    assert (found.min, found.max) == (float(values.min()), float(values.max()))
    for percent, value in found.percentiles.items():
        exact = float(np.percentile(values, float(percent)))
        assert value == pytest.approx(exact, rel=0.25, abs=0.05)


def test_median_of_a_sparse_layer_is_zero(make_run: MakeRun) -> None:
    values = np.maximum(np.random.default_rng(7).normal(size=(100, 10)) - 1, 0).astype(np.float32)
    run = make_run(mlp_layers(1, 10, "relu"), [array_prompt("a", 100)], {0: values})
    found = network_report(run).layer_analyses[0].activation_distribution
    assert found is not None
    assert found.percentiles["50"] == 0.0
    assert found.min == 0.0


def test_json_has_the_fields_of_the_contract(make_run: MakeRun) -> None:
    values = np.zeros((3, 4), np.float32)
    run = make_run(mlp_layers(2, 4), [array_prompt("a", 3)], {0: values, 1: values})
    document = json.loads(json.dumps(network_report(run).to_json(), allow_nan=False))
    assert set(document) >= {
        "overall_health_score",
        "total_layers",
        "problematic_layers",
        "missing_firing_percentage",
        "summary",
        "interpretation",
        "recommendations",
        "alerts",
        "layer_analyses",
    }
    assert set(document["layer_analyses"][0]) >= {
        "layer_name",
        "site",
        "layer",
        "neurons",
        "activation_rate",
        "firing_pattern",
        "missing_neurons",
        "weak_neurons",
        "dead_neurons",
        "saturated_neurons",
        "sporadic_neurons",
        "activation_distribution",
        "health_score",
        "issues",
    }
    assert document["overall_health_score"] == 0
    assert document["missing_firing_percentage"] == 100


def test_excellent_says_how_many_layers_have_issues_all_the_same() -> None:
    """The mean of scores hides a layer that is half dead."""
    from nfinspect.analysis.health import report_of_layers
    from nfinspect.analysis.scores import make_layer_health

    def layer(i: int, dead: int) -> LayerHealth:
        return make_layer_health(
            layer_name=f"h.{i}", site="mlp", layer=i, neurons=100,
            counts={"dead": dead, "saturated": 0, "sporadic": 0, "missing": 0, "weak": 0},
            activation_rate=0.3, threshold_activation_rate=0.01, scale=0.5, activation="relu",
        )  # fmt: skip

    some = report_of_layers([layer(0, 0), layer(1, 12), layer(2, 11), layer(3, 15)])
    assert some.reading == "excellent"
    assert some.interpretation.startswith("Excellent firing patterns on average, with issues in 3 of 4 layers: 0.8")
    none = report_of_layers([layer(i, 0) for i in range(4)])
    assert none.interpretation.startswith("Excellent firing patterns: 1.00")
