"""A document bootstrap: how far a mean over tokens would move had other documents been drawn."""

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.numbers import number

DRAWS = 2000
"""Bootstrap samples [own]."""


def bootstrap_interval(
    values: NDArray[np.float64], unit: NDArray[np.int64], seed: int, draws: int = DRAWS
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of the mean of `values`, float64[tokens], drawing whole units.

    unit: int64[tokens], the document or window of each token. All tokens of a drawn unit count, so a draw's mean is the
    sum of its units' values over the sum of their tokens. (None, None) for fewer than two units.
    """
    _, place, size = np.unique(unit, return_inverse=True, return_counts=True)
    if len(size) < 2:
        return None, None
    total = np.bincount(place, weights=values, minlength=len(size))
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(len(size), size=len(size))
        means[draw] = total[chosen].sum() / size[chosen].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return number(low), number(high)
