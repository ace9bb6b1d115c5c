"""Sufficient statistics of neurons, and how those of two parts of the data merge.

Central moments merge by the pairwise formulas of Chan, Golub & LeVeque 1979 (variance) and Pébay 2008 (third and
fourth), in float64, so that any split of the tokens gives the same answer up to rounding.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nfinspect_store import kernels

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
    def compiled(
        cls,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        counts: Counts | None = None,
        *,
        counts_firing: bool = True,
    ) -> "NeuronStatistics":
        """Of float32[tokens, neurons], by the compiled loops; arguments as kernels.chunk takes them."""
        sums, low, high, count = kernels.chunk(values, fired if counts_firing else None, counts)
        tokens, neurons = values.shape
        n, unknown = np.full(neurons, tokens, np.int64), np.full(neurons, UNKNOWN, np.int64)
        mean, m2, m3, m4, sum_abs = sums
        return cls(n, count if counts_firing else unknown, mean, m2, m3, m4, low, high, sum_abs)

    @classmethod
    def concatenate(cls, parts: "list[NeuronStatistics]") -> "NeuronStatistics":
        """Concatenate the statistics of different neurons."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def take(self, neurons: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "NeuronStatistics":
        """The statistics of some of the neurons."""
        return NeuronStatistics(**{f.name: getattr(self, f.name)[neurons] for f in fields(self)})

    def merge(self, other: "NeuronStatistics") -> "NeuronStatistics":
        """The statistics of both parts together; both have the same neurons in the same order."""
        mean, m2, m3, m4 = (kernels.merge if kernels.compiled() else merged_moments)(
            self.n, self._moments, other.n, other._moments
        )
        return NeuronStatistics(
            n=self.n + other.n,
            fired=np.where((self.fired < 0) | (other.fired < 0), UNKNOWN, self.fired + other.fired),
            mean=mean,
            m2=m2,
            m3=m3,
            m4=m4,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            sum_abs=self.sum_abs + other.sum_abs,
        )

    @property
    def _moments(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.mean, self.m2, self.m3, self.m4

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


def merged_moments(
    n: Counts, moments: tuple[Floats, ...], other_n: Counts, other: tuple[Floats, ...]
) -> tuple[Floats, Floats, Floats, Floats]:
    """kernels.merge in numpy."""
    (mean, m2, m3, m4), (mean_b, m2_b, m3_b, m4_b) = moments, other
    a, b, total = n.astype(np.float64), other_n.astype(np.float64), np.maximum(n + other_n, 1).astype(np.float64)
    delta = mean_b - mean
    by_n, ab = delta / total, a * b
    square = by_n * by_n
    return (
        # Merging a part without tokens leaves the other's mean exactly as it was.
        np.where(other_n == 0, mean, np.where(n == 0, mean_b, mean + by_n * b)),
        m2 + m2_b + delta * by_n * ab,
        m3 + m3_b + delta * square * ab * (a - b) + 3.0 * by_n * (a * m2_b - b * m2),
        m4
        + m4_b
        + delta * (square * by_n) * ab * (a * a - ab + b * b)
        + 6.0 * square * (a * a * m2_b + b * b * m2)
        + 4.0 * by_n * (a * m3_b - b * m3),
    )


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
        """The statistics of both parts together; both have the same neurons in the same order."""
        n = self.n + other.n
        return ConceptStatistics(
            n=n,
            fired=np.where((self.fired < 0) | (other.fired < 0), UNKNOWN, self.fired + other.fired),
            mean=self.mean + (other.mean - self.mean) * (other.n / np.maximum(n, 1)),
            maximum=np.maximum(self.maximum, other.maximum),
        )


def _quotient(part: Floats | Counts, whole: Counts, where: NDArray[np.bool_]) -> Floats:
    """part / whole, NaN where it is undefined."""
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=where)
    return quotient
