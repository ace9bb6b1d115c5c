"""Statistics of one layer, updated as tokens pass, computed where the values are.

A chunk is one prompt without its token at position 0, or that token: its moments, mean and extremes come from the same
passes over the values, and chunks merge exactly (nfinspect_store.statistics). Values on a GPU are torch tensors, stay
there, and the histograms are on the same GPU; values on the CPU are numpy arrays, because torch's thread pool would
compete with the writer for the cores (docs/decisions/0003); one compiled loop takes all prompts of a batch where it is
installed (docs/decisions/0009).
"""

from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.beyond import limits
from nfinspect.capturing.examples import Extremes
from nfinspect.capturing.running import RunningConcepts, RunningStatistics
from nfinspect.capturing.transfer import Array, by_neuron, to_host
from nfinspect_store import kernels
from nfinspect_store.histogram import BINS, FIRST_KEY, MIDDLE, SHIFT, SIDE
from nfinspect_store.histogram import bin_of as bin_of_values
from nfinspect_store.kernels import ROWS
from nfinspect_store.statistics import UNKNOWN, ConceptStatistics, NeuronStatistics

STRIPE = 64
"""Neurons counted at a time on the CPU: their 64 x 99 counters, 50 KB, stay in the processor's fastest caches."""


TENSOR_BYTES = 16 * 2**20
"""Of deviations, float64, that a GPU is given at a time: few operations, as each takes the processor microseconds to
start, and little enough for its caches (50 MB on an H100) [own]."""


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
    rows = max(ROWS, TENSOR_BYTES // (8 * neurons)) if isinstance(values, Tensor) else ROWS
    for start in range(0, n, rows):
        deviation = values[start : start + rows] - mean  # float64
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
    told = to_host(xp.stack([xp.asarray(row, dtype=xp.float64) for row in found]))
    mean, m2, m3, m4, low, high, sum_abs = told[:7]
    # A neuron that never varied has no variance, even if its computed mean is rounded.
    varied = low != high
    return NeuronStatistics(
        n=np.full(neurons, n, np.int64),
        fired=told[7].astype(np.int64) if fires != "scale" else np.full(neurons, UNKNOWN),
        mean=np.where(varied, mean, low),
        m2=m2 * varied,
        m3=m3 * varied,
        m4=m4 * varied,
        minimum=low.astype(np.float32),
        maximum=high.astype(np.float32),
        sum_abs=sum_abs,
    )


class HistogramCounter:
    """Counts values of one layer into the signed-log bins, where the values are."""

    def __init__(self, neurons: int) -> None:
        self.counts: Array = np.zeros((neurons, BINS), np.int64)

    def restore(self, counts: NDArray[np.int64]) -> None:
        """Continue from int64[neurons, BINS]."""
        here = self.counts
        here += counts if isinstance(here, np.ndarray) else torch.from_numpy(counts).to(here.device)

    def move(self, device: torch.device) -> Tensor:
        """Count on this device from now on; returns the counts there."""
        here = self.counts
        self.counts = (torch.from_numpy(here) if isinstance(here, np.ndarray) else here).to(device)
        return self.counts

    def add(self, values: Array) -> None:
        """float32[tokens, neurons]."""
        if isinstance(values, Tensor):
            count_tensor(self.move(values.device), values)
            return
        assert isinstance(self.counts, np.ndarray)
        for start in range(0, values.shape[1], STRIPE):
            bins = bin_of_values(values[:, start : start + STRIPE])
            width = bins.shape[1]
            bins += np.arange(width) * BINS
            counted = np.bincount(bins.ravel(), minlength=width * BINS)
            self.counts[start : start + width] += counted.reshape(width, BINS)

    def fetch(self) -> NDArray[np.int64]:
        """int64[neurons, BINS]; on the CPU not copied, so valid until the next values are added."""
        return to_host(self.counts)


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
    """What is kept of one layer but its values: statistics, separate for position 0; with `apart` also the statistics
    of each concept, and examples.
    """

    def __init__(self, neurons: int, fires: str, *, apart: bool = True) -> None:
        self.neurons = neurons
        self._fires = fires
        known = fires != "scale"
        self._running = RunningStatistics.empty(neurons, counts_firing=known)
        self._concepts = RunningConcepts(neurons, counts_firing=known) if apart else None
        self.extremes = Extremes(neurons) if apart else None
        self._histograms = {False: HistogramCounter(neurons), True: HistogramCounter(neurons)}

    def restore(
        self,
        groups: dict[bool, NeuronStatistics],
        concepts: dict[str, ConceptStatistics],
        histograms: dict[bool, NDArray[np.int64]],
    ) -> None:
        """Continue from what an earlier segment stored."""
        for first, told in groups.items():
            self._running.put(first, told)
        if self._concepts is not None:
            for concept, of_concept in concepts.items():
                self._concepts.put(concept, of_concept)
        for first, counts in histograms.items():
            self._histograms[first].restore(counts)

    def add(self, prompts: PromptRows, values: Array, fired: Array | None) -> NDArray[np.float32]:
        """Add a batch, float32[tokens, neurons]; fired: bool of the same shape if the layer fires by its gate. Returns
        its means, float32[means, neurons], in the order of PromptRows.means.

        Prompts are merged one after the other, so that batches do not change the sums.
        """
        means = np.empty((int(prompts.written.sum()), self.neurons), np.float32)
        if isinstance(values, np.ndarray) and kernels.compiled():
            self._add_compiled(prompts, values, fired, means)
        else:
            self._add_each(prompts, values, fired, means)
        return means

    def _add_compiled(
        self, prompts: PromptRows, values: NDArray[np.float32], fired: Array | None, means: NDArray[np.float32]
    ) -> None:
        concepts, extremes = self._concepts, self.extremes
        places = np.zeros(len(prompts.start), np.int64)
        if concepts is not None:
            places[:] = [concepts.index(concept) for concept in prompts.concept]
        first_mean = np.cumsum(prompts.written) - prompts.written
        rows = (prompts.start, prompts.rest, prompts.stop, prompts.generated, first_mean, places, prompts.token)
        counts, at_start = (self._histograms[first].counts for first in (False, True))
        assert not (isinstance(fired, Tensor) or isinstance(counts, Tensor) or isinstance(at_start, Tensor))
        kernels.prompts(
            values,
            fired,
            np.stack(rows, axis=1),
            means,
            (self._running.moments, self._running.extremes, self._running.tallies, counts, at_start),
            None if concepts is None else (concepts.tallies, concepts.mean, concepts.maximum),
            None if extremes is None else (extremes.token_idx, extremes.scores),
        )

    def _add_each(self, prompts: PromptRows, values: Array, fired: Array | None, means: NDArray[np.float32]) -> None:
        """The compiled loop in numpy and torch."""
        xp: Any = np
        if isinstance(values, Tensor):
            xp = torch
            for counter in self._histograms.values():
                counter.move(values.device)
        turned = None if self.extremes is None else by_neuron(values)
        # Those of all prompts together: each would wait for the GPU.
        firsts = prompts.start[prompts.rest > prompts.start].tolist()
        if firsts:
            self._histograms[True].add(values[firsts])
        at_start = iter(to_host(values[firsts]))
        gates = iter(() if fired is None else to_host(fired[firsts]))
        lasts = (prompts.stop[prompts.rest < prompts.stop] - 1).tolist()
        last = iter(to_host(values[lasts]))
        written = [chunk_mean(values[generated:stop]) for _, _, stop, generated, _ in prompts if generated < stop]
        of_written = iter(to_host(xp.stack(written)) if written else ())
        mean = 0
        for (start, rest, stop, generated, token), concept in zip(prompts, prompts.concept, strict=True):
            parts = []
            if start < rest:
                gate = None if fired is None else next(gates)[None]
                parts.append((True, chunk_statistics(next(at_start)[None], gate, self._fires)))
            if rest < stop:
                gate = None if fired is None else fired[rest:stop]
                chunk = chunk_statistics(values[rest:stop], gate, self._fires, self._histograms[False])
                parts.append((False, chunk))
                means[mean], means[mean + 1] = chunk.mean, next(last)
                if generated < stop:
                    means[mean + 2] = next(of_written)
                mean += 2 + (generated < stop)
            for first, chunk in parts:
                self._running.merge(first, chunk)
                if self._concepts is not None:
                    self._concepts.merge(concept, ConceptStatistics.of(chunk))
            if self.extremes is not None and turned is not None:
                high = np.maximum.reduce([chunk.maximum for _, chunk in parts])
                low = np.minimum.reduce([chunk.minimum for _, chunk in parts])
                self.extremes.add(high, low, turned[:, start:stop], token)

    def groups(self) -> dict[bool, NeuronStatistics]:
        """By (at position 0); a key is missing if there are no such tokens."""
        told = {first: self._running.get(first) for first in (False, True)}
        return {first: one for first, one in told.items() if one.n.any()}

    def concepts(self) -> dict[str, ConceptStatistics]:
        return {} if self._concepts is None else {name: self._concepts.get(name) for name in self._concepts.names}

    def limits(self, percentile: Decimal) -> Array:
        """The smallest value of each neuron that is beyond its percentile so far: float32[neurons] (beyond.py)."""
        tokens = sum(int(group.n[0]) for group in self.groups().values())
        return limits(self._histograms[False].counts + self._histograms[True].counts, tokens, percentile)

    def histograms(self) -> dict[bool, NDArray[np.int64]]:
        """By (at position 0): int64[neurons, BINS], valid until the next values are added."""
        return {first: counter.fetch() for first, counter in self._histograms.items()}
