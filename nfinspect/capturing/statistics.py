"""Statistics of one layer, updated as tokens pass, computed where the values are.

A chunk is one prompt: its moments, mean and extremes come from the same passes over the values, and chunks merge
exactly (nfinspect_store.statistics). Values on a GPU are torch tensors and stay there; values on the CPU are numpy
arrays, because torch's thread pool would compete with the writer for the cores (docs/decisions/0003); compiled loops
read them where those are installed (docs/decisions/0009).
"""

from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.capturing.beyond import limits
from nfinspect.capturing.transfer import Array, to_host
from nfinspect_store import kernels
from nfinspect_store.histogram import BINS, FIRST_KEY, MIDDLE, SHIFT, SIDE
from nfinspect_store.histogram import bin_of as bin_of_values
from nfinspect_store.kernels import ROWS
from nfinspect_store.statistics import UNKNOWN, ConceptStatistics, NeuronStatistics

STRIPE = 64
"""Neurons counted at a time on the CPU: their 64 x 99 counters, 50 KB, stay in the processor's fastest caches."""


def chunk_mean(values: Array) -> Array:
    """Mean over tokens in float64: [tokens, neurons] -> [neurons]."""
    xp: Any = torch if isinstance(values, Tensor) else np
    return values.sum(0, dtype=xp.float64) / len(values)


def chunk_statistics(
    values: Array, fired: Array | None, fires: str, histogram: "HistogramCounter | None" = None
) -> NeuronStatistics:
    """Statistics of float32[tokens, neurons]. fired: bool[tokens, neurons] if the layer fires by its gate.
    histogram: also counts the values.

    Two passes, the second about the mean, in float64 (merged as in Pébay 2008); minimum and maximum are exact.
    """
    if isinstance(values, np.ndarray) and kernels.compiled():
        counts = None if histogram is None else histogram.counts
        assert not isinstance(fired, Tensor) and not isinstance(counts, Tensor)
        return NeuronStatistics.compiled(values, fired, counts, counts_firing=fires != "scale")
    if histogram is not None:
        histogram.add(values)
    xp: Any = torch if isinstance(values, Tensor) else np
    n, neurons = values.shape
    mean: Any = chunk_mean(values)
    powers = [xp.zeros_like(mean) for _ in range(3)]
    for start in range(0, n, ROWS):
        deviation = values[start : start + ROWS] - mean  # float64
        power = deviation * deviation
        powers[0] += power.sum(0)
        deviation *= power
        powers[1] += deviation.sum(0)
        power *= power
        powers[2] += power.sum(0)
    found = [mean, *powers, xp.amin(values, 0), xp.amax(values, 0), xp.abs(values).sum(0, dtype=xp.float64)]
    if fires != "scale":
        # The reader gives `fired` if a layer fires by its gate; else a > 0 is the definition.
        found.append((values > 0 if fired is None else fired).sum(0))
    # One transfer: each one would wait for the GPU.
    rows = to_host(xp.stack([xp.asarray(row, dtype=xp.float64) for row in found]))
    mean, m2, m3, m4, low, high, sum_abs = rows[:7]
    # A neuron that never varied has no variance, even if its computed mean is rounded.
    varied = low != high
    return NeuronStatistics(
        n=np.full(neurons, n, np.int64),
        fired=rows[7].astype(np.int64) if fires != "scale" else np.full(neurons, UNKNOWN),
        mean=np.where(varied, mean, low),
        m2=m2 * varied,
        m3=m3 * varied,
        m4=m4 * varied,
        minimum=low.astype(np.float32),
        maximum=high.astype(np.float32),
        sum_abs=sum_abs,
    )


