"""What one reading keeps of a layer's values: sums that can be merged, from which classes and health follow.

The sums are computed on the device where the values are; the rules are those of nfinspect.analysis.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis import classes
from nfinspect.analysis.classes import HealthOptions
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics
from nfinspect_store.types import Layer

if TYPE_CHECKING:
    from nfinspect.analysis.site_health import LayerClasses


ROWS = 256
"""Rows converted to float64 at a time: 6 MB for 3072 neurons."""


@dataclass(frozen=True)
class LayerSample:
    """Sums over some of a layer's tokens, [neurons] in every array.

    scale: the layer scale; fired: number of tokens on which the neuron fires; above_scale: number with |a| at or above
    the layer scale of their pass (counted only if some neuron could be sporadic); extremeness: Σ|g'| of ρ_B, None for
    activation functions without bounds.
    """

    stats: NeuronStatistics
    scale: float
    fired: NDArray[np.int64]
    above_scale: NDArray[np.int64]
    extremeness: NDArray[np.float64] | None

    def merge(self, other: "LayerSample") -> "LayerSample":
        both = self.extremeness is not None and other.extremeness is not None
        stats = self.stats.merge(other.stats)
        return LayerSample(
            stats,
            classes.layer_scale(stats),
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
    """The sample of [tokens, neurons], one token or more; None if any value is NaN or infinite.

    fired: bool[tokens, neurons], for layers that fire by their gate.
    """
    values = values.detach().float().contiguous()
    stats = _statistics(values, fired, fires)
    if not np.isfinite(stats.sum_abs).all():  # float32 values summed in float64 cannot overflow
        return None
    scale = float((stats.sum_abs / len(values)).mean())  # classes.layer_scale, as all neurons have the same tokens
    counted = stats.fired
    if fires == "scale":
        threshold = threshold_weak * scale
        counted = _reaching(values, threshold) if threshold > 0 else np.zeros_like(stats.n)
    above = np.zeros_like(stats.n)
    if classes.is_sporadic_candidate(stats, scale).any():
        above = _reaching(values, scale)
    extremeness = None
    if activation in classes.BOUNDED and fires == "positive":
        extremeness = _extremeness(values, *classes.BOUNDED[activation])
    return LayerSample(stats, scale, counted, above, extremeness)


def classified(layer: Layer, sample: LayerSample, options: HealthOptions) -> "LayerClasses":
    """The class of each neuron of a layer."""
    from nfinspect.analysis.site_health import LayerClasses  # imports the store's reader

    scale = sample.scale
    rho = None if sample.extremeness is None else sample.extremeness / np.maximum(sample.stats.n, 1)
    told = classes.is_told(layer)
    found = classes.classify(sample.stats, layer.activation, scale, sample.above_scale, options, rho, told=told)
    fired = sample.fired.astype(np.float64)
    return LayerClasses(layer, sample.stats, scale, fired, found, np.zeros(layer.neurons, np.bool_))


def _statistics(values: Tensor, fired: Tensor | None, fires: str) -> NeuronStatistics:
    """Of float32[tokens, neurons], by torch, whose threads are idle between two layers of a training step.

    Two passes, the second about the mean, in float64. Third and fourth moments are NaN: no class rests on them, and
    they would double the cost.
    """
    tokens, neurons = values.shape
    whole = values.double() if tokens <= ROWS else None  # small: converted only once

    def wide_parts() -> Iterable[Tensor]:
        starts = range(0, tokens, ROWS)
        return (whole,) if whole is not None else (values[at : at + ROWS].double() for at in starts)

    # On a CPU sum(0, dtype=float64) is slower; so is a sum of bools, and computing those takes three times as long.
    mean = reduce(torch.add, (wide.sum(0) for wide in wide_parts())) / tokens

    def sums_of(wide: Tensor) -> Tensor:
        size = wide.abs()
        sum_abs = size.sum(0)
        count = torch.gt(wide, 0, out=size).sum(0)
        return torch.stack([wide.sub_(mean).square_().sum(0), sum_abs, count])

    m2, sum_abs, count = reduce(torch.add, map(sums_of, wide_parts()))
    low, high = values.amin(0).double(), values.amax(0).double()  # aminmax takes twelve times as long on a CPU
    count = count if fired is None else fired.sum(0).double()
    # One transfer: each one would wait for the GPU.
    found = torch.stack([mean, m2, sum_abs, count, low, high]).cpu().numpy()
    varied, unknown = found[4] != found[5], np.full(neurons, np.nan)
    return NeuronStatistics(
        n=np.full(neurons, tokens, np.int64),
        fired=np.full(neurons, UNKNOWN) if fires == "scale" else found[3].astype(np.int64),
        # A neuron that never varied has no variance, even if its computed mean is rounded.
        mean=np.where(varied, found[0], found[4]),
        m2=found[1] * varied,
        m3=unknown,
        m4=unknown,
        minimum=found[4].astype(np.float32),
        maximum=found[5].astype(np.float32),
        sum_abs=found[2],
    )


def _reaching(values: Tensor, threshold: float) -> NDArray[np.int64]:
    """The number of tokens with |a| >= threshold: int64[neurons]."""
    from nfinspect.analysis.counting import at_least

    size = values.abs()
    reached = torch.ge(size, float(at_least(threshold)), out=size).sum(0, dtype=torch.float64)
    return reached.cpu().numpy().astype(np.int64)


def _extremeness(values: Tensor, low: float, high: float) -> NDArray[np.float64]:
    """Σ|g'|, g' = a scaled from [low, high] to [-1, 1]: no bin of ρ_B has both signs (classes.saturation_bounds)."""
    scaled = (values - (low + high) / 2) * (2.0 / (high - low))
    total: NDArray[np.float64] = scaled.abs_().sum(0, dtype=torch.float64).cpu().numpy()
    return total
