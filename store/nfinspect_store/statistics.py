"""Sufficient statistics of neurons, and how those of two parts of the data merge.

Central moments merge by the pairwise formulas of Chan, Golub & LeVeque 1979 (variance) and Pébay 2008 (third and
fourth), in float64, so that any split of the tokens gives the same answer up to rounding.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

UNKNOWN = -1
"""`fired` at a site whose firing depends on the layer's scale, which is known only at the end (methods §1)."""


@dataclass(frozen=True)
class NeuronStatistics:
    """One entry per neuron in every field, [neurons]. m2, m3, m4 are sums of powers of the deviation from the mean."""

    n: Counts
    fired: Counts
    mean: Floats
    m2: Floats
    m3: Floats
    m4: Floats
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    sum_abs: Floats

    @classmethod
    def empty(cls, neurons: int, *, counts_firing: bool = True) -> "NeuronStatistics":
        """The statistics of no tokens; merging them with others changes nothing."""
        return cls(
            n=np.zeros(neurons, np.int64),
            fired=np.full(neurons, 0 if counts_firing else UNKNOWN, np.int64),
            mean=np.zeros(neurons),
            m2=np.zeros(neurons),
            m3=np.zeros(neurons),
            m4=np.zeros(neurons),
            minimum=np.full(neurons, np.inf, np.float32),
            maximum=np.full(neurons, -np.inf, np.float32),
            sum_abs=np.zeros(neurons),
        )

    @classmethod
    def concatenate(cls, parts: "list[NeuronStatistics]") -> "NeuronStatistics":
        """Concatenate the statistics of different neurons."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def take(self, neurons: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "NeuronStatistics":
        """The statistics of some of the neurons."""
        return NeuronStatistics(**{f.name: getattr(self, f.name)[neurons] for f in fields(self)})

    def merge(self, other: "NeuronStatistics") -> "NeuronStatistics":
        """The statistics of both parts together; both have the same neurons in the same order."""
        n = self.n + other.n
        a, b, total = self.n.astype(np.float64), other.n.astype(np.float64), np.maximum(n, 1).astype(np.float64)
        delta = other.mean - self.mean
        by_n = delta / total
        ab = a * b
        m2 = self.m2 + other.m2 + delta * by_n * ab
        m3 = self.m3 + other.m3 + delta * by_n**2 * ab * (a - b) + 3.0 * by_n * (a * other.m2 - b * self.m2)
        m4 = (
            self.m4
            + other.m4
            + delta * by_n**3 * ab * (a * a - ab + b * b)
            + 6.0 * by_n**2 * (a * a * other.m2 + b * b * self.m2)
            + 4.0 * by_n * (a * other.m3 - b * self.m3)
        )
        return NeuronStatistics(
            n=n,
            fired=np.where((self.fired < 0) | (other.fired < 0), UNKNOWN, self.fired + other.fired),
            # Merging a part without tokens leaves the other's mean exactly as it was.
            mean=np.where(other.n == 0, self.mean, np.where(self.n == 0, other.mean, self.mean + by_n * b)),
            m2=m2,
            m3=m3,
            m4=m4,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            sum_abs=self.sum_abs + other.sum_abs,
        )

    @property
    def variance(self) -> Floats:
        """Of a sample (n - 1); NaN for fewer than two tokens."""
        return _quotient(self.m2, self.n - 1, self.n > 1)

    @property
    def std(self) -> Floats:
        """Of a sample (n - 1); NaN for fewer than two tokens."""
        std: Floats = np.sqrt(self.variance)
        return std

    @property
    def mean_abs(self) -> Floats:
        """E|a|; NaN for no tokens."""
        return _quotient(self.sum_abs, self.n, self.n > 0)

    @property
    def firing_rate(self) -> Floats:
        """Share of tokens on which the neuron fires; NaN where these statistics do not say."""
        return _quotient(self.fired, self.n, (self.n > 0) & (self.fired >= 0))

    @property
    def skewness(self) -> Floats:
        """Biased (population) skewness √n·M3 / M2^1.5; NaN where the variance is zero."""
        ok = self.m2 > 0
        safe = np.where(ok, self.m2, 1.0)
        skewness: Floats = np.where(ok, np.sqrt(self.n) * self.m3 / safe**1.5, np.nan)
        return skewness

    @property
    def excess_kurtosis(self) -> Floats:
        """Biased (population) kurtosis n·M4 / M2² minus 3; NaN where the variance is zero."""
        ok = self.m2 > 0
        safe = np.where(ok, self.m2, 1.0)
        kurtosis: Floats = np.where(ok, self.n * self.m4 / safe**2 - 3.0, np.nan)
        return kurtosis


@dataclass(frozen=True)
class ConceptStatistics:
    """Statistics of a layer's neurons over one concept's tokens: one entry per neuron in every field, [neurons]."""

    n: Counts
    fired: Counts
    mean: Floats
    maximum: NDArray[np.float32]

    @classmethod
    def of(cls, statistics: NeuronStatistics) -> "ConceptStatistics":
        """The part of `statistics` that is kept for a concept."""
        return cls(**{f.name: getattr(statistics, f.name) for f in fields(cls)})

    def merge(self, other: "ConceptStatistics") -> "ConceptStatistics":
        """The statistics of both parts together; both have tokens, and the same neurons in the same order."""
        n = self.n + other.n
        return ConceptStatistics(
            n=n,
            fired=np.where((self.fired < 0) | (other.fired < 0), UNKNOWN, self.fired + other.fired),
            mean=self.mean + (other.mean - self.mean) * (other.n / n),
            maximum=np.maximum(self.maximum, other.maximum),
        )


def _quotient(part: Floats | Counts, whole: Counts, where: NDArray[np.bool_]) -> Floats:
    """part / whole, NaN where it is undefined."""
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=where)
    return quotient
