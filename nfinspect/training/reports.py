"""The reports of the firing analyzer. Field names are part of the public API."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.scores import LayerHealth
from nfinspect_store.errors import RequestError
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from nfinspect.analysis.health import NetworkReport


class FiringPatternType(StrEnum):
    """The prevailing class of faulty neurons in a layer (methods §2); `normal` if none makes up 10 %."""

    NORMAL = "normal"
    DEAD = "dead"
    SATURATED = "saturated"
    SPORADIC = "sporadic"
    MISSING = "missing"
    WEAK = "weak"


@dataclass(frozen=True)
class NeuralLayerAnalysis:
    """One layer. Counts are of neurons; activation_rate and health_score are from 0 to 1.

    activation_distribution: mean, std, min, max and percentiles (by percent) of all values. parts: what each class
    takes from the score. classes: of each neuron, str[neurons]; tokens: how many samples (tokens, positions) they rest
    on; health: the same figures as the analyses represent them.
    """

    layer_name: str
    activation_rate: float
    firing_pattern: FiringPatternType
    missing_neurons: int
    weak_neurons: int
    dead_neurons: int
    activation_distribution: dict[str, Any]
    issues: list[str]
    saturated_neurons: int
    sporadic_neurons: int
    neurons: int
    tokens: int
    health_score: float
    parts: dict[str, float]
    site: str
    layer: int
    activation: str
    classes: NDArray[np.str_] = field(repr=False, compare=False)
    health: LayerHealth = field(repr=False, compare=False)

    @classmethod
    def of(cls, health: LayerHealth, classes: NDArray[np.str_], tokens: int) -> "NeuralLayerAnalysis":
        distribution = health.activation_distribution
        return cls(
            layer_name=health.layer_name,
            activation_rate=health.activation_rate or 0.0,
            firing_pattern=FiringPatternType(health.firing_pattern),
            missing_neurons=health.missing_neurons,
            weak_neurons=health.weak_neurons,
            dead_neurons=health.dead_neurons,
            activation_distribution=distribution.to_json() if distribution else {},
            issues=list(health.issues),
            saturated_neurons=health.saturated_neurons,
            sporadic_neurons=health.sporadic_neurons,
            neurons=health.neurons,
            tokens=tokens,
            health_score=health.health_score,
            parts=dict(health.parts),
            site=health.site,
            layer=health.layer,
            activation=health.activation,
            classes=classes,
            health=health,
        )

    def neurons_of(self, name: str) -> list[int]:
        """The neurons of a class. Raises RequestError for an unknown class."""
        if name not in CLASSES:
            raise RequestError(f"expected a class of {', '.join(CLASSES)}, found {name!r}")
        return [int(i) for i in np.flatnonzero(self.classes == name)]

    def to_json(self) -> dict[str, object]:
        """The fields as in `nfinspect health --json`, without `classes` and `health`."""
        found = {name: value for name, value in vars(self).items() if name not in ("classes", "health")}
        return {**found, "firing_pattern": str(self.firing_pattern)}


@dataclass(frozen=True)
class NetworkFiringReport:
    """A network. missing_firing_percentage is 0-100, overall_health_score 0-1; score_parts add up to the score."""

    total_layers: int
    problematic_layers: int
    missing_firing_percentage: float
    overall_health_score: float
    layer_analyses: list[NeuralLayerAnalysis]
    recommendations: list[str]
    summary: str
    interpretation: str
    alerts: list[str]
    score_parts: dict[str, float]

    @classmethod
    def of(cls, report: "NetworkReport", layers: Sequence[NeuralLayerAnalysis]) -> "NetworkFiringReport":
        return cls(
            total_layers=report.total_layers,
            problematic_layers=report.problematic_layers,
            missing_firing_percentage=report.missing_firing_percentage,
            overall_health_score=report.overall_health_score,
            layer_analyses=list(layers),
            recommendations=list(report.recommendations),
            summary=report.summary,
            interpretation=report.interpretation,
            alerts=list(report.alerts),
            score_parts=report.parts.to_json(),
        )

    def to_json(self) -> dict[str, object]:
        """The fields as in `nfinspect health --json`."""
        found = {name: value for name, value in vars(self).items() if name != "score_parts"}
        layers = [layer.to_json() for layer in self.layer_analyses]
        return {**found, "parts": dict(self.score_parts), "layer_analyses": layers}
