"""What sets a neuron off: how few n-grams hold 95 % of its activations, and which it hardly misses (methods §5)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.ngram_ids import NgramIndex

PERCENT = 95
"""% of the activations, for K_n and the coverage; % of its occurrences, for a covered n-gram. Voita et al. 2023."""

MOST = {1: 5, 2: 50, 3: 50}
"""The largest K_n of a detector, by n: 5 tokens and 50 trigrams as in the paper, 50 bigrams [own]."""

FEWEST_SEEN = 5
"""Occurrences that an n-gram needs before it can be covered [own]."""

BUCKETS = {
    "1-5": 5,
    "6-10": 10,
    "11-20": 20,
    "21-50": 50,
    "51-200": 200,
    "201-1k": 1000,
    "1k-2k": 2000,
    "2k-5k": 5000,
    ">5k": None,
}
"""The buckets of K_n in the stacked figure: name, and largest K_n [own]."""


NEAREST = 3
"""Neurons that are named where none is a detector [own]."""

CELLS = 1 << 18
"""Tokens of neurons that are counted at a time, though never fewer than one neuron's: with their counters 4 MB."""


@dataclass(frozen=True)
class Triggers:
    """What sets a detector off. neuron: its place among those asked for. covered: the numbers of the n-grams that it
    covers, the most frequent trigger first.
    """

    neuron: int
    activations: int
    k: int
    covered: NDArray[np.intp]
    counts: NDArray[np.int64]  # activations on each of `covered`

    @property
    def coverage(self) -> float:
        """Share of the activations that fall on covered n-grams."""
        return int(self.counts.sum()) / self.activations


def find_triggers(
    fired: NDArray[np.bool_], index: NgramIndex, near: list[Triggers] | None = None
) -> tuple[NDArray[np.int64], list[Triggers]]:
    """K_n of neurons that fired where `fired` says, bool[neurons, tokens]: int64[neurons], 0 without an activation. And
    the triggers of the detectors among them, in order. near: receives some that are none, the nearest among them.
    """
    neurons, tokens = fired.shape
    width = len(index.repeated) + 2
    step = max(1, min(neurons, CELLS // max(1, tokens)))
    counter = (np.arange(0, step * width, width)[:, None] + index.counter).ravel()
    k, detectors = np.zeros(neurons, np.int64), []
    for start in range(0, neurons, step):
        part = fired[start : start + step]
        on = np.flatnonzero(part)  # a mask as the index takes five times as long
        counts = np.bincount(counter[on], minlength=len(part) * width).reshape(len(part), width)
        repeated, once = counts[:, :-2], counts[:, -2]
        k[start : start + step] = fewest_triggers(repeated, once)
        here = k[start : start + step]
        found = _detectors(repeated, once, here, start, index)
        detectors += found
        if near is not None:
            near += _nearest(repeated, once, here, start, index, {one.neuron for one in found})
    return k, detectors


def fewest_triggers(repeated: NDArray[np.int64], once: NDArray[np.int64]) -> NDArray[np.int64]:
    """K_n: the fewest triggers that hold 95 % of the activations; 0 without an activation. repeated: activations on
    n-grams that were seen several times, int64[neurons, n-grams]; once: on others, int64[neurons] -> int64[neurons].
    """
    falling = -np.sort(-repeated, axis=1)
    held = np.cumsum(falling, axis=1)
    total = repeated.sum(axis=1) + once
    short = (PERCENT * total[:, None] > 100 * held) & (falling > 0)
    missing = PERCENT * total - 100 * repeated.sum(axis=1)  # one trigger seen once holds 100
    fewest: NDArray[np.int64] = short.sum(axis=1) + np.where(missing > 0, -(-missing // 100), total > 0)
    return fewest


def _detectors(
    repeated: NDArray[np.int64], once: NDArray[np.int64], k: NDArray[np.int64], start: int, index: NgramIndex
) -> list[Triggers]:
    """The detectors among the neurons from `start` on, from their counts (fewest_triggers) and their K_n."""
    few = np.flatnonzero((k > 0) & (k <= MOST[index.n]))
    covers, held, total = _covered(repeated[few], once[few], index)
    detecting = np.flatnonzero((held > 0) & (100 * held >= PERCENT * total)).tolist()
    return [_triggers(repeated, once, k, int(few[i]), covers[i], start, index) for i in detecting]


def _covered(
    counts: NDArray[np.int64], once: NDArray[np.int64], index: NgramIndex
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which n-grams each of some neurons covers, how many of its activations they hold, and how many it has."""
    seen = index.seen[index.repeated]
    covers = (seen >= FEWEST_SEEN) & (100 * counts >= PERCENT * seen)
    return covers, (counts * covers).sum(axis=1), counts.sum(axis=1) + once


def _triggers(
    repeated: NDArray[np.int64],
    once: NDArray[np.int64],
    k: NDArray[np.int64],
    neuron: int,
    covers: NDArray[np.bool_],
    start: int,
    index: NgramIndex,
) -> Triggers:
    counts = repeated[neuron]
    place = np.flatnonzero(covers)
    place = place[np.argsort(-counts[place], kind="stable")]  # ties by number
    total = int(counts.sum() + once[neuron])
    return Triggers(start + neuron, total, int(k[neuron]), index.repeated[place], counts[place])


def _nearest(
    repeated: NDArray[np.int64],
    once: NDArray[np.int64],
    k: NDArray[np.int64],
    start: int,
    index: NgramIndex,
    detectors: set[int],
) -> list[Triggers]:
    """The NEAREST that are no detectors: those whose K_n is small enough by their coverage, then the smallest K_n."""
    others = np.array([i for i in np.flatnonzero(k > 0).tolist() if start + i not in detectors], np.intp)
    few = others[k[others] <= MOST[index.n]]
    if not len(few):
        few = others[np.argsort(k[others], kind="stable")[:NEAREST]]
    covers, held, total = _covered(repeated[few], once[few], index)
    order = np.argsort(-held / np.maximum(total, 1), kind="stable")[:NEAREST].tolist()
    return [_triggers(repeated, once, k, int(few[i]), covers[i], start, index) for i in order]


def nearness(triggers: Triggers, n: int) -> tuple[bool, float, int]:
    """What the nearest to a detector is first by."""
    return (triggers.k > MOST[n], -triggers.coverage, triggers.k)


def bucket_counts(k: NDArray[np.int64]) -> dict[str, int]:
    """How many neurons have their K_n in each bucket. k: int64[neurons]; neurons without an activation are left out."""
    edges = [most for most in BUCKETS.values() if most is not None]
    places = np.searchsorted(edges, k[k > 0])
    return dict(zip(BUCKETS, np.bincount(places, minlength=len(BUCKETS)).tolist(), strict=True))
