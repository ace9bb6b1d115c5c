"""Scores of layers and of the network, with their parts and their readings (methods §2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nfinspect.analysis.classes import FAULTS
from nfinspect.analysis.distribution import Distribution
from nfinspect.analysis.numbers import number
from nfinspect.analysis.router import RouterLoad
from nfinspect.json_values import Document
from nfinspect_store.types import CLASSES

WEIGHTS: Mapping[str, float] = {
    "dead": 1.0,
    "saturated": 0.75,
    "missing": 0.5,
    "weak": 0.25,
    "sporadic": 0.25,
}
"""What a layer loses if all its neurons are of a class [own]."""

ISSUE_PERCENT = 10  # % of a layer's neurons from which a class is an issue [own]
PROBLEM_WEIGHT = 0.05  # network score lost if every layer is problematic [own]
DEGRADATION_WEIGHT = 0.05  # network score lost per unit of fall from the first to the last third [own]
MISSING_ALERT_PERCENT = 50
PROBLEM_ALERT_PERCENT = 30

LOW_ACTIVATION = "low activation rate"

READINGS = (
    (0.8, "excellent", "excellent firing patterns"),
    (0.6, "good", "good with minor issues"),
    (0.4, "moderate", "moderate issues, needs attention"),
    (0.2, "poor", "poor firing, significant problems"),
    (0.0, "critical", "critical issues"),
)


@dataclass(frozen=True)
class LayerHealth:
    """One layer's health. Counts are of neurons, activation_rate and score run from 0 to 1.

    parts: what each class takes from the score (its share times its weight); 1 minus their sum is the score. issues:
    one line each; a layer with any is problematic. scale: the layer scale. approximate: whether a figure was estimated
    from a histogram because values were not kept. absent_neurons: those of experts that no token was routed to, which
    have no class and count in no share; router: of a mixture of experts.
    """

    layer_name: str
    site: str
    layer: int
    neurons: int
    activation_rate: float | None
    firing_pattern: str
    dead_neurons: int
    saturated_neurons: int
    sporadic_neurons: int
    missing_neurons: int
    weak_neurons: int
    health_score: float
    parts: Mapping[str, float]
    issues: tuple[str, ...]
    scale: float | None
    activation: str
    approximate: bool
    activation_distribution: Distribution | None
    absent_neurons: int = 0
    router: RouterLoad | None = None

    @property
    def reached_neurons(self) -> int:
        """Those that have a class: all but the absent ones."""
        return self.neurons - self.absent_neurons

    @property
    def normal_neurons(self) -> int:
        return self.reached_neurons - sum(self.count(name) for name in FAULTS)

    @property
    def problematic(self) -> bool:
        return bool(self.issues)

    def count(self, name: str) -> int:
        """How many neurons are of a class."""
        return self.normal_neurons if name == "normal" else int(getattr(self, f"{name}_neurons"))

    def share(self, name: str) -> float:
        """Share of the layer's neurons that are of a class, 0 to 1, absent ones left out."""
        return self.count(name) / max(1, self.reached_neurons)

    def has_issue(self, name: str) -> bool:
        """Whether a class (its share at least 10 %) or LOW_ACTIVATION is among the issues."""
        return any(issue.startswith(f"{name}:") for issue in self.issues)

    def to_json(self) -> dict[str, object]:
        of_experts: dict[str, object] = {}
        if self.router is not None:
            of_experts = {"absent_neurons": self.absent_neurons, "router": self.router.to_json()}
        return {
            "layer_name": self.layer_name,
            "site": self.site,
            "layer": self.layer,
            "neurons": self.neurons,
            "activation_rate": self.activation_rate,
            "firing_pattern": self.firing_pattern,
            **{f"{name}_neurons": self.count(name) for name in CLASSES},
            "activation_distribution": self.activation_distribution.to_json() if self.activation_distribution else None,
            "health_score": self.health_score,
            "parts": dict(self.parts),
            "issues": list(self.issues),
            "scale": self.scale,
            "approximate": self.approximate,
            **of_experts,
        }


def pattern(counts: Mapping[str, int], neurons: int) -> str:
    """The firing pattern of a layer: its largest class other than normal if that has 10 % of the neurons or more, ties
    to the earlier class; else normal.
    """
    held = [name for name in FAULTS if is_issue(counts[name], neurons)]
    return max(held, key=lambda name: counts[name], default="normal")


def is_issue(count: int, neurons: int) -> bool:
    """Whether a class with `count` of a layer's neurons is an issue. In integers: 0.1 is no exact float."""
    return count > 0 and 100 * count >= ISSUE_PERCENT * neurons


