"""Statistics that grow in place, in arrays that the compiled loops add to (nfinspect_store.kernels.prompts)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.statistics import UNKNOWN, ConceptStatistics, Counts, Floats, NeuronStatistics

FEW = 8
"""Concepts for which there is room at first."""


@dataclass(frozen=True)
class RunningStatistics:
    """Statistics of neurons, of tokens past position 0 (index 0) and of those at it (1)."""

    tallies: Counts  # int64[2, (n, fired), neurons]
    moments: Floats  # float64[2, (mean, m2, m3, m4, sum_abs), neurons]
    extremes: NDArray[np.float32]  # [2, (minimum, maximum), neurons]

    @classmethod
    def empty(cls, neurons: int, *, counts_firing: bool) -> "RunningStatistics":
        running = cls(
            np.zeros((2, 2, neurons), np.int64), np.zeros((2, 5, neurons)), np.zeros((2, 2, neurons), np.float32)
        )
        for first in (False, True):
            running.put(first, NeuronStatistics.empty(neurons, counts_firing=counts_firing))
        return running

    def get(self, first: bool) -> NeuronStatistics:
        """What is there now; it changes as tokens are added."""
        (n, fired), (mean, m2, m3, m4, sum_abs), (low, high) = (
            part[int(first)] for part in (self.tallies, self.moments, self.extremes)
        )
        return NeuronStatistics(n, fired, mean, m2, m3, m4, low, high, sum_abs)

    def put(self, first: bool, told: NeuronStatistics) -> None:
        self.tallies[int(first)] = told.n, told.fired
        self.moments[int(first)] = told.mean, told.m2, told.m3, told.m4, told.sum_abs
        self.extremes[int(first)] = told.minimum, told.maximum

    def merge(self, first: bool, chunk: NeuronStatistics) -> None:
        self.put(first, self.get(first).merge(chunk))


class RunningConcepts:
    """Statistics of a layer's neurons by concept."""

    def __init__(self, neurons: int, *, counts_firing: bool) -> None:
        self._counts_firing = counts_firing
        self._neurons = neurons
        self._index: dict[str, int] = {}
        self.tallies, self.mean, self.maximum = self._room(FEW)

    def _room(self, concepts: int) -> tuple[Counts, Floats, NDArray[np.float32]]:
        shape = (concepts, self._neurons)
        tallies = np.zeros((concepts, 2, self._neurons), np.int64)
        tallies[:, 1] = 0 if self._counts_firing else UNKNOWN
        return tallies, np.zeros(shape), np.full(shape, -np.inf, np.float32)

    def index(self, concept: str) -> int:
        """Its place in the arrays; there is one from now on."""
        place = self._index.setdefault(concept, len(self._index))
        if place == len(self.mean):
            tallies, mean, maximum = self._room(2 * place)
            tallies[:place], mean[:place], maximum[:place] = self.tallies, self.mean, self.maximum
            self.tallies, self.mean, self.maximum = tallies, mean, maximum
        return place

    def get(self, concept: str) -> ConceptStatistics:
        """What is there now; it changes as tokens are added."""
        place = self.index(concept)
        n, fired = self.tallies[place]
        return ConceptStatistics(n, fired, self.mean[place], self.maximum[place])

    def put(self, concept: str, told: ConceptStatistics) -> None:
        place = self.index(concept)
        self.tallies[place] = told.n, told.fired
        self.mean[place], self.maximum[place] = told.mean, told.maximum

    def merge(self, concept: str, chunk: ConceptStatistics) -> None:
        self.put(concept, self.get(concept).merge(chunk))

    @property
    def names(self) -> list[str]:
        """Those that have been added to."""
        return list(self._index)
