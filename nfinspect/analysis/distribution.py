"""The distribution of a whole layer's values: mean, std, extremes, percentiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect_store.histogram import EDGES, MIDDLE

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Distribution(Document):
    """The values of a layer, every (token, neuron) pair counted alike; None where undefined.

    mean, std (n - 1), min and max are exact. percentiles: of the same values, by percent ('50' is the median), from the
    layer's merged signed-log histogram: exact to the bin (two bins an octave), interpolated linearly within it.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    percentiles: Mapping[str, float | None]


def distribution(
    n: NDArray[np.int64],
    mean: NDArray[np.float64],
    m2: NDArray[np.float64],
    minimum: NDArray[np.float32],
    maximum: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> Distribution:
    """The distribution of a layer, from its neurons' statistics, [neurons] each, and its merged histogram int64[BINS].

    m2: sum of squared deviations from each neuron's own mean; merged as in Chan et al. 1979.
    """
    reached = n > 0
    n, mean, m2 = n[reached], mean[reached], m2[reached]
    total = int(n.sum())
    if not total:
        return Distribution(None, None, None, None, {str(p): None for p in PERCENTILES})
    centre = float((n * mean).sum() / total)
    squares = float((m2 + n * (mean - centre) ** 2).sum())
    low, high = float(minimum[reached].min()), float(maximum[reached].max())
    points = percentiles(counts, low, high, PERCENTILES)
    return Distribution(
        mean=number(centre),
        std=number(np.sqrt(squares / (total - 1))) if total > 1 else None,
        min=number(low),
        max=number(high),
        percentiles={str(p): number(value) for p, value in zip(PERCENTILES, points, strict=True)},
    )


def percentiles(
    counts: NDArray[np.int64], minimum: float, maximum: float, percents: Sequence[float]
) -> NDArray[np.float64]:
    """Percentiles of the values in a signed-log histogram (int64[BINS]) whose extremes are known:
    float64[percents].

    Linear within a bin; values in the middle bin (|a| < 2^-14, zero included) count as 0. NaN for an empty histogram.
    """
    total = int(counts.sum())
    if not total:
        return np.full(len(percents), np.nan)
    edges = np.clip(EDGES, minimum, maximum)
    upto = np.cumsum(counts)
    ranks = np.asarray(percents, np.float64) / 100 * total
    bins = np.minimum(np.searchsorted(upto, ranks, side="left"), np.flatnonzero(counts)[-1])
    bins = np.maximum(bins, np.flatnonzero(counts)[0])
    inside = np.clip((ranks - (upto[bins] - counts[bins])) / np.maximum(counts[bins], 1), 0.0, 1.0)
    points = edges[bins] + inside * (edges[bins + 1] - edges[bins])
    return np.clip(np.where(bins == MIDDLE, 0.0, points), minimum, maximum)
