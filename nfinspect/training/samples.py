"""What one reading keeps of a layer's values: sums that merge, from which classes and health follow.

The sums are made where the values are (a GPU keeps them); the rules are those of nfinspect.analysis.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis import classes
from nfinspect.analysis.classes import HealthOptions
from nfinspect.capturing.statistics import chunk_statistics
from nfinspect.capturing.transfer import Array, to_host, to_workplace
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.types import Layer

if TYPE_CHECKING:
    from nfinspect.analysis.site_health import LayerClasses


@dataclass(frozen=True)
class LayerSample:
    """Sums over some of a layer's tokens, [neurons] in every array.

    fired: tokens on which the neuron fires; above_scale: tokens at or above the layer scale of the pass they came in
    (counted for neurons that could be sporadic); extremeness: Σ|g'| of ρ_B, None for activations without bounds.
    """

    stats: NeuronStatistics
    fired: NDArray[np.int64]
    above_scale: NDArray[np.int64]
    extremeness: NDArray[np.float64] | None

    def merge(self, other: "LayerSample") -> "LayerSample":
        both = self.extremeness is not None and other.extremeness is not None
        return LayerSample(
            self.stats.merge(other.stats),
            self.fired + other.fired,
            self.above_scale + other.above_scale,
            self.extremeness + other.extremeness if both else None,  # type: ignore[operator]
        )

    @property
    def tokens(self) -> int:
        return int(self.stats.n[0]) if len(self.stats.n) else 0


def take_sample(
    values: Tensor, fired: Tensor | None, activation: str, fires: str, threshold_weak: float
) -> LayerSample | None:
    """The sample of [tokens, neurons], one token or more; None where a value is NaN or infinite.

    fired: bool[tokens, neurons], for layers that fire by their gate.
    """
    values = values.detach().float().contiguous()
    if not bool(values.amax().isfinite() & values.amin().isfinite()):
        return None
    here = to_workplace(values, values.device)
    gates = None if fired is None else to_workplace(fired, values.device)
    stats = chunk_statistics(here, gates, fires)
    scale = classes.layer_scale(stats)
    counted = stats.fired
    if fires == "scale":
        threshold = threshold_weak * scale
        counted = _reaching(here, threshold) if threshold > 0 else np.zeros_like(stats.n)
    above = np.zeros_like(stats.n)
    if classes.is_sporadic_candidate(stats, scale).any():
        above = _reaching(here, scale)
    extremeness = None
    if activation in classes.BOUNDED and fires == "positive":
        extremeness = _extremeness(here, *classes.BOUNDED[activation])
    return LayerSample(stats, counted, above, extremeness)


def classified(layer: Layer, sample: LayerSample, options: HealthOptions) -> "LayerClasses":
    """The class of each neuron of a layer."""
    from nfinspect.analysis.site_health import LayerClasses  # imports the store's reader

    scale = classes.layer_scale(sample.stats)
    rho = None if sample.extremeness is None else sample.extremeness / np.maximum(sample.stats.n, 1)
    found = classes.classify(sample.stats, layer.activation, scale, sample.above_scale, options, rho)
    fired = sample.fired.astype(np.float64)
    return LayerClasses(layer, sample.stats, scale, fired, found, np.zeros(layer.neurons, np.bool_))


def _reaching(values: Array, threshold: float) -> NDArray[np.int64]:
    """On how many tokens |a| >= threshold, int64[neurons]."""
    from nfinspect.analysis.counting import at_least

    limit = float(at_least(threshold))
    count: Any = ((values >= limit) | (values <= -limit)).sum(0)
    return to_host(count).astype(np.int64)


def _extremeness(values: Array, low: float, high: float) -> NDArray[np.float64]:
    """Σ|g'|, g' = a scaled from [low, high] to [-1, 1]: no bin of ρ_B holds both signs (classes.saturation_bounds)."""
    xp: Any = torch if isinstance(values, Tensor) else np
    scaled = (values - (low + high) / 2) * (2.0 / (high - low))
    return to_host(xp.abs(scaled).sum(0, dtype=xp.float64))
