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


def find_triggers(fired: NDArray[np.bool_], index: NgramIndex) -> tuple[NDArray[np.int64], list[Triggers]]:
    """K_n of neurons that fired where `fired` says, bool[neurons, tokens]: int64[neurons], 0 without an activation. And
    the triggers of the detectors among them, in order.
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
        detectors += _detectors(repeated, once, k[start : start + step], start, index)
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
    seen, counts = index.seen[index.repeated], repeated[few]
    covers = (seen >= FEWEST_SEEN) & (100 * counts >= PERCENT * seen)
    held, total = (counts * covers).sum(axis=1), counts.sum(axis=1) + once[few]
    found = []
    for i in np.flatnonzero((held > 0) & (100 * held >= PERCENT * total)).tolist():
        place = np.flatnonzero(covers[i])
        place = place[np.argsort(-counts[i, place], kind="stable")]  # ties by number
        neuron = int(few[i])
        found.append(Triggers(start + neuron, int(total[i]), int(k[neuron]), index.repeated[place], counts[i, place]))
    return found


def bucket_counts(k: NDArray[np.int64]) -> dict[str, int]:
    """How many neurons have their K_n in each bucket. k: int64[neurons]; neurons without an activation are left out."""
    edges = [most for most in BUCKETS.values() if most is not None]
    places = np.searchsorted(edges, k[k > 0])
    return dict(zip(BUCKETS, np.bincount(places, minlength=len(BUCKETS)).tolist(), strict=True))
