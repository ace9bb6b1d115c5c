"""The class of a neuron: dead, saturated, sporadic, missing, weak or normal (methods §2). Pure functions on
arrays.

    statistics ──┐
    layer scale ─┼─► classify ─► one word per neuron; the first rule that holds gives it
    counts ──────┘
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.errors import RequestError
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.types import CLASSES, RELU_FAMILY, Layer

ThresholdScale = Literal["layer", "absolute"]

FAULTS = CLASSES[:-1]

BARE = "activation"
"""The site of values that come from no site of a language model: a tensor's, or a module's output."""

BOUNDED = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
"""Activations with a floor and a ceiling: these two."""

SATURATED_RHO = 0.95  # of ρ_B, methods §2
SATURATED_SPREAD = 0.05  # std / |mean| of a neuron stuck at one value [own]
SPORADIC_PERCENT = 1  # of the tokens, fewer than that [own]
SPORADIC_STRENGTH = 10.0  # max|a| in layer scales [own]
RHO_BINS = 10


@dataclass(frozen=True)
class HealthOptions:
    """The options of methods §2. The defaults are those of the tables `neurons` and `layer_health`.

    threshold_missing, threshold_weak: on E|a| in layer scales, or on E|a| itself with threshold_scale 'absolute'.
    skip_first: leave out the tokens at position 0. threshold_activation_rate: below it a layer has an issue. Raises
    RequestError for invalid thresholds.
    """

    threshold_missing: float = 0.01
    threshold_weak: float = 0.1
    threshold_scale: ThresholdScale = "layer"
    skip_first: bool = False
    threshold_activation_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.threshold_scale not in get_args(ThresholdScale):
            raise RequestError(f"threshold scale is layer or absolute, not {self.threshold_scale!r}")
        if not 0 <= self.threshold_missing <= self.threshold_weak < float("inf"):
            raise RequestError(
                "thresholds must be 0 <= missing <= weak, found "
                f"missing {self.threshold_missing:g} and weak {self.threshold_weak:g}"
            )
        if not 0 <= self.threshold_activation_rate <= 1:
            raise RequestError(
                f"the threshold of the activation rate is a share from 0 to 1, found {self.threshold_activation_rate:g}"
            )


def is_told(layer: Layer) -> bool:
    """Whether a layer's activation is known. It is unknown where values come from no site of a language model and no
    activation was given.
    """
    return layer.site != BARE or layer.activation != ""


def layer_scale(stats: NeuronStatistics) -> float:
    """Mean over the layer's neurons of E|a|; NaN when no token was counted. Neurons without a token are left
    out.
    """
    counted = stats.n > 0
    return float(stats.mean_abs[counted].mean()) if counted.any() else float("nan")


def dormancy(stats: NeuronStatistics, scale: float) -> NDArray[np.float64]:
    """s = E|a| / layer scale, float64[neurons] (Sokar et al. 2023); NaN where the scale is 0."""
    return stats.mean_abs / scale if scale > 0 else np.full(stats.n.shape, np.nan)


def largest_magnitude(stats: NeuronStatistics) -> NDArray[np.float64]:
    """max|a|: float64[neurons]; 0 where there is no token."""
    largest = np.maximum(np.abs(stats.minimum), np.abs(stats.maximum)).astype(np.float64)
    return np.where(stats.n > 0, largest, 0.0)


def is_sporadic_candidate(stats: NeuronStatistics, scale: float) -> NDArray[np.bool_]:
    """bool[neurons]: which are strong enough to be sporadic, so that their tokens above the layer scale must be
    counted.
    """
    return largest_magnitude(stats) >= SPORADIC_STRENGTH * scale if scale > 0 else np.zeros(stats.n.shape, np.bool_)


def bin_sums(
    sums: NDArray[np.float64],
    place: NDArray[np.int64],
    values: NDArray[np.float32],
    counted: NDArray[np.bool_],
    low: float,
    high: float,
) -> None:
    """Add values, scaled from [low, high] to [-1, 1], to the sums of their bins: float64[neurons, bins].

    values: float32[rows, tokens] of which those `counted` count, [tokens] or [rows, tokens]; place: the neuron of each
    row.
    """
    counted = np.broadcast_to(counted, values.shape)
    neurons, bins = sums.shape
    scaled = 2.0 * (values.astype(np.float64) - low) / (high - low) - 1.0
    which = np.clip(((scaled + 1.0) * (bins / 2)).astype(np.int64), 0, bins - 1) + place[:, None] * bins
    sums += np.bincount(which[counted], weights=scaled[counted], minlength=sums.size).reshape(neurons, bins)


def saturation(sums: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """ρ_B of each neuron from its `bin_sums` over n tokens: float64[neurons], 0 (never extreme) to 1
    (always).

    Rakitianskaia & Engelbrecht 2015: ρ_B = Σ_b |ḡ'_b| f_b / Σ_b f_b, with f_b the number of values in bin b of B equal
    bins over the activation's range and ḡ'_b their mean after scaling that range to [-1, 1]; |ḡ'_b| f_b is the absolute
    value of the bin's sum. NaN without a token.
    """
    total = np.abs(sums).sum(axis=1)
    rho: NDArray[np.float64] = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    return rho


def saturation_bounds(
    stats: NeuronStatistics, low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bounds of ρ_B that the moments give: two float64[neurons], equal where the moments settle it.

    For an even B no bin of ρ_B holds both signs of the scaled value g', so ρ_B = E|g'|; and as |g'| <= 1,
    max(E g'^2, |E g'|) <= E|g'| <= sqrt(E g'^2) [own]. Where g' keeps one sign both are |E g'|, and on a
    range that is symmetric about 0 they are E|a| / high.
    """
    half, centre = (high - low) / 2, (high + low) / 2
    counted = np.where(stats.n > 0, stats.n, 1)
    if centre == 0.0:
        exact = np.where(stats.n > 0, stats.sum_abs / counted / half, np.nan)
        return exact, exact
    mean = (stats.mean - centre) / half
    square = stats.m2 / counted / half**2 + mean**2
    lowest, highest = np.maximum(square, np.abs(mean)), np.sqrt(square)
    one_sign = (stats.minimum >= centre) | (stats.maximum <= centre)
    return np.where(one_sign, np.abs(mean), np.minimum(lowest, highest)), np.where(one_sign, np.abs(mean), highest)


