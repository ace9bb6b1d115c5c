"""Rows of the table `blocks` as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store import precision
from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.blob_columns import blob_bytes, blob_offsets
from nfinspect_store.errors import StoreError
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class FiredRows:
    """On which of the same consecutive tokens, at most a block of them, some neurons of a layer fired."""

    neuron: NDArray[np.int32]  # [rows]
    first: int  # token_idx of the first of the tokens
    fired: NDArray[np.bool_]  # [rows, tokens]


@dataclass(frozen=True)
class BlockRows:
    """Some neurons of a layer on the same consecutive tokens, at most a block of them; neurons of an expert on
    consecutive ones of those that were routed to it.
    """

    neuron: NDArray[np.int32]  # [rows]
    first: int  # token_idx of the first of the tokens; of an expert its place among those routed to it
    values: NDArray[np.float32]  # [rows, tokens]
    fired: NDArray[np.bool_] | None  # [rows, tokens] where asked for
    routed: NDArray[np.int64] | None = None  # [tokens]: token_idx of each, of an expert

    @property
    def tokens(self) -> slice:
        """Their range among the run's tokens; of an expert among those routed to it."""
        return slice(self.first, self.first + self.values.shape[1])

    @property
    def index(self) -> slice | NDArray[np.int64]:
        """Where they are in an array of all the run's tokens."""
        return self.tokens if self.routed is None else self.routed

    def by_expert(self, layer: Layer) -> Iterator[tuple[int, "BlockRows"]]:
        """The rows of each expert of a mixture, with its number."""
        expert = self.neuron // layer.width
        for one in np.unique(expert).tolist():
            here = expert == one
            fired = None if self.fired is None else self.fired[here]
            yield one, replace(self, neuron=self.neuron[here], values=self.values[here], fired=fired)


def block_rows(batch: pa.RecordBatch, layer: Layer, run_tokens: int) -> Iterator[BlockRows]:
    """Decode a batch with the columns neuron, block, first, last, values, scale and, where wanted, fired, in its order.

    Adjacent rows of the same tokens, stored alike, are yielded as one. Raises StoreError where a row's length
    contradicts first and last, where it is of no neuron of the layer or no token of the run, and where `fired` is
    missing.
    """
    values, scale = batch.column("values"), _scales(batch.column("scale"))
    sizes = np.diff(blob_offsets(values))
    fired = _fired_column(batch, layer) if "fired" in batch.schema.names else None
    for rows, neuron, first, tokens in _same_tokens(batch, layer, run_tokens, sizes):
        width = int(sizes[rows.start]) // max(tokens, 1)
        if width not in precision.BYTES.values():
            raise StoreError(f"a block of {tokens} tokens has {sizes[rows.start]} bytes: the run is damaged")
        yield BlockRows(
            neuron=neuron,
            first=first,
            values=precision.decoded(_bytes(values[rows], tokens * width), width, scale[rows]),
            fired=None if fired is None else _bits(fired[rows], tokens),
        )


def whole_blocks(tokens: tuple[int, int]) -> tuple[int, int]:
    """The blocks that hold any of the tokens tokens[0] <= token_idx < tokens[1], as such a range of tokens."""
    return tokens[0] // BLOCK * BLOCK, -(-tokens[1] // BLOCK) * BLOCK


def moved(rows: BlockRows, before: int, tokens: tuple[int, int] | None) -> Iterator[BlockRows]:
    """Rows of a part as those of the run, in which `before` tokens come before it: cut where a block of the run ends.

    tokens: only what is in the blocks that hold any of these tokens of the run.
    """
    start, stop = whole_blocks(tokens) if tokens is not None else (0, rows.first + before + 2 * BLOCK)
    first = rows.first + before
    inside = BLOCK - first % BLOCK
    pieces = [(first, slice(None))]
    if rows.values.shape[1] > inside:
        pieces = [(first, slice(None, inside)), (first + inside, slice(inside, None))]
    for begins, piece in pieces:
        if start <= begins < stop:
            fired = None if rows.fired is None else np.ascontiguousarray(rows.fired[:, piece])
            yield BlockRows(rows.neuron, begins, np.ascontiguousarray(rows.values[:, piece]), fired)


