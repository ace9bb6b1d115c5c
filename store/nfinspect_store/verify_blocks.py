"""The check of `verify` that reads every value: one pass over the blocks, a batch at a time."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK

MEAN_TOLERANCE = 1e-6
"""Of E|a|: the capture and this pass add the same values in another order, both in float64."""


READ_BLOCKS = 'SELECT layer_id, neuron, block, "values" FROM blocks'

BATCH = 8192
"""Blocks read at a time: 8 MB."""


@dataclass
class _Layer:
    """What one layer's blocks say, [neurons] in every array."""

    blocks: NDArray[np.int64]
    infinite: NDArray[np.int64]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    total: NDArray[np.float64]
    total_abs: NDArray[np.float64]

    @classmethod
    def empty(cls, neurons: int) -> "_Layer":
        return cls(
            np.zeros(neurons, np.int64),
            np.zeros(neurons, np.int64),
            np.full(neurons, np.inf, np.float32),
            np.full(neurons, -np.inf, np.float32),
            np.zeros(neurons),
            np.zeros(neurons),
        )

    def add(self, neuron: NDArray[np.int64], values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """values, valid: [rows, 256]; what is not valid is padding."""
        np.add.at(self.blocks, neuron, 1)
        finite = np.isfinite(values)
        np.add.at(self.infinite, neuron, (valid & ~finite).sum(axis=1))
        valid = valid & finite
        np.minimum.at(self.minimum, neuron, np.where(valid, values, np.inf).min(axis=1).astype(np.float32))
        np.maximum.at(self.maximum, neuron, np.where(valid, values, -np.inf).max(axis=1).astype(np.float32))
        counted = np.where(valid, values, 0).astype(np.float64)
        np.add.at(self.total, neuron, counted.sum(axis=1))
        np.add.at(self.total_abs, neuron, np.abs(counted).sum(axis=1))


def check_blocks(run: RunFile) -> list[str]:
    """All blocks there; no NaN or infinity; minimum, maximum and means as the capture's statistics have them.

    DuckDB checks its own checksum of every disk block that is read here: a flipped bit ends the reading.
    """
    if not run.has_values:
        row = run.cursor().execute("SELECT count(*) FROM blocks").fetchone()
        return [f"blocks: a run of statistics holds {row[0]} of them"] if row and row[0] else []
    layers = {layer.layer_id: _Layer.empty(layer.neurons) for layer in run.layers}
    expected_blocks = -(-run.tokens // BLOCK)
    problems: list[str] = []
    strangers = 0
    positions = np.arange(BLOCK)
    for batch in run.streamed(READ_BLOCKS, {}, BATCH):
        layer_ids, neurons = (
            batch.column("layer_id").to_numpy(),
            batch.column("neuron").to_numpy().astype(np.int64),
        )
        blocks, values = batch.column("block").to_numpy().astype(np.int64), _values(batch)
        for layer_id in np.unique(layer_ids):
            here = layer_ids == layer_id
            layer = layers.get(int(layer_id))
            known = np.zeros_like(here) if layer is None else here & (neurons >= 0) & (neurons < len(layer.blocks))
            known &= (blocks >= 0) & (blocks < expected_blocks)
            strangers += int((here & ~known).sum())
            if layer is not None and known.any():
                valid = blocks[known, None] * BLOCK + positions < run.tokens
                layer.add(neurons[known], values[known], valid)
    if strangers:
        problems.append(f"blocks: {strangers} belong to no neuron or no token of the run")
    for described in run.layers:
        found = layers[described.layer_id]
        place = f"{described.site} layer {described.layer}"
        wrong = int((found.blocks != expected_blocks).sum())
        if wrong:
            problems.append(
                f"blocks: {place}: {wrong} neurons have {found.blocks.min()} to {found.blocks.max()} blocks, "
                f"expected {expected_blocks}"
            )
        elif run.tokens:
            problems += _against_statistics(run, described.site, described.layer, place, found)
    return problems


def _against_statistics(run: RunFile, site: str, layer: int, place: str, found: _Layer) -> list[str]:
    problems = []
    if found.infinite.any():
        neuron = int(np.flatnonzero(found.infinite)[0])
        problems.append(
            f"blocks: {place}: {int(found.infinite.sum())} values are NaN or infinite, the first in N{neuron}"
        )
    statistics = run.statistics(site, layer=layer)
    mean, mean_abs = found.total / run.tokens, found.total_abs / run.tokens
    tolerance = MEAN_TOLERANCE * np.maximum(mean_abs, np.finfo(np.float32).tiny)
    compared = {
        "minimum": found.minimum != statistics.minimum,
        "maximum": found.maximum != statistics.maximum,
        "mean": ~(np.abs(mean - statistics.mean) <= tolerance),
        "mean of the absolute values": ~(np.abs(mean_abs - statistics.mean_abs) <= tolerance),
    }
    for what, differs in compared.items():
        if differs.any():
            neuron = int(np.flatnonzero(differs)[0])
            count = int(differs.sum())
            problems.append(
                f"blocks: {place}: the {what} of {count} neurons is not that of the statistics, the first is N{neuron}"
            )
    return problems


def _values(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """The values of a batch of blocks: float32[rows, 256]."""
    flat = batch.column("values").flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, BLOCK)
