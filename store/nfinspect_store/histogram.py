"""The signed-log histogram that is kept of every neuron: with fixed edges, parts merge exactly by addition.

Two bins per octave between 2^-14 and 2^10 on either side of zero, one bin in the middle for |a| < 2^-14 (zero
included), and one at each end for what lies beyond. The edges are float32 values whose lower 22 bits are zero, so the
bin of a value is read off its bits: sign, exponent and the first bit of the mantissa.
"""

import numpy as np
from numpy.typing import NDArray

SMALLEST_EXPONENT = -14
LARGEST_EXPONENT = 10
SIDE = 2 * (LARGEST_EXPONENT - SMALLEST_EXPONENT)
"""Bins on one side of zero, the overflow bin not counted."""

MIDDLE = SIDE + 1
BINS = 2 * SIDE + 3
SHIFT = 22
FIRST_KEY = (127 + SMALLEST_EXPONENT) << 1
"""Exponent and first mantissa bit of the smallest magnitude outside the middle bin."""

_magnitudes = np.array(
    [2.0**e * m for e in range(SMALLEST_EXPONENT, LARGEST_EXPONENT) for m in (1.0, 1.5)] + [2.0**LARGEST_EXPONENT]
)
EDGES: NDArray[np.float64] = np.concatenate([[-np.inf], -_magnitudes[::-1], _magnitudes, [np.inf]])
"""float64[BINS + 1], from -inf to +inf. A magnitude that equals an edge belongs to the bin farther from zero."""


_KEYS = np.arange(1 << (32 - SHIFT))
_MAGNITUDES = np.clip((_KEYS & ((1 << (31 - SHIFT)) - 1)) - FIRST_KEY, -1, SIDE) + 1
_BIN_OF_KEY: NDArray[np.int64] = MIDDLE + np.where(_KEYS >> (31 - SHIFT), -_MAGNITUDES, _MAGNITUDES)
"""The bin for each of the 1,024 leading bit patterns of a float32: looking it up takes a third of computing it."""

BIN_OF_KEY = _BIN_OF_KEY.astype(np.int16)
"""The same, small enough to stay in the first cache beside the counters."""


_next = np.nextafter(EDGES[1:-1].astype(np.float32), np.float32(np.inf))
ABOVE = np.append(np.where(EDGES[1:-1] < 0, _next, EDGES[1:-1]), np.nan).astype(np.float32)
"""float32[BINS]: the smallest value that is in a higher bin than this one; NaN for the highest."""


def bin_of(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each value, in any shape; the last axis must be contiguous."""
    keys = values.view(np.uint32) >> np.uint32(SHIFT)
    found: NDArray[np.int64] = np.take(
        _BIN_OF_KEY, keys, mode="clip"
    )  # no key is out of range: the check costs a third
    return found


def share_beyond(counts: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """About how many values have |a| >= threshold: int64[..., BINS] -> float64[...].

    Whole bins are counted; within the bin that the threshold cuts, values are taken to be uniform.
    """
    weights = np.zeros(BINS)
    for i in range(BINS):
        low, high = sorted((abs(EDGES[i]), abs(EDGES[i + 1]))) if i != MIDDLE else (0.0, EDGES[MIDDLE + 1])
        if threshold <= low:
            weights[i] = 1.0
        elif threshold < high:
            weights[i] = (high - threshold) / (high - low) if np.isfinite(high) else 1.0
    return counts @ weights
