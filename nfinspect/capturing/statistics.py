"""Statistics of one layer, updated as tokens pass, computed where the values are.

A chunk is one prompt without its token at position 0, or that token: its moments, mean and extremes come from the same
passes over the values, and chunks merge exactly (nfinspect_store.statistics). Values on a GPU are torch tensors and
stay there, and the histograms are on the same GPU: the statistics of all prompts of a batch are computed there at once
(tensor_statistics.py). Values on the CPU are numpy arrays, because torch's thread pool would compete with the writer
for the cores (docs/decisions/0003); one compiled loop takes all prompts of a batch where it is installed
(docs/decisions/0009).
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import count
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.beyond import limits
from nfinspect.capturing.examples import Extremes
from nfinspect.capturing.running import RunningConcepts, RunningStatistics
from nfinspect.capturing.tensor_statistics import Parts, begin, count_tensor
from nfinspect.capturing.transfer import Array, by_neuron, to_host
from nfinspect_store import kernels
from nfinspect_store.histogram import BINS
from nfinspect_store.histogram import bin_of as bin_of_values
from nfinspect_store.kernels import ROWS
from nfinspect_store.statistics import UNKNOWN, ConceptStatistics, NeuronStatistics

STRIPE = 64
"""Neurons counted at a time on the CPU: their 64 x 99 counters, 50 KB, stay in the processor's fastest caches."""


def chunk_statistics(
    values: NDArray[np.float32],
    fired: NDArray[np.bool_] | None,
    fires: str,
    histogram: "HistogramCounter | None" = None,
) -> NeuronStatistics:
    """Statistics of float32[tokens, neurons]. fired: bool[tokens, neurons] if the layer fires by its gate.
    histogram: also counts the values.

    Two passes, the second about the mean, in float64 (merged as in Pébay 2008); minimum and maximum are exact.
    """
    if kernels.compiled():
        counts = None if histogram is None else histogram.counts
        assert not isinstance(counts, Tensor)
        return NeuronStatistics.compiled(values, fired, counts, counts_firing=fires != "scale")
    if histogram is not None:
        histogram.add(values)
    n, neurons = values.shape
    mean = _chunk_mean(values)
    m2, m3, m4 = np.zeros((3, neurons))
    for start in range(0, n, ROWS):
        deviation = values[start : start + ROWS] - mean  # float64
        power = deviation * deviation
        m2 += power.sum(0)
        deviation *= power
        m3 += deviation.sum(0)
        power *= power
        m4 += power.sum(0)
    low, high = values.min(0), values.max(0)
    # The reader gives `fired` if a layer fires by its gate; else a > 0 is the definition.
    flags = values > 0 if fired is None else fired
    # A neuron that never varied has no variance, even if its computed mean is rounded.
    varied = low != high
    return NeuronStatistics(
        n=np.full(neurons, n, np.int64),
        fired=flags.sum(0, dtype=np.int64) if fires != "scale" else np.full(neurons, UNKNOWN),
        mean=np.where(varied, mean, low),
        m2=m2 * varied,
        m3=m3 * varied,
        m4=m4 * varied,
        minimum=low,
        maximum=high,
        sum_abs=np.abs(values).sum(0, dtype=np.float64),
    )


