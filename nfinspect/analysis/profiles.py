"""How a neuron's firing depends on the position: mutual information, type and strength (methods §6).

A profile is int[positions]: in how many of S sequences the neuron fired at each position; f(pos) = count / S.
Comparisons are made in whole numbers, so that a share exactly at a limit is never decided by rounding.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Type = Literal["oscillatory", "both extremes", "one extreme", "other"]
Strength = Literal["strong", "weak"]
TYPES: tuple[Type, ...] = get_args(Type)
"""In the order of the rules."""

WINDOW = 32
"""Positions that the smoothing averages over, and for how many in a row an extreme has to last."""

LOW, HIGH = 5, 95  # percent of the sequences: extremes of the smoothed profile
FAINT, FULL = 1, 999  # per mille of the sequences: a strong neuron's profile reaches one of them [own]
CROSSINGS = 3  # of one half, for `oscillatory`


def mutual_information(counts: NDArray[np.int64], sequences: int) -> NDArray[np.float64]:
    """Mutual information of firing and position, in nats: int64[neurons, positions] -> float64[neurons].

    The mean over positions of the divergence of f(pos) from f, minus the plug-in bias, floored at 0. For T positions
    and 2 outcomes that bias is (T - 1)(2 - 1) / (2ST), which is 1/(2S) up to 1/(2ST).
    """
    from scipy.special import rel_entr

    at = counts / sequences
    overall = counts.mean(axis=1, keepdims=True) / sequences
    divergence = rel_entr(at, overall) + rel_entr(1 - at, 1 - overall)  # 0 ln 0 is 0
    found: NDArray[np.float64] = np.maximum(divergence.mean(axis=1) - 1 / (2 * sequences), 0.0)
    return found


def profile_type(counts: NDArray[np.int64], sequences: int) -> Type:
    """The first type that holds for the smoothed profile. counts: int64[positions]."""
    sums, width = windows(counts)
    full = sums * 100 >= HIGH * sequences * width
    faint = sums * 100 <= LOW * sequences * width
    extremes = int(longest(full) >= WINDOW) + int(longest(faint) >= WINDOW)
    # A profile that touches one half and turns back has not crossed it [own].
    side = np.sign(2 * sums - sequences * width)
    side = side[side != 0]
    if np.count_nonzero(side[1:] != side[:-1]) >= CROSSINGS:
        return "oscillatory"
    if extremes == 2:
        return "both extremes"
    return "one extreme" if extremes else "other"


def profile_strength(counts: NDArray[np.int64], sequences: int) -> Strength:
    """strong if the profile itself reaches 0.001 or 0.999, else weak. counts: int64[positions]."""
    reached = counts.min() * 1000 <= FAINT * sequences or counts.max() * 1000 >= FULL * sequences
    return "strong" if reached else "weak"


def windows(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums over the 32 positions around each, and how many of these there are: two int64[positions].

    From 16 before to 15 after [own: an even window has no middle], fewer at the ends.
    """
    length = len(counts)
    held = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(length)
    start, stop = np.maximum(place - WINDOW // 2, 0), np.minimum(place + WINDOW // 2, length)
    return held[stop] - held[start], stop - start


def longest(held: NDArray[np.bool_]) -> int:
    """The length of the longest series of true values in bool[positions]."""
    ends = np.flatnonzero(np.concatenate([[True], ~held, [True]]))
    return int(np.diff(ends).max()) - 1
