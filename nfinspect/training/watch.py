"""Turns what was read in a step's passes into a reading and its alerts."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.history import Alert, LayerReading, Reading
from nfinspect.analysis.module_names import layer_words
from nfinspect.analysis.scores import LayerHealth
from nfinspect.analysis.training_alerts import LayerWatch, NetworkWatch
from nfinspect.training.samples import LayerSample, classified
from nfinspect_store.histogram import BINS
from nfinspect_store.history import timestamp
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class SeenLayer:
    """A layer in one reading. health and classes are None if its values were not finite."""

    name: str
    neurons: int
    health: LayerHealth | None
    classes: NDArray[np.str_] | None
    tokens: int
    since: int
    """The step of the oldest values that the classes rest on."""
    gradient_rms: float | None = None


@dataclass
class LayerWindow:
    """A layer's samples from the latest readings, which are merged for its classes."""

    layer: Layer
    size: int
    samples: deque[tuple[int, LayerSample]] = field(default_factory=deque)

    def seen(self, step: int, sample: LayerSample | None, options: HealthOptions, gradient: float | None) -> SeenLayer:
        """The layer with a new sample. None: its values were not finite, and the window restarts."""
        from nfinspect.analysis.site_health import health_of_layer  # imports the store's reader

        layer = self.layer
        if sample is None:
            self.samples.clear()
            return SeenLayer(layer.module, layer.neurons, None, None, 0, step, gradient)
        if len(sample.stats.n) != layer.neurons:  # the module was replaced by another
            self.samples.clear()
            layer = self.layer = replace(layer, neurons=len(sample.stats.n))
        self.samples.append((step, sample))
        while len(self.samples) > self.size:
            self.samples.popleft()
        merged = self.samples[0][1]
        for _, other in list(self.samples)[1:]:
            merged = merged.merge(other)
        neurons = classified(layer, merged, options)
        # No histogram, so no percentiles: it would cost as much as all the other sums.
        health = health_of_layer(neurons, np.zeros((1, BINS), np.int64), options)
        return SeenLayer(
            layer.module, layer.neurons, health, neurons.classes, merged.tokens, self.samples[0][0], gradient
        )


class TrainingWatch:
    """A training over its readings."""

    def __init__(self) -> None:
        self._layers: dict[str, LayerWatch] = {}
        self._network = NetworkWatch()
        self._silent: set[str] = set()

    def take(self, step: int, loss: float | None, seen: Sequence[SeenLayer]) -> tuple[Reading, tuple[Alert, ...]]:
        """A reading and the alerts that it raises. seen: layers in the order in which they ran."""
        from nfinspect.analysis.health import report_of_layers

        alerts: list[Alert] = []
        layers = [self._layer(step, layer, seen, alerts) for layer in seen]
        alerts += self._silences(step, seen)
        healths = [layer.health for layer in seen if layer.health is not None]
        report = report_of_layers(healths) if healths and len(healths) == len(seen) else None
        reading = Reading(
            step=step,
            time=timestamp(),
            loss=loss,
            health_score=report.overall_health_score if report else None,
            missing_percentage=report.missing_firing_percentage if report else None,
            problematic_layers=report.problematic_layers if report else None,
            layers=tuple(layers),
        )
        alerts += self._network.take(reading, report.alerts if report else ())
        return reading, tuple(alerts)

    def _layer(self, step: int, seen: SeenLayer, all_seen: Sequence[SeenLayer], alerts: list[Alert]) -> LayerReading:
        watch = self._layers.setdefault(seen.name, LayerWatch(len(self._layers), seen.name))
        kept = LayerReading(watch.layer, seen.name, seen.neurons, gradient_rms=_finite(seen.gradient_rms))
        if seen.health is None or seen.classes is None:
            return replace(kept, finite=False)
        reference = all_seen[-1].gradient_rms
        if seen.gradient_rms is not None and reference is not None:
            alerts += watch.take_gradient(step, seen.gradient_rms, reference)
        change = watch.take(step, seen.since, seen.classes)
        alerts += change.alerts
        health, values = seen.health, seen.health.activation_distribution
        return replace(
            kept,
            tokens=seen.tokens,
            activation_rate=health.activation_rate,
            health_score=health.health_score,
            firing_pattern=health.firing_pattern,
            dead_neurons=health.dead_neurons,
            saturated_neurons=health.saturated_neurons,
            sporadic_neurons=health.sporadic_neurons,
            missing_neurons=health.missing_neurons,
            weak_neurons=health.weak_neurons,
            mean=values.mean if values else None,
            std=values.std if values else None,
            died=change.died,
            revived=change.revived,
        )

    def _silences(self, step: int, seen: Sequence[SeenLayer]) -> list[Alert]:
        """Alerts for layers that were read before and were not called in this step."""
        silent = set(self._layers) - {layer.name for layer in seen}
        new, self._silent = silent - self._silent, silent
        return [
            Alert(
                step,
                "silent",
                "warning",
                f"{layer_words(name)} was not called in this step",
                self._layers[name].layer,
                name,
            )
            for name in sorted(new, key=lambda name: self._layers[name].layer)
        ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
