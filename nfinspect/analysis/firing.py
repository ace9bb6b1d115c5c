"""The stored values of a layer, neuron by neuron, and which of them count as firing (methods §1).

Memory stays that of one chunk however many neurons there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.counting import at_least
from nfinspect_store.schema import BLOCK
from nfinspect_store.tables import NeuronBlocks, RunTables
from nfinspect_store.types import Layer

CHUNK_BYTES = 256 * 2**20
"""Values, or firings, in a chunk at most, as long as it holds FEWEST neurons."""

FEWEST = 256
"""Neurons in a chunk at least: the blocks of fewer lie together in one block of the disk, which would be read again
for every chunk."""


@dataclass(frozen=True)
class Chunk:
    """Neighbouring neurons of a layer on every token of the run, in order of token_idx."""

    first: int
    values: NDArray[np.float32]  # [neurons, tokens]
    fired: NDArray[np.bool_]  # [neurons, tokens]


@dataclass(frozen=True)
class FiredChunk:
    """A chunk without its values, in a fifth of its memory."""

    first: int
    fired: NDArray[np.bool_]  # [neurons, tokens]


def layer_chunks(run: RunTables, layer: Layer) -> Iterator[Chunk]:
    """A layer's neurons in order, some at a time. Raises StoreError as RunTables.neuron_blocks does."""
    threshold = firing_threshold(run, layer)
    for first, stop in _ranges(run, layer, 5):
        values = _empty(run, stop - first, np.float32)
        fired = _empty(run, stop - first, np.bool_)
        for rows in run.neuron_blocks(layer, first, stop):
            place = rows.neuron - first, rows.block
            values[place] = rows.values
            fired[place] = _fired(rows, threshold)
        yield Chunk(first, _flat(run, values), _flat(run, fired))


def fired_chunks(run: RunTables, layer: Layer) -> Iterator[FiredChunk]:
    """As layer_chunks, without the values."""
    threshold = firing_threshold(run, layer)
    for first, stop in _ranges(run, layer, 1):
        fired = _empty(run, stop - first, np.bool_)
        for rows in run.neuron_blocks(layer, first, stop):
            fired[rows.neuron - first, rows.block] = _fired(rows, threshold)
        yield FiredChunk(first, _flat(run, fired))


def firing_threshold(run: RunTables, layer: Layer) -> np.float32 | None:
    """What |a| must reach to fire where that depends on the layer's scale; None where it does not.

    In a layer of nothing but zeros nothing fires.
    """
    if layer.fires != "scale":
        return None
    query = "SELECT scale FROM layer_health WHERE site = ? AND layer = ?"
    scale: float = run.cursor().execute(query, [layer.site, layer.layer]).fetchall()[0][0]
    return at_least(HealthOptions().threshold_weak * scale) if scale > 0 else np.float32(np.inf)


def _fired(rows: NeuronBlocks, threshold: np.float32 | None) -> NDArray[np.bool_]:
    if rows.fired is not None:
        return rows.fired
    fired: NDArray[np.bool_] = rows.values > 0 if threshold is None else np.abs(rows.values) >= threshold
    return fired


def _ranges(run: RunTables, layer: Layer, value_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(FEWEST, CHUNK_BYTES // (value_bytes * BLOCK * max(1, _blocks(run))))
    for first in range(0, layer.neurons, step):
        yield first, min(first + step, layer.neurons)


def _blocks(run: RunTables) -> int:
    return -(-run.tokens // BLOCK)


def _empty(run: RunTables, neurons: int, dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.empty((neurons, _blocks(run), BLOCK), dtype)


def _flat(run: RunTables, blocks: NDArray) -> NDArray:  # type: ignore[type-arg]
    """[neurons, blocks, 256] -> [neurons, tokens], without the padding."""
    return blocks.reshape(len(blocks), -1)[:, : run.tokens]