def layer_parts(counts: Mapping[str, int], neurons: int) -> dict[str, float]:
    """What each class takes from the layer's score."""
    return {name: WEIGHTS[name] * counts[name] / max(1, neurons) for name in FAULTS}


def layer_issues(
    counts: Mapping[str, int], neurons: int, activation_rate: float | None, threshold: float
) -> tuple[str, ...]:
    """One line for each issue, beginning with the class or with LOW_ACTIVATION and a colon. neurons: those that have a
    class.
    """
    lines = [
        f"{name}: {counts[name]} of {neurons} neurons ({100 * counts[name] / neurons:.1f} %)"
        for name in FAULTS
        if is_issue(counts[name], neurons)
    ]
    if activation_rate is not None and activation_rate < threshold:
        rate = f"{100 * activation_rate:.2f} % of (token, neuron) pairs fire"
        lines.append(f"{LOW_ACTIVATION}: {rate}, below {100 * threshold:g} %")
    return tuple(lines)


def make_layer_health(
    *,
    layer_name: str,
    site: str,
    layer: int,
    neurons: int,
    counts: Mapping[str, int],
    activation_rate: float | None,
    threshold_activation_rate: float,
    scale: float | None,
    activation: str = "",
    approximate: bool = False,
    distribution: Distribution | None = None,
    absent: int = 0,
    router: RouterLoad | None = None,
) -> LayerHealth:
    """A layer's health from the counts of its classes (every name of FAULTS), as shares of the neurons that are not
    absent.
    """
    reached = neurons - absent
    parts = layer_parts(counts, reached)
    return LayerHealth(
        layer_name=layer_name,
        site=site,
        layer=layer,
        neurons=neurons,
        activation_rate=number(activation_rate),
        firing_pattern=pattern(counts, reached),
        dead_neurons=counts["dead"],
        saturated_neurons=counts["saturated"],
        sporadic_neurons=counts["sporadic"],
        missing_neurons=counts["missing"],
        weak_neurons=counts["weak"],
        health_score=1.0 - sum(parts.values()),
        parts=parts,
        issues=layer_issues(counts, reached, number(activation_rate), threshold_activation_rate),
        scale=number(scale),
        activation=activation,
        approximate=approximate,
        activation_distribution=distribution,
        absent_neurons=absent,
        router=router,
    )


@dataclass(frozen=True)
class NetworkParts(Document):
    """The parts of the network score: mean_layer_score - problematic_penalty - degradation_penalty, clamped to 0-1.

    first_third, last_third: the mean scores of the first and the last third of the layers.
    """

    mean_layer_score: float
    problematic_penalty: float
    degradation_penalty: float
    first_third: float
    last_third: float

    @property
    def score(self) -> float:
        return min(1.0, max(0.0, self.mean_layer_score - self.problematic_penalty - self.degradation_penalty))


def network_parts(layers: Sequence[LayerHealth]) -> NetworkParts:
    """The parts of the network score, from one site's layers in order (at least one)."""
    scores = [layer.health_score for layer in layers]
    third = max(1, len(layers) // 3)
    first, last = sum(scores[:third]) / third, sum(scores[-third:]) / third
    return NetworkParts(
        mean_layer_score=sum(scores) / len(scores),
        problematic_penalty=PROBLEM_WEIGHT * sum(layer.problematic for layer in layers) / len(layers),
        degradation_penalty=DEGRADATION_WEIGHT * max(0.0, first - last),
        first_third=first,
        last_third=last,
    )


def reading(score: float) -> tuple[str, str]:
    """What a network score is called: in one word, and in a few."""
    return next((word, words) for floor, word, words in READINGS if score >= floor)


def alerts(layers: Sequence[LayerHealth], missing_percentage: float) -> tuple[str, ...]:
    """Alerts of a network, `Critical: …` before `Warning: …`."""
    lines = []
    if missing_percentage > MISSING_ALERT_PERCENT:
        lines.append(
            f"Critical: high missing firing rate, {missing_percentage:.1f} % of the neurons dead or missing "
            f"(above {MISSING_ALERT_PERCENT} %)"
        )
    problematic = sum(layer.problematic for layer in layers)
    if 100 * problematic > PROBLEM_ALERT_PERCENT * len(layers):
        lines.append(
            f"Warning: many problematic layers, {problematic} of {len(layers)} (above {PROBLEM_ALERT_PERCENT} %)"
        )
    return tuple(lines)
