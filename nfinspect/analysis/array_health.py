"""The health of a layer whose values are in memory: the same as `classify_layer` finds for a run's layer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis import classes
from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.counting import at_least
from nfinspect.analysis.scores import LayerHealth
from nfinspect.analysis.site_health import LayerClasses, check_layer, health_of_layer
from nfinspect_store.errors import RequestError
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics
from nfinspect_store.types import Layer

STRIPE_VALUES = 2**20
"""Values widened to float64 at a time: 8 MiB."""


@dataclass(frozen=True)
class ArrayHealth:
    """One layer's health, and its neurons' classes and statistics ([neurons] each); all of it is exact."""

    health: LayerHealth
    neurons: LayerClasses

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class of each neuron: str[neurons]."""
        return self.neurons.classes


def array_health(
    layer: Layer,
    values: NDArray[np.float32],
    fired: NDArray[np.bool_] | None = None,
    options: HealthOptions | None = None,
) -> ArrayHealth:
    """The health of float32[tokens, neurons]; every token counts (leave out position 0 beforehand).

    fired: bool[tokens, neurons], needed where `layer.fires` is 'gate'. Raises RequestError for another shape, for no
    token, or without `fired` where it is needed; StoreError for NaN or infinite values.
    """
    options = options or HealthOptions()
    if values.ndim != 2 or values.shape[1] != layer.neurons or not len(values):
        raise RequestError(f"expected values of [tokens, {layer.neurons}], one token or more; found {values.shape}")
    if layer.fires == "gate" and (fired is None or fired.shape != values.shape):
        raise RequestError(f"expected `fired` of {values.shape}: {layer.site} L{layer.layer} fires by its gate")
    stats = array_statistics(values, fired, layer.fires)
    check_layer(layer, stats)
    scale = classes.layer_scale(stats)
    counted = stats.fired.astype(np.float64)
    if layer.fires == "scale":
        threshold = options.threshold_weak * scale
        # In a layer of nothing but zeros nothing fires, though 0 >= 0.1 x 0.
        counted = _reaching(values, threshold) if threshold > 0 else np.zeros(layer.neurons)
    rho = None
    if layer.activation in classes.BOUNDED and layer.fires == "positive":
        rho = _saturation(values, stats, layer.activation)
    above = np.zeros(layer.neurons)
    candidates = classes.is_sporadic_candidate(stats, scale)
    above[candidates] = _reaching(values[:, candidates], scale)
    found = classes.classify(stats, layer.activation, scale, above, options, rho, told=classes.is_told(layer))
    neurons = LayerClasses(layer, stats, scale, counted, found, np.zeros(layer.neurons, np.bool_))
    return ArrayHealth(health_of_layer(neurons, _histogram(values), options), neurons)


def array_statistics(
    values: NDArray[np.float32], fired: NDArray[np.bool_] | None = None, fires: str = "positive"
) -> NeuronStatistics:
    """Statistics of float32[tokens, neurons], at least one token. A neuron fires where `fired` is true, without it
    where a > 0.
    """
    step = max(1, STRIPE_VALUES // len(values))
    parts = [
        _statistics(values[:, i : i + step], None if fired is None else fired[:, i : i + step], fires)
        for i in range(0, values.shape[1], step)
    ]
    return NeuronStatistics.concatenate(parts)


def _statistics(values: NDArray[np.float32], fired: NDArray[np.bool_] | None, fires: str) -> NeuronStatistics:
    tokens, neurons = values.shape
    wide = values.astype(np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    # A neuron that never varied has no variance, whatever rounding of its mean would say.
    mean = np.where(low == high, wide[0], wide.mean(axis=0))
    sum_abs = np.abs(wide).sum(axis=0)
    wide -= mean
    square = wide * wide
    count = (values > 0 if fired is None else fired).sum(axis=0)
    return NeuronStatistics(
        n=np.full(neurons, tokens, np.int64),
        fired=np.full(neurons, UNKNOWN) if fires == "scale" else count.astype(np.int64),
        mean=mean,
        m2=square.sum(axis=0),
        m3=(square * wide).sum(axis=0),
        m4=(square * square).sum(axis=0),
        minimum=low,
        maximum=high,
        sum_abs=sum_abs,
    )


def _reaching(values: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """On how many tokens |a| >= threshold: float64[neurons]."""
    limit = at_least(threshold)
    count: NDArray[np.float64] = ((values >= limit) | (values <= -limit)).sum(axis=0).astype(np.float64)
    return count


def _saturation(values: NDArray[np.float32], stats: NeuronStatistics, activation: str) -> NDArray[np.float64]:
    low, high = classes.BOUNDED[activation]
    sums = np.zeros((values.shape[1], classes.RHO_BINS))
    step = max(1, STRIPE_VALUES // len(values))
    for start in range(0, values.shape[1], step):
        rows = values[:, start : start + step].T
        place = np.arange(start, start + len(rows))
        classes.bin_sums(sums, place, rows, np.ones(rows.shape, np.bool_), low, high)
    return classes.saturation(sums, stats.n)


def _histogram(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The histogram of all values together: int64[1, BINS]."""
    counts = np.zeros(BINS, np.int64)
    flat = np.ascontiguousarray(values).reshape(-1)
    for start in range(0, len(flat), STRIPE_VALUES):
        counts += np.bincount(bin_of(flat[start : start + STRIPE_VALUES]), minlength=BINS)
    return counts[None, :]
