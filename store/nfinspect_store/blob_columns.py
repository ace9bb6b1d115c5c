"""Columns of BLOBs from numpy arrays and back, without a copy."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def blobs(rows: NDArray[Any]) -> pa.Array:
    """Each row of a matrix as one BLOB; the rows must be contiguous."""
    return cut(rows, np.arange(len(rows) + 1) * (rows.shape[1] * rows.itemsize))


def cut(content: NDArray[Any], offsets: NDArray[np.int64]) -> pa.Array:
    """A contiguous array's bytes as BLOBs, which begin and end at the offsets: int64[rows + 1], below 2^31."""
    places = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, places, pa.py_buffer(content)])


def blob_bytes(column: pa.Array) -> NDArray[np.uint8]:
    """All bytes of a column of BLOBs, one after the other."""
    if not len(column) or column.buffers()[2] is None:
        return np.empty(0, np.uint8)
    offsets = blob_offsets(column)
    return np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]


def blob_offsets(column: pa.Array) -> NDArray[np.int32]:
    """Where each BLOB begins, and the last one ends: int32[rows + 1]."""
    if not len(column):
        return np.zeros(1, np.int32)
    return np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
