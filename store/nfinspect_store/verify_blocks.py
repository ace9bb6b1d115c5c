"""The check of `verify` that reads every value: one pass over the blocks, layer by layer, a batch at a time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.precision import BYTES
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK

MEAN_TOLERANCE = 1e-6
"""As a share of E|a|: the capture and this pass add the same values in different orders, both in float64."""


@dataclass
class _Layer:
    """What one layer's blocks hold; [neurons] in every array."""

    there: NDArray[np.int64]  # how many values
    places: NDArray[np.uint64]  # see _places
    infinite: NDArray[np.int64]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    total: NDArray[np.float64]
    total_abs: NDArray[np.float64]

    @classmethod
    def empty(cls, neurons: int) -> "_Layer":
        return cls(
            np.zeros(neurons, np.int64),
            np.zeros(neurons, np.uint64),
            np.zeros(neurons, np.int64),
            np.full(neurons, np.inf, np.float32),
            np.full(neurons, -np.inf, np.float32),
            np.zeros(neurons),
            np.zeros(neurons),
        )

    def add(self, neuron: NDArray[np.int32], first: int, values: NDArray[np.float32]) -> None:
        """values: [rows, tokens] from token `first` on."""
        np.add.at(self.places, neuron, _places(first, first + values.shape[1]))
        finite = np.isfinite(values)
        np.add.at(self.there, neuron, values.shape[1])
        np.add.at(self.infinite, neuron, (~finite).sum(axis=1))
        np.minimum.at(self.minimum, neuron, np.where(finite, values, np.inf).min(axis=1).astype(np.float32))
        np.maximum.at(self.maximum, neuron, np.where(finite, values, -np.inf).max(axis=1).astype(np.float32))
        counted = np.where(finite, values, 0).astype(np.float64)
        np.add.at(self.total, neuron, counted.sum(axis=1))
        np.add.at(self.total_abs, neuron, np.abs(counted).sum(axis=1))


def _places(start: int, stop: int) -> np.uint64:
    """The sum of squares modulo 2^64 of the tokens start <= token_idx < stop. A duplicated token changes it."""
    with np.errstate(over="ignore"):
        return np.uint64((np.arange(start, stop, dtype=np.uint64) ** np.uint64(2)).sum(dtype=np.uint64))


STRANGERS = """
SELECT count(*) FROM blocks b LEFT JOIN layers l USING (layer_id)
WHERE l.layer_id IS NULL OR b.neuron IS NULL OR b.neuron < 0 OR b.neuron >= l.neurons OR b."first" > b."last"
   OR b.block IS NULL OR b.block < 0 OR b.block::BIGINT * $block + b."last" >= $tokens
   OR (octet_length(b."values") IS DISTINCT FROM 4 * (b."last"::INTEGER - b."first" + 1)
       AND (octet_length(b."values") IS DISTINCT FROM $width * (b."last"::INTEGER - b."first" + 1)
            OR ($width = 1 AND (b.scale >= 0 AND isfinite(b.scale)) IS NOT TRUE)))
   OR octet_length(b.fired) <> (b."last"::INTEGER - b."first") // 8 + 1
"""


def check_blocks(run: RunFile) -> list[str]:
    """Whether every value is there once and finite, and minimum, maximum and means agree with the table `statistics`.

    DuckDB verifies its own checksum of every disk block read here: a flipped bit is an error.
    """
    if not run.has_values:
        row = run.cursor().execute("SELECT count(*) FROM blocks").fetchone()
        return [f"blocks: a run of statistics holds {row[0]} of them"] if row and row[0] else []
    parameters = {"tokens": run.tokens, "block": BLOCK, "width": BYTES[run.precision]}
    strangers = run.cursor().execute(STRANGERS, parameters).fetchall()[0][0]
    if strangers:  # with these, the others cannot be read
        return [f"blocks: {strangers} belong to no neuron or no token of the run"]
    problems: list[str] = []
    places = _places(0, run.tokens)
    for layer in run.layers:
        told = _Layer.empty(layer.neurons)
        for rows in run.blocks(layer):
            told.add(rows.neuron, rows.first, rows.values)
        place = f"{layer.site} layer {layer.layer}"
        wrong = int((told.there != run.tokens).sum())
        if wrong:
            problems.append(
                f"blocks: {place}: {wrong} neurons have {told.there.min()} to {told.there.max()} values, "
                f"expected {run.tokens}"
            )
        elif again := int((told.places != places).sum()):
            problems.append(f"blocks: {place}: {again} neurons have a token twice and another one not at all")
        elif run.tokens:
            problems += _against_statistics(run, layer.site, layer.layer, place, told)
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
    error = run.worst_error.get(site, 0.0)  # statistics are of the values as computed
    tolerance = MEAN_TOLERANCE * np.maximum(mean_abs, np.finfo(np.float32).tiny) + error
    compared = {
        "minimum": ~(np.abs(found.minimum.astype(np.float64) - statistics.minimum) <= error),
        "maximum": ~(np.abs(found.maximum.astype(np.float64) - statistics.maximum) <= error),
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
