"""On which tokens the neurons of a layer fire, from the stored values (methods §1).

Memory is that of one chunk of neurons, however many there are: a chunk takes a bit for each token of each neuron, 320
MB for 256 neurons on 10 M tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.counting import at_least
from nfinspect_store.block_rows import FiredRows
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

CHUNK_BYTES = 64 * 2**20
"""Size of a chunk that is read, at a bit a token, though never fewer than FEWEST neurons; and of a chunk that is
yielded, at a byte a token, though never less than a neuron."""

FEWEST = 256
"""Neurons read at a time, at least: the values of fewer share disk blocks with their neighbours', which would be read
again for every chunk."""


@dataclass(frozen=True)
class FiredChunk:
    """Consecutive neurons of a layer, from `first` on, and on which tokens of the run they fire, by token_idx."""

    first: int
    fired: NDArray[np.bool_]  # [neurons, tokens]


def fired_chunks(run: RunTables, layer: Layer) -> Iterator[FiredChunk]:
    """A layer's neurons in order, chunk by chunk. Raises StoreError as RunTables.blocks does."""
    threshold = firing_threshold(run, layer)
    bytes_each = -(-run.tokens // 8)
    step = max(FEWEST, CHUNK_BYTES // max(1, bytes_each))
    given = max(1, CHUNK_BYTES // max(1, run.tokens))
    for start in range(0, layer.neurons, step):
        neurons = range(start, min(start + step, layer.neurons))
        bits = np.zeros((len(neurons), bytes_each), np.uint8)
        for rows in _fired_rows(run, layer, neurons, threshold):
            _add_bits(bits, rows.neuron - start, rows.first, rows.fired)
        for first in range(0, len(neurons), given):
            chunk = np.unpackbits(bits[first : first + given], axis=1, count=run.tokens, bitorder="little")
            yield FiredChunk(start + first, chunk.view(np.bool_))


def _add_bits(bits: NDArray[np.uint8], place: NDArray[np.int32], first: int, fired: NDArray[np.bool_]) -> None:
    """Add bool[rows, tokens], which begin at token `first`, to the rows `place` of uint8[neurons, tokens / 8]."""
    byte, bit = divmod(first, 8)
    packed = np.packbits(np.pad(fired, ((0, 0), (bit, 0))), axis=1, bitorder="little")
    bits[place, byte : byte + packed.shape[1]] |= packed


def firing_threshold(run: RunTables, layer: Layer) -> np.float32 | None:
    """What |a| must reach to fire where that depends on the layer's scale; None where it does not.

    In a layer of nothing but zeros nothing fires.
    """
    if layer.fires != "scale":
        return None
    query = "SELECT scale FROM layer_health WHERE site = ? AND layer = ?"
    scale: float = run.cursor().execute(query, [layer.site, layer.layer]).fetchall()[0][0]
    return at_least(HealthOptions().threshold_weak * scale) if scale > 0 else np.float32(np.inf)


def _fired_rows(run: RunTables, layer: Layer, neurons: range, threshold: np.float32 | None) -> Iterator[FiredRows]:
    if layer.fires == "gate":
        yield from run.gates(layer, neurons)
        return
    for rows in run.blocks(layer, neurons=neurons):
        fired = rows.values > 0 if threshold is None else np.abs(rows.values) >= threshold
        yield FiredRows(rows.neuron, rows.first, fired)
