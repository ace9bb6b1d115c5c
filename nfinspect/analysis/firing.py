"""On which tokens the neurons of a layer fire, from the stored values (methods §1).

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
"""In a chunk at most, as long as it holds FEWEST neurons."""

FEWEST = 256
"""Neurons in a chunk at least: the blocks of fewer lie together in one block of the disk, which would be read again
for every chunk."""


@dataclass(frozen=True)
class FiredChunk:
    """Neighbouring neurons of a layer on every token of the run, in order of token_idx."""

    first: int
    fired: NDArray[np.bool_]  # [neurons, tokens]


def fired_chunks(run: RunTables, layer: Layer) -> Iterator[FiredChunk]:
    """A layer's neurons in order, some at a time. Raises StoreError as RunTables.neuron_blocks does."""
    threshold = firing_threshold(run, layer)
    blocks = -(-run.tokens // BLOCK)
    step = max(FEWEST, CHUNK_BYTES // (BLOCK * max(1, blocks)))
    for first in range(0, layer.neurons, step):
        stop = min(first + step, layer.neurons)
        fired = np.empty((stop - first, blocks, BLOCK), np.bool_)
        for rows in run.neuron_blocks(layer, first, stop):
            fired[rows.neuron - first, rows.block] = _fired(rows, threshold)
        yield FiredChunk(first, fired.reshape(len(fired), -1)[:, : run.tokens])  # without the padding


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
