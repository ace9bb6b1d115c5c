"""Statistics of all prompts of a batch at once, of tensors, on their device: few operations, one transfer.

A prompt's rows past position 0 are cut into tiles of TILE rows, those that were generated apart from those that were
read; the last tile of either is filled with the prompt's first row. What is summed are powers of the distance from that
row: where rows repeat it they add nothing, and as it is one of the values summed, central moments follow from the sums
to within n roundings (docs/decisions/0020). Tiles are added one after the other. So a prompt's statistics are its own:
whatever else is in the batch, each number is added to the same ones in the same order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.capturing.batch import PromptRows, Rows
from nfinspect.capturing.transfer import begin_copy, sent
from nfinspect_store.histogram import EDGES, MIDDLE
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics

TILE = 32
"""Rows that are summed at once."""

PIECE = 2**22
"""Values worked on at a time, 16 to 20 bytes each: a GPU takes longer to read them than the processor to start an
operation (about 5 µs), and there is room for them [own]."""

NARROW, WIDE = 128, 1024
"""A piece has a multiple of NARROW neurons, which a GPU sums in one order, however many; and WIDE or more, so that it
reads long stretches, unless a prompt is too long for that [own]."""


@dataclass(frozen=True)
class Parts:
    """Statistics of the prompts' rows past position 0 (`rests`: prompts that have any), and the rows at position 0
    (`firsts`: prompts that have one), prompt by prompt, in main memory.
    """

    first: NDArray[np.float32]  # [firsts, neurons]
    moments: NDArray[np.float64]  # [rests, (mean, m2, m3, m4, sum_abs), neurons]
    extremes: NDArray[np.float32]  # [rests, (minimum, maximum), neurons]
    last: NDArray[np.float32]  # [rests, neurons]: the last row
    first_fired: NDArray[np.uint8] | None = None  # [firsts, neurons], 0 or 1, by the gates
    at: NDArray[np.int32] | None = None  # [rests, 2, neurons]: in which of the rests' rows the extremes are first
    fired: NDArray[np.int32] | None = None  # [rests, neurons]: in how many rows
    written: NDArray[np.float32] | None = None  # [rests, neurons]: the mean of the generated rows; None: nobody has any

    def of(self, rest: int, n: int) -> NeuronStatistics:
        """The statistics of one prompt's rows past position 0, of which there are n."""
        mean, m2, m3, m4, sum_abs = self.moments[rest]
        low, high = self.extremes[rest]
        fired = np.full(len(mean), UNKNOWN) if self.fired is None else self.fired[rest].astype(np.int64)
        return NeuronStatistics(np.full(len(mean), n, np.int64), fired, mean, m2, m3, m4, low, high, sum_abs)


def begin(
    prompts: PromptRows,
    values: Tensor,
    fired: Tensor | None,
    counts: tuple[Tensor, Tensor],
    *,
    counts_firing: bool,
    finds: bool,
) -> Callable[[], Parts]:
    """Begin to compute statistics of float[tokens, neurons], of any precision; the returned function waits for them.

    fired: bool of the same shape if the layer fires by its gate; else a value above zero fires. counts: int64[neurons,
    BINS], to which the values past position 0 and those at it are added. counts_firing, finds: whether `fired` and `at`
    of the Parts are wanted.
    """
    gates = fired if counts_firing else None
    neurons, tiles = values.shape[1], _Tiles.of(prompts)
    firsts, rests = prompts.start[prompts.start < prompts.rest], len(tiles.first)
    fields = {
        "moments": ("float64", (rests, 5, neurons)),
        "extremes": ("float32", (rests, 2, neurons)),
        "last": ("float32", (rests, neurons)),
        "first": ("float32", (len(firsts), neurons)),
    }
    if finds:
        fields["at"] = ("int32", (rests, 2, neurons))
    if counts_firing:
        fields["fired"] = ("int32", (rests, neurons))
    if tiles.written.any():
        fields["written"] = ("float32", (rests, neurons))
    if gates is not None:
        fields["first_fired"] = ("uint8", (len(firsts), neurons))
    room = _Room(fields)
    raw = torch.empty(room.bytes, dtype=torch.uint8, device=values.device)
    told = room.tensors(raw)
    at_start, *columns = _columns([firsts, *tiles.columns()], values.device)
    count_tensor(counts[0], values)
    if len(firsts):
        first = values.index_select(0, at_start)
        count_tensor(counts[0], first, -1)
        count_tensor(counts[1], first)
        told["first"].copy_(first)
        if gates is not None:
            told["first_fired"].copy_(gates.index_select(0, at_start))
    if rests:
        _of_rests(tiles, columns, values, gates, told)
    copied = begin_copy(raw)
    return lambda: Parts(**room.arrays(copied()))


