"""What sets one neuron off: how few n-grams hold 95 % of its activations, and which it hardly misses (methods §5)."""

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


@dataclass(frozen=True)
class Triggers:
    """One neuron's triggers. k: K_n, 0 without an activation. covered: the numbers of the n-grams that it covers, the
    most frequent trigger first; empty if K_n is too large for a detector.
    """

    activations: int
    k: int
    covered: NDArray[np.intp]
    counts: NDArray[np.int64]  # activations on each of `covered`

    @property
    def coverage(self) -> float:
        """Share of the activations that fall on covered n-grams; 0 without an activation."""
        return int(self.counts.sum()) / self.activations if self.activations else 0.0

    @property
    def detects(self) -> bool:
        """Whether the neuron is a detector."""
        return self.activations > 0 and 100 * int(self.counts.sum()) >= PERCENT * self.activations


def find_triggers(fired: NDArray[np.bool_], index: NgramIndex) -> Triggers:
    """The triggers of a neuron that fired where `fired` says: bool[tokens]."""
    # Counts all n-grams: over 1 M tokens with 50,000 n-grams, sorting the active ones took 2.9 ms instead of 1.1 for a
    # neuron that fires on 10 % of the tokens, and saved 0.1 ms for one that fires on 0.1 %.
    counts = np.bincount(index.ids[np.flatnonzero(fired)], minlength=index.distinct + 1)[:-1]
    total = int(counts.sum())
    k = fewest_triggers(counts)
    covered = np.empty(0, np.intp)
    if 0 < k <= MOST[index.n]:
        covered = np.flatnonzero((index.seen >= FEWEST_SEEN) & (100 * counts >= PERCENT * index.seen))
        covered = covered[np.argsort(-counts[covered], kind="stable")]  # ties by number
    return Triggers(total, k, covered, counts[covered])


def fewest_triggers(counts: NDArray[np.int64]) -> int:
    """K_n: the fewest triggers that hold 95 % of the activations; 0 without an activation. counts: int64[n-grams]."""
    falling = np.sort(counts[counts > 0])[::-1]
    if not len(falling):
        return 0
    held = np.cumsum(falling)
    return int(np.searchsorted(100 * held, PERCENT * held[-1])) + 1


def bucket_counts(k: NDArray[np.int64]) -> dict[str, int]:
    """How many neurons have their K_n in each bucket. k: int64[neurons]; neurons without an activation are left out."""
    edges = [most for most in BUCKETS.values() if most is not None]
    places = np.searchsorted(edges, k[k > 0])
    return dict(zip(BUCKETS, np.bincount(places, minlength=len(BUCKETS)).tolist(), strict=True))