class HistogramCounter:
    """Counts values of one layer into the signed-log bins."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        shape = (neurons, BINS)
        self.counts: Array = (
            np.zeros(shape, np.int64) if device.type == "cpu" else torch.zeros(shape, dtype=torch.int64, device=device)
        )

    def restore(self, counts: NDArray[np.int64]) -> None:
        """Continue from int64[neurons, BINS]."""
        here = self.counts
        here += counts if isinstance(here, np.ndarray) else torch.from_numpy(counts).to(here.device)

    def add(self, values: Array) -> None:
        """float32[tokens, neurons]."""
        if isinstance(values, Tensor):
            assert isinstance(self.counts, Tensor)
            count_tensor(self.counts, values)
            return
        assert isinstance(self.counts, np.ndarray)
        for start in range(0, values.shape[1], STRIPE):
            bins = bin_of_values(values[:, start : start + STRIPE])
            width = bins.shape[1]
            bins += np.arange(width) * BINS
            counted = np.bincount(bins.ravel(), minlength=width * BINS)
            self.counts[start : start + width] += counted.reshape(width, BINS)

    def fetch(self) -> NDArray[np.int64]:
        """int64[neurons, BINS], a copy."""
        return to_host(self.counts).copy()


def count_tensor(counts: Tensor, values: Tensor) -> None:
    """Count float32[tokens, neurons] into int64[neurons, BINS] on their device, with the bins of histogram.bin_of."""
    # [neurons, tokens], so that each neuron's bins are contiguous. Always a copy, as it is modified in place.
    bits = values.t().clone(memory_format=torch.contiguous_format).view(torch.int32)
    sign = bits >> 31  # -1 where negative, else 0
    bits.bitwise_and_(0x7FFFFFFF).bitwise_right_shift_(SHIFT).sub_(FIRST_KEY - 1).clamp_(0, SIDE + 1)
    bins = bits.bitwise_xor_(sign).sub_(sign).add_(MIDDLE).long()
    one = torch.ones((), dtype=torch.int64, device=bins.device)
    counts.scatter_add_(1, bins, one.expand(bins.shape))


class LayerStatistics:
    """Statistics of one layer, separate for position 0; with by_concept also ConceptStatistics of each concept."""

    def __init__(self, neurons: int, fires: str, device: torch.device, *, by_concept: bool = True) -> None:
        self.neurons = neurons
        self._fires = fires
        self._groups: dict[bool, NeuronStatistics] = {}
        self._by_concept = by_concept
        self._concepts: dict[str, ConceptStatistics] = {}
        self._histograms = {first: HistogramCounter(neurons, device) for first in (False, True)}

    def restore(
        self,
        groups: dict[bool, NeuronStatistics],
        concepts: dict[str, ConceptStatistics],
        histograms: dict[bool, NDArray[np.int64]],
    ) -> None:
        """Continue from what an earlier segment stored."""
        self._groups = dict(groups)
        self._concepts = dict(concepts) if self._by_concept else {}
        for first, counts in histograms.items():
            self._histograms[first].restore(counts)

    def add(self, concept: str, first: bool, values: Array, fired: Array | None) -> NeuronStatistics:
        """Add one chunk, float32[tokens, neurons], of a concept; returns the chunk's own statistics."""
        chunk = chunk_statistics(values, fired, self._fires, self._histograms[first])
        before = self._groups.get(first)
        self._groups[first] = chunk if before is None else before.merge(chunk)
        if self._by_concept:
            told, told_before = ConceptStatistics.of(chunk), self._concepts.get(concept)
            self._concepts[concept] = told if told_before is None else told_before.merge(told)
        return chunk

    def groups(self) -> dict[bool, NeuronStatistics]:
        """By (at position 0); a key is missing if there are no such tokens."""
        return dict(self._groups)

    def concepts(self) -> dict[str, ConceptStatistics]:
        return dict(self._concepts)

    def limits(self, percentile: Decimal) -> Array:
        """The smallest value of each neuron that is beyond its percentile so far: float32[neurons] (beyond.py)."""
        tokens = sum(int(group.n[0]) for group in self._groups.values())
        return limits(self._histograms[False].counts + self._histograms[True].counts, tokens, percentile)

    def histograms(self) -> dict[bool, NDArray[np.int64]]:
        return {first: counter.fetch() for first, counter in self._histograms.items()}
