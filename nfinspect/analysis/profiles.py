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


def profile_types(counts: NDArray[np.int64], sequences: int) -> list[Type]:
    """The first type that holds for each neuron's smoothed profile. counts: int64[neurons, positions]."""
    sums, width = windows(counts)
    full = lasts(sums * 100 >= HIGH * sequences * width)
    faint = lasts(sums * 100 <= LOW * sequences * width)
    # A profile that touches one half and turns back has not crossed it [own].
    side = np.sign(2 * sums - sequences * width)
    off = np.maximum.accumulate(np.where(side != 0, np.arange(side.shape[1]), 0), axis=1)
    side = np.take_along_axis(side, off, axis=1)  # on which side it was last, 0 where it was on none yet
    crossings = ((side[:, 1:] != side[:, :-1]) & (side[:, :-1] != 0)).sum(axis=1)
    chosen = np.select([crossings >= CROSSINGS, full & faint, full | faint], range(3), 3)
    return [TYPES[i] for i in chosen.tolist()]


def profile_strengths(counts: NDArray[np.int64], sequences: int) -> list[Strength]:
    """strong where the profile itself reaches 0.001 or 0.999, else weak. counts: int64[neurons, positions]."""
    lowest, highest = counts.min(axis=1), counts.max(axis=1)
    reached = (lowest * 1000 <= FAINT * sequences) | (highest * 1000 >= FULL * sequences)
    return ["strong" if one else "weak" for one in reached.tolist()]


def windows(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums over the 32 positions around each, int64[neurons, positions], and how many of these there are,
    int64[positions].

    From 16 before to 15 after [own: an even window has no middle], fewer at the ends.
    """
    length = counts.shape[1]
    held = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)
    place = np.arange(length)
    start, stop = np.maximum(place - WINDOW // 2, 0), np.minimum(place + WINDOW // 2, length)
    return held[:, stop] - held[:, start], stop - start


def lasts(held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For which neurons bool[neurons, positions] is true on 32 positions in a row: bool[neurons]."""
    count = np.cumsum(np.pad(held, ((0, 0), (1, 0))), axis=1)
    found: NDArray[np.bool_] = (count[:, WINDOW:] - count[:, :-WINDOW] == WINDOW).any(axis=1)
    return found