def classify(
    stats: NeuronStatistics,
    activation: str,
    scale: float,
    above_scale: NDArray[np.int64] | NDArray[np.float64],
    options: HealthOptions,
    rho: NDArray[np.float64] | None = None,
    *,
    told: bool = True,
) -> NDArray[np.str_]:
    """The class of each neuron of one layer: str[neurons].

    stats: over the tokens counted. activation: of an `mlp` neuron, '' where the site has none. scale: `layer_scale`.
    above_scale: on how many tokens |a| >= scale; read only where `is_sporadic_candidate`. rho: ρ_B of neurons with a
    bounded activation; without it saturation is judged by the spread, as for the other activations. told: whether the
    activation is known ('' means that there is none); if it is not, only a neuron that is 0 on every token is dead. A
    neuron without a token (n = 0) is dead [own]; of a mixture of experts the caller makes it absent.
    """
    mean_abs = np.where(stats.n > 0, stats.mean_abs, 0.0)
    unit = scale if options.threshold_scale == "layer" else 1.0
    if not scale > 0:
        return np.full(stats.n.shape, "dead")
    if activation in RELU_FAMILY or not told:
        dead = (stats.minimum == 0) & (stats.maximum == 0)
    else:
        dead = largest_magnitude(stats) < options.threshold_missing * unit
    if rho is not None:
        saturated = rho >= SATURATED_RHO
    else:
        # std is NaN for a single token, and then no spread can be called small.
        still = stats.std <= SATURATED_SPREAD * np.abs(stats.mean)
        saturated = still & (mean_abs >= options.threshold_weak * unit)
    rare = (above_scale > 0) & (above_scale * 100 < stats.n * SPORADIC_PERCENT)
    rules = (
        dead | (stats.n == 0),
        saturated,
        rare & is_sporadic_candidate(stats, scale),
        mean_abs < options.threshold_missing * unit,
        mean_abs < options.threshold_weak * unit,
    )
    return np.select(rules, FAULTS, default="normal")