@dataclass(frozen=True)
class _Tiles:
    """Of each prompt with rows past position 0, and of each of their tiles."""

    first: Rows  # its first row
    last: Rows
    n: Rows
    written: Rows  # how many of them are generated
    added: Rows  # how often its tiles repeat the first row
    tiles: Rows  # [prompts, (read, generated)]: how many tiles

    rows: Rows  # [tiles, TILE]
    begin: Rows  # which row of the prompt is its first
    prompt: Rows

    @classmethod
    def of(cls, prompts: PromptRows) -> "_Tiles":
        there = prompts.rest < prompts.stop
        rest, generated, stop = prompts.rest[there], prompts.generated[there], prompts.stop[there]
        starts, stops = np.stack([rest, generated], 1), np.stack([generated, stop], 1)
        tiles = -(-(stops - starts) // TILE)
        half = np.repeat(np.arange(tiles.size), tiles.ravel())
        nth = np.arange(len(half)) - np.repeat(np.cumsum(tiles) - tiles.ravel(), tiles.ravel())
        begin, prompt = starts.ravel()[half] + TILE * nth, half // 2
        rows = begin[:, None] + np.arange(TILE)
        rows = np.where(rows < stops.ravel()[half][:, None], rows, rest[prompt][:, None])
        added = TILE * tiles.sum(1) - (stop - rest)
        return cls(rest, stop - 1, stop - rest, stop - generated, added, tiles, rows, begin - rest[prompt], prompt)

    def columns(self) -> list[Rows]:
        """What the device is told."""
        per_prompt = [self.first, self.last, self.n, self.written, self.added]
        return [*per_prompt, _edges_of(self.tiles.ravel()), self.rows.ravel(), self.begin, self.prompt]

    def groups(self, most: int) -> list[slice]:
        """Consecutive prompts that have at most so many tiles together, or are one."""
        edges, held = [0], 0
        for prompt, tiles in enumerate(self.tiles.sum(1).tolist()):
            if held and held + tiles > most:
                edges.append(prompt)
                held = 0
            held += tiles
        return [slice(*pair) for pair in zip(edges, [*edges[1:], len(self.tiles)], strict=True)]


def _of_rests(
    tiles: _Tiles, there: Sequence[Tensor], values: Tensor, gates: Tensor | None, told: Mapping[str, Tensor]
) -> None:
    """Fill `told` with what concerns rows past position 0. there: _Tiles.columns on the device."""
    first, last, n, written, added, edges, rows, begins, prompt = there
    neurons = values.shape[1]
    base = values.index_select(0, first).double()
    sums = base.new_empty((len(base), 6 if "fired" in told else 5, neurons))
    arrays = {"base": base, "sums": sums, **{name: told[name] for name in ("extremes", "at") if name in told}}
    if "written" in told:
        arrays["written"] = torch.empty_like(base)
    until = _edges_of(tiles.tiles.sum(1)).tolist()
    for group in tiles.groups(PIECE // (TILE * min(neurons, WIDE))):
        a, b = until[group.start], until[group.stop]
        width = max(NARROW, PIECE // (TILE * (b - a)) // NARROW * NARROW)
        halves = edges[2 * group.start : 2 * group.stop + 1] - a
        of_tiles = rows[a * TILE : b * TILE], begins[a:b, None, None].double(), prompt[a:b] - group.start
        parts = halves, halves[::2].contiguous()
        for left in range(0, neurons, width):
            columns = slice(left, left + width)
            piece = {name: array[group, ..., columns] for name, array in arrays.items()}
            _add_up(values[:, columns], None if gates is None else gates[:, columns], of_tiles, parts, piece)
    told["last"].copy_(values.index_select(0, last))
    told["extremes"][:, 0].neg_()
    if "written" in told:
        told["written"].copy_(arrays["written"].div_(written[:, None]).add_(base))
    if "fired" in told:
        flags = base > 0 if gates is None else gates.index_select(0, first)
        told["fired"].copy_(sums[:, 5].sub_(flags * added[:, None]))
    told["moments"].copy_(sums[:, :5])
    del sums, arrays
    _centre(told["moments"], base, n[:, None])
    told["moments"][:, 4].sub_(base.abs_().mul_(added[:, None]))


def _add_up(
    values: Tensor,
    gates: Tensor | None,
    of_tiles: tuple[Tensor, Tensor, Tensor],
    parts: tuple[Tensor, Tensor],
    told: Mapping[str, Tensor],
) -> None:
    """Of some neurons of some prompts, whose first rows are the `base`: the sums of powers of the distance from it and
    of |a|, and how often they fired; the extremes, the minimum with the other sign, and where they are first; and the
    sums of the distances of generated rows. parts: where the tiles of each half of a prompt begin, and those of each.
    """
    rows, begins, prompt = of_tiles
    halves, whole = parts
    tiles, neurons = len(begins), values.shape[1]
    tile = values.index_select(0, rows).view(tiles, TILE, neurons)
    if "at" in told:
        (high, at_high), (low, at_low) = tile.max(1), tile.min(1)
    else:
        low, high = torch.aminmax(tile, dim=1)
    ends = torch.stack([low.neg(), high], 1)
    most = torch.segment_reduce(ends, "max", offsets=whole, unsafe=True)
    told["extremes"].copy_(most)
    if "at" in told:
        # The first tile that has it, and the first row there, which max and min give.
        at = torch.stack([at_low, at_high], 1).add(begins)
        found = torch.where(ends == most.index_select(0, prompt), at, torch.inf)
        told["at"].copy_(torch.segment_reduce(found, "min", offsets=whole, unsafe=True))
    sums = torch.empty((tiles, *told["sums"].shape[1:]), dtype=torch.float64, device=values.device)
    if sums.shape[1] == 6:
        flags = tile > 0 if gates is None else gates.index_select(0, rows).view(tile.shape)
        sums[:, 5].copy_(flags.half().sum(1))  # exact: at most TILE
        del flags
    base = told["base"].index_select(0, prompt)[:, None]
    power = tile.double()
    torch.linalg.vector_norm(power, 1, dim=1, out=sums[:, 4])
    torch.sum(torch.sub(tile, base, out=power), 1, out=sums[:, 0])
    torch.sum(power.pow_(3), 1, out=sums[:, 2])
    # Subtracted again, which takes less than a copy of it.
    torch.sum(torch.sub(tile, base, out=power).square_(), 1, out=sums[:, 1])
    torch.linalg.vector_norm(power, 2, dim=1, out=sums[:, 3])  # the root of the sum of squares
    sums[:, 3].square_()
    added = torch.segment_reduce(sums, "sum", offsets=halves, unsafe=True).view(-1, 2, *sums.shape[1:])
    torch.add(added[:, 0], added[:, 1], out=told["sums"])
    if "written" in told:
        told["written"].copy_(added[:, 1, 0])


def _centre(sums: Tensor, base: Tensor, n: Tensor) -> None:
    """Turn sums of powers of the distance from `base` into the mean and sums of powers of the distance from it."""
    s1, s2, s3, s4 = sums[:, :4].unbind(1)
    d = s1 / n
    s4.addcmul_(d, (s3 * 4).addcmul_(d, (s2 * 6).addcmul_(d, s1, value=-3), value=-1), value=-1)
    s3.addcmul_(d, (s2 * 3).addcmul_(d, s1, value=-2), value=-1)
    s2.addcmul_(d, s1, value=-1)
    torch.add(base, d, out=s1)


class _Room:
    """Where arrays of several types are in one block of bytes, so that one transfer brings them all."""

    def __init__(self, fields: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """fields: type and shape of each."""
        self.bytes = 0
        self._places: dict[str, tuple[slice, str, tuple[int, ...]]] = {}
        for name, (dtype, shape) in fields.items():
            size = prod(shape) * np.dtype(dtype).itemsize
            self._places[name] = slice(self.bytes, self.bytes + size), dtype, shape
            self.bytes += -(-size // 8) * 8

    def tensors(self, raw: Tensor) -> dict[str, Tensor]:
        places = self._places.items()
        return {name: raw[place].view(getattr(torch, dtype)).view(shape) for name, (place, dtype, shape) in places}

    def arrays(self, raw: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        places = self._places.items()
        return {name: raw[place].view(dtype).reshape(shape) for name, (place, dtype, shape) in places}


def _edges_of(sizes: Rows) -> Rows:
    """Where parts of these sizes begin, and where the last one ends."""
    edges: Rows = np.concatenate([[0], np.cumsum(sizes)])
    return edges


def _columns(columns: Sequence[Rows], device: torch.device) -> Sequence[Tensor]:
    """The columns on the device, by one transfer."""
    return torch.split(sent(np.concatenate(columns), device), [len(column) for column in columns])


def count_tensor(counts: Tensor, values: Tensor, times: int = 1) -> None:
    """Count float[tokens, neurons] into int64[neurons, BINS] on their device, with the bins of histogram.bin_of; each
    value `times` times. Counts are whole numbers: the order in which a GPU adds them does not matter.
    """
    edges, by_bin = _edges(values.dtype, values.device), counts.t()
    one = torch.full((1, 1), times, dtype=torch.int64, device=values.device)
    for part in torch.split(values.contiguous(), max(1, PIECE // values.shape[1])):
        bins = torch.bucketize(part, edges, right=True)
        by_bin.scatter_add_(0, bins, one.expand(bins.shape))
        del bins  # or two of them would be held, 8 bytes a value


@cache
def _edges(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The smallest value in each bin but the first, in this precision."""
    edges = torch.from_numpy(EDGES[1:-1]).to(dtype)  # exact
    # A negative edge belongs to the bin below it: the next value towards zero is one less in bits.
    edges[:MIDDLE].view(torch.int32 if dtype == torch.float32 else torch.int16).sub_(1)
    return edges.to(device)