def _chunk_mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over tokens: [tokens, neurons] -> [neurons]."""
    mean: NDArray[np.float64] = values.sum(0, dtype=np.float64) / len(values)
    return mean


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
        if isinstance(here, np.ndarray) or here.device != device:
            counts = torch.from_numpy(here) if isinstance(here, np.ndarray) else here
            # Bin by bin in memory: what is counted at once are values of neighbouring neurons, many in one bin.
            self.counts = here = counts.to(device).t().contiguous().t()
        return here

    def add(self, values: Array) -> None:
        """float[tokens, neurons]: float32, of a tensor any precision."""
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
        return np.ascontiguousarray(to_host(self.counts))


Recorded: TypeAlias = tuple[
    tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]],
    tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]] | None,
    tuple[NDArray[np.int64], NDArray[np.float32]] | None,
]
"""As kernels.parts takes them: running, concepts, examples."""


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
        """Add a batch, [tokens, neurons], float32 or a tensor of any precision; fired: bool of the same shape if the
        layer fires by its gate. Returns its means, float32[means, neurons], in the order of PromptRows.means.

        Prompts are merged one after the other, so that batches do not change the sums.
        """
        return self.begin(prompts, values, fired)()

    def begin(self, prompts: PromptRows, values: Array, fired: Array | None) -> Callable[[], NDArray[np.float32]]:
        """The same in two steps: the returned function gives the means. A GPU computes meanwhile; call it before the
        next batch begins.
        """
        means = np.empty((int(prompts.written.sum()), self.neurons), np.float32)
        if isinstance(values, Tensor):
            assert fired is None or isinstance(fired, Tensor)
            return self._begin_tensors(prompts, values, fired, means)
        assert not isinstance(fired, Tensor)
        if kernels.compiled():
            self._add_compiled(prompts, values, fired, means)
        else:
            self._add_each(prompts, values, fired, means)
        return lambda: means

    def _add_compiled(
        self,
        prompts: PromptRows,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        means: NDArray[np.float32],
    ) -> None:
        counts, at_start = (self._histograms[first].counts for first in (False, True))
        assert not (isinstance(counts, Tensor) or isinstance(at_start, Tensor))
        rows = self._rows(prompts)
        running, concepts, examples = self._recorded()
        kernels.prompts(values, fired, rows, means, (*running, counts, at_start), concepts, examples)

    def _rows(self, prompts: PromptRows) -> NDArray[np.int64]:
        """What the compiled loops are told of the prompts; there is room for their concepts from now on."""
        places = np.zeros(len(prompts.start), np.int64)
        if self._concepts is not None:
            places[:] = [self._concepts.index(concept) for concept in prompts.concept]
        first_mean = np.cumsum(prompts.written) - prompts.written
        rows = (prompts.start, prompts.rest, prompts.stop, prompts.generated, first_mean, places, prompts.token)
        return np.stack(rows, axis=1)

    def _recorded(self) -> Recorded:
        """What the compiled loops add to."""
        concepts, extremes = self._concepts, self.extremes
        return (
            (self._running.moments, self._running.extremes, self._running.tallies),
            None if concepts is None else (concepts.tallies, concepts.mean, concepts.maximum),
            None if extremes is None else (extremes.token_idx, extremes.scores),
        )

    def _add_each(
        self,
        prompts: PromptRows,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        means: NDArray[np.float32],
    ) -> None:
        """The compiled loop in numpy."""
        turned = None if self.extremes is None else by_neuron(values)
        mean = 0
        for (start, rest, stop, generated, token), concept in zip(prompts, prompts.concept, strict=True):
            parts = []
            for first, a, b in ((True, start, rest), (False, rest, stop)):
                if a < b:
                    gate = None if fired is None else fired[a:b]
                    chunk = chunk_statistics(values[a:b], gate, self._fires, self._histograms[first])
                    parts.append((first, chunk))
            if rest < stop:
                means[mean], means[mean + 1] = parts[-1][1].mean, values[stop - 1]
                if generated < stop:
                    means[mean + 2] = _chunk_mean(values[generated:stop])
                mean += 2 + (generated < stop)
            self._merge(concept, parts)
            if self.extremes is not None and turned is not None:
                of_prompt = turned[:, start:stop]
                self.extremes.add(of_prompt.max(1), of_prompt.min(1), of_prompt.argmax(1), of_prompt.argmin(1), token)

    def _merge(self, concept: str, parts: Sequence[tuple[bool, NeuronStatistics]]) -> None:
        """Merge one prompt's token at position 0 and its rest."""
        for first, chunk in parts:
            self._running.merge(first, chunk)
            if self._concepts is not None:
                self._concepts.merge(concept, ConceptStatistics.of(chunk))

    def _begin_tensors(
        self, prompts: PromptRows, values: Tensor, fired: Tensor | None, means: NDArray[np.float32]
    ) -> Callable[[], NDArray[np.float32]]:
        counts, at_start = (self._histograms[first].move(values.device) for first in (False, True))
        counts_firing, finds = self._fires != "scale", self.extremes is not None
        told = begin(prompts, values, fired, (counts, at_start), counts_firing=counts_firing, finds=finds)

        def finish() -> NDArray[np.float32]:
            parts = told()
            rests = prompts.rest < prompts.stop
            row = (np.cumsum(prompts.written) - prompts.written)[rests]
            means[row], means[row + 1] = parts.moments[:, 0], parts.last
            if parts.written is not None:
                writes = (prompts.generated < prompts.stop)[rests]
                means[row[writes] + 2] = parts.written[writes]
            if kernels.compiled():
                known = (parts.first, parts.first_fired, parts.moments, parts.extremes, parts.at, parts.fired)
                rows = self._rows(prompts)
                kernels.parts(*known, rows, *self._recorded())
            else:
                self._merge_each(prompts, parts)
            return means

        return finish

    def _merge_each(self, prompts: PromptRows, parts: Parts) -> None:
        """The compiled loop in numpy."""
        firsts, rests, columns = count(), count(), np.arange(self.neurons)
        for (start, rest, stop, _, token), concept in zip(prompts, prompts.concept, strict=True):
            chunks, at = [], []
            if start < rest:
                i = next(firsts)
                gate = None if parts.first_fired is None else parts.first_fired[i : i + 1].view(np.bool_)
                chunks.append((True, chunk_statistics(parts.first[i : i + 1], gate, self._fires)))
                at.append(np.zeros((2, self.neurons), np.int32))
            if rest < stop:
                i = next(rests)
                chunks.append((False, parts.of(i, stop - rest)))
                if parts.at is not None:
                    at.append(parts.at[i] + (rest - start))
            self._merge(concept, chunks)
            if self.extremes is not None:
                low, high = (np.stack([getattr(x, name) for _, x in chunks]) for name in ("minimum", "maximum"))
                rows = np.stack(at)  # [chunks, (minimum, maximum), neurons]
                at_high, at_low = rows[high.argmax(0), 1, columns], rows[low.argmin(0), 0, columns]
                self.extremes.add(high.max(0), low.min(0), at_high, at_low, token)

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
