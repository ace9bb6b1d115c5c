"""How often a neuron's magnitude reaches a threshold that is known only after all tokens were read.

Exact from stored values. Without them the signed-log histogram answers, and the answer is approximate. With
them the histogram still helps: its whole bins decide most neurons, and a layer is read only for those that
its cut bin leaves open.
"""

import numpy as np
from nfinspect_store.histogram import EDGES, MIDDLE
from numpy.typing import NDArray

ROWS = 1024
"""Tokens compared at a time, so that no second copy of a layer is made."""


def at_least(threshold: float) -> np.float32:
    """The smallest float32 that is >= threshold: comparing float32 values with it is comparing them with the
    threshold.
    """
    nearest = np.float32(threshold)
    return nearest if float(nearest) >= threshold else np.nextafter(nearest, np.float32(np.inf))


def count_reaching(values: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """On how many tokens |a| >= threshold: float32[tokens, neurons] -> int64[neurons]."""
    limit = at_least(threshold)
    total = np.zeros(values.shape[1], np.int64)
    for start in range(0, len(values), ROWS):
        total += np.count_nonzero(np.abs(values[start : start + ROWS]) >= limit, axis=0)
    return total


def bounds_reaching(
    counts: NDArray[np.int64], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fewest and most values with |a| >= threshold that a histogram allows: int64[neurons, BINS] -> two
    int64[neurons].
    """
    smallest = np.minimum(np.abs(EDGES[:-1]), np.abs(EDGES[1:]))
    largest = np.maximum(np.abs(EDGES[:-1]), np.abs(EDGES[1:]))
    smallest[MIDDLE] = 0.0
    # A bin holds smallest <= |a| < largest.
    surely = smallest >= threshold
    possibly = largest > threshold
    return counts[:, surely].sum(axis=1), counts[:, possibly].sum(axis=1)
