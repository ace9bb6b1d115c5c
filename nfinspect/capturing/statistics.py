"""Statistics of one layer while tokens pass, computed where the values are (a GPU, or the CPU).

The chunk is one prompt: its moments, its mean and its extremes fall out of the same passes over the values, and chunks
merge exactly (nfinspect_store.statistics).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect_store.histogram import BINS, FIRST_KEY, MIDDLE, SHIFT, SIDE
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics

ROWS = 64
"""Rows reduced at a time: 64 x 3072 float64 values stay in the processor's cache, which halves the time of a prompt's
256 rows at once."""


@dataclass(frozen=True)
class ChunkStatistics:
    """Float64 power sums about the chunk's own mean, still on the device: [9, neurons]."""

    rows: Tensor

    def fetch(self) -> NeuronStatistics:
        """To the CPU. The only point where a GPU is waited for."""
        n, fired, mean, m2, m3, m4, low, high, sum_abs = self.rows.cpu().numpy()
        return NeuronStatistics(
            n=n.astype(np.int64),
            fired=fired.astype(np.int64),
            mean=mean,
            m2=m2,
            m3=m3,
            m4=m4,
            minimum=low.astype(np.float32),
            maximum=high.astype(np.float32),
            sum_abs=sum_abs,
        )


def chunk_statistics(values: Tensor, fired: Tensor | None, fires: str) -> ChunkStatistics:
    """Statistics of float[tokens, neurons]. fired: bool[tokens, neurons] where the layer fires by its gate.

    Two passes about the exact mean, in float64 (Pébay 2008 merges them); minimum and maximum are exact.
    """
    n, neurons = values.shape
    double = torch.float64
    mean = values.sum(0, dtype=double) / n
    powers = torch.zeros((3, neurons), dtype=double, device=values.device)
    for start in range(0, n, ROWS):
        deviation = values[start : start + ROWS].to(double)
        deviation -= mean
        square = deviation * deviation
        powers[0] += square.sum(0)
        deviation *= square
        powers[1] += deviation.sum(0)
        square *= square
        powers[2] += square.sum(0)
    low, high = values.amin(0).to(double), values.amax(0).to(double)
    # A neuron that never varied has no variance, whatever rounding of its mean would say.
    powers *= low != high
    if fires == "gate":
        assert fired is not None  # the reader gives it for these layers
        count = fired.sum(0).to(double)
    elif fires == "positive":
        count = (values > 0).sum(0).to(double)
    else:
        count = torch.full((neurons,), UNKNOWN, dtype=double, device=values.device)
    size = torch.full((neurons,), n, dtype=double, device=values.device)
    sum_abs = values.abs().sum(0, dtype=double)
    exact_mean = torch.where(low == high, low, mean)
    return ChunkStatistics(torch.stack([size, count, exact_mean, *powers, low, high, sum_abs]))


class HistogramCounter:
    """Counts values of one layer into the signed-log bins: int64[neurons, BINS] on the values' device."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        self._counts = torch.zeros((neurons, BINS), dtype=torch.int64, device=device)

    def restore(self, counts: NDArray[np.int64]) -> None:
        self._counts += torch.from_numpy(np.ascontiguousarray(counts)).to(self._counts.device)

    def add(self, values: Tensor) -> None:
        """float32[tokens, neurons]; the same bins as nfinspect_store.histogram.bin_of."""
        # [neurons, tokens]: each neuron's bins lie together. Always a copy, as it is worked on in place.
        bits = values.t().clone(memory_format=torch.contiguous_format).view(torch.int32)
        sign = bits >> 31  # -1 where negative, else 0
        # In place: a fresh array for each step costs three times the arithmetic.
        bits.bitwise_and_(0x7FFFFFFF).bitwise_right_shift_(SHIFT).sub_(FIRST_KEY - 1).clamp_(0, SIDE + 1)
        bins = bits.bitwise_xor_(sign).sub_(sign).add_(MIDDLE).long()
        one = torch.ones((), dtype=torch.int64, device=bins.device)
        self._counts.scatter_add_(1, bins, one.expand(bins.shape))

    def fetch(self) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self._counts.cpu().numpy().copy()
        return counts


class LayerStatistics:
    """Everything kept of one layer, apart for each concept and for position 0."""

    def __init__(self, neurons: int, fires: str, device: torch.device) -> None:
        self.neurons = neurons
        self._fires = fires
        self._groups: dict[tuple[str, bool], NeuronStatistics] = {}
        self._histograms = {first: HistogramCounter(neurons, device) for first in (False, True)}

    def restore(
        self, groups: dict[tuple[str, bool], NeuronStatistics], histograms: dict[bool, NDArray[np.int64]]
    ) -> None:
        """Go on from what an earlier segment stored."""
        self._groups = dict(groups)
        for first, counts in histograms.items():
            self._histograms[first].restore(counts)

    def add(self, concept: str, first: bool, values: Tensor, fired: Tensor | None) -> NeuronStatistics:
        """Take one chunk, float32[tokens, neurons], of a concept; returns the chunk's own statistics."""
        chunk = chunk_statistics(values, fired, self._fires).fetch()
        self._histograms[first].add(values)
        key = (concept, first)
        before = self._groups.get(key)
        self._groups[key] = chunk if before is None else before.merge(chunk)
        return chunk

    def groups(self) -> dict[tuple[str, bool], NeuronStatistics]:
        return dict(self._groups)

    def histograms(self) -> dict[bool, NDArray[np.int64]]:
        return {first: counter.fetch() for first, counter in self._histograms.items()}