def fired_rows(batch: pa.RecordBatch, layer: Layer, run_tokens: int) -> Iterator[FiredRows]:
    """The same of a batch with the columns neuron, block, first, last and fired."""
    fired = _fired_column(batch, layer)
    for rows, neuron, first, tokens in _same_tokens(batch, layer, run_tokens):
        yield FiredRows(neuron, first, _bits(fired[rows], tokens))


def _same_tokens(
    batch: pa.RecordBatch, layer: Layer, run_tokens: int, kind: NDArray[np.int32] | None = None
) -> Iterator[tuple[slice, NDArray[np.int32], int, int]]:
    """Each series of rows with the same tokens: the rows, their neurons, the first token, how many there are.

    kind: [rows], in which the rows of a series must agree, too.
    """
    neuron, block, first, last = (numbers(batch.column(name)) for name in ("neuron", "block", "first", "last"))
    place = block.astype(np.int64) * BLOCK * BLOCK + first.astype(np.int64) * BLOCK + last
    changes = np.diff(place) != 0
    if kind is not None:
        changes |= np.diff(kind) != 0
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(place)]
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        if start == stop:
            continue
        rows, begins = neuron[start:stop], int(block[start]) * BLOCK + int(first[start])
        tokens = int(last[start]) - int(first[start]) + 1
        if begins < 0 or begins + tokens > run_tokens or int(rows.min()) < 0 or int(rows.max()) >= layer.neurons:
            raise StoreError(
                f"a block of {layer.site} layer {layer.layer} belongs to no neuron or no token of the run: "
                "it is damaged (nfinspect verify says more)"
            )
        yield slice(start, stop), rows, begins, tokens


def _fired_column(batch: pa.RecordBatch, layer: Layer) -> pa.Array:
    column = batch.column("fired")
    if column.null_count:
        raise StoreError(
            f"layer {layer.layer} at site {layer.site} fires by its gate, and this run does not record when: "
            "it was captured by an older nfinspect; capture it again"
        )
    return column


def decoded_blobs(values: pa.Array, scale: pa.Array, tokens: pa.Array) -> NDArray[np.float32]:
    """All values of some blocks, one after the other. tokens: how many each of them holds. Raises StoreError for a
    block of another length.
    """
    held, sizes = numbers(tokens).astype(np.int64), np.diff(blob_offsets(values)).astype(np.int64)
    width = sizes // np.maximum(held, 1)
    if values.null_count or (width * held != sizes).any() or not np.isin(width, list(precision.BYTES.values())).all():
        raise StoreError("a block is not as long as its tokens need: the run is damaged (nfinspect verify says more)")
    stored, scales = blob_bytes(values), _scales(scale)
    if not len(width) or (width == width[0]).all():
        return _flat(stored, int(width[0]) if len(width) else 4, scales, held)
    found = np.empty(held.sum(), np.float32)
    for one in np.unique(width):
        here = width == one
        found[np.repeat(here, held)] = _flat(stored[np.repeat(here, sizes)], int(one), scales[here], held[here])
    return found


def _scales(column: pa.Array) -> NDArray[np.float32]:
    """NaN where there is none."""
    if column.null_count == len(column):  # as in a run of float32
        return np.full(len(column), np.nan, np.float32)
    found: NDArray[np.float32] = numbers(column.fill_null(np.nan) if column.null_count else column)
    return found


def _flat(
    stored: NDArray[np.uint8], width: int, scale: NDArray[np.float32], held: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Blocks of one width as their values: uint8[sum of held * width], scale and held [blocks]."""
    each = np.repeat(scale, held) if width == 1 else scale
    return precision.decoded(stored.reshape(-1, width), width, each).reshape(-1)


def _bytes(column: pa.Array, size: int) -> NDArray[np.uint8]:
    """uint8[rows, size]: BLOBs of one size."""
    lengths = np.diff(blob_offsets(column))
    if column.null_count or (lengths != size).any():
        raise StoreError(f"expected blocks of {size} bytes, found others: the run is damaged")
    return blob_bytes(column).reshape(len(column), size)


def _bits(column: pa.Array, tokens: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(_bytes(column, -(-tokens // 8)), axis=1, count=tokens, bitorder="little")
    return bits.astype(np.bool_)
