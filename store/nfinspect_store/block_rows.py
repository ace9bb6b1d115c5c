"""Rows of the table `blocks` as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.errors import StoreError
from nfinspect_store.schema import BLOCK

STORED = np.dtype(">f4")
"""A value in a block: DuckDB casts a bit string to FLOAT as a big-endian pattern."""


@dataclass(frozen=True)
class BlockRows:
    """Some neurons of a layer on the same consecutive tokens, at most a block of them."""

    neuron: NDArray[np.int32]  # [rows]
    first: int  # token_idx of the first of the tokens
    values: NDArray[np.float32]  # [rows, tokens]
    fired: NDArray[np.bool_] | None  # [rows, tokens] where asked for

    @property
    def tokens(self) -> slice:
        """Their range among the run's tokens."""
        return slice(self.first, self.first + self.values.shape[1])


def block_rows(batch: pa.RecordBatch) -> Iterator[BlockRows]:
    """Decode a batch with the columns neuron, block, first, last, values and, where wanted, fired, in its order.

    Adjacent rows of the same tokens are yielded as one. Raises StoreError where a row's length contradicts first, last.
    """
    neuron, block, first, last = (batch.column(name).to_numpy() for name in ("neuron", "block", "first", "last"))
    place = block.astype(np.int64) * BLOCK * BLOCK + first.astype(np.int64) * BLOCK + last
    cuts = [0, *(np.flatnonzero(np.diff(place)) + 1).tolist(), len(place)]
    values = batch.column("values")
    fired = batch.column("fired") if "fired" in batch.schema.names else None
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        if start < stop:
            tokens = int(last[start]) - int(first[start]) + 1
            yield BlockRows(
                neuron=neuron[start:stop],
                first=int(block[start]) * BLOCK + int(first[start]),
                values=from_stored(_bytes(values[start:stop], tokens * STORED.itemsize)),
                fired=None if fired is None else _bits(fired[start:stop], tokens),
            )


def from_stored(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8[rows, 4 * tokens] -> float32[rows, tokens]."""
    return stored.view(STORED).astype(np.float32)


def blob_bytes(column: pa.Array) -> NDArray[np.uint8]:
    """All bytes of a column of BLOBs, one after the other; no copy."""
    if not len(column) or column.buffers()[2] is None:
        return np.empty(0, np.uint8)
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    return np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]


def _bytes(column: pa.Array, size: int) -> NDArray[np.uint8]:
    """uint8[rows, size]: BLOBs of one size."""
    lengths = np.diff(np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4))
    if column.null_count or (lengths != size).any():
        raise StoreError(f"expected blocks of {size} bytes, found others: the run is damaged")
    return blob_bytes(column).reshape(len(column), size)


def _bits(column: pa.Array, tokens: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(_bytes(column, -(-tokens // 8)), axis=1, count=tokens, bitorder="little")
    return bits.astype(np.bool_)
