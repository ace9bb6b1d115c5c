"""The rows of the table `histograms`: one bin of a layer's neurons, their counts as bit planes.

As lists of BIGINT, DuckDB took 60 ns of processor time a count to compress them at each commit. Bit planes are packed
by numpy, and take a fifth of that with everything else that is done with them (docs/decisions/0014).
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.blob_columns import blob_bytes, blob_offsets, cut
from nfinspect_store.errors import StoreError

Counts = NDArray[np.int64]

PLANES = 63
"""The most planes of a row: counts are int64."""


def histograms_table(layer_id: int, first: bool, counts: Counts) -> pa.Table:
    """counts: int64[neurons, BINS], none negative."""
    highest = counts.max(axis=0, initial=0)
    bins = np.flatnonzero(highest)
    kind = next(k for k in (np.uint8, np.uint16, np.uint32, np.uint64) if highest.max() <= np.iinfo(k).max)
    small = np.ascontiguousarray(counts.astype(kind)[:, bins].T)
    return pa.table(
        {
            "layer_id": np.full(len(bins), layer_id, np.int16),
            "first": np.full(len(bins), first),
            "bin": bins.astype(np.int16),
            "counts": packed(small),
        }
    )


def packed(counts: NDArray[np.unsignedinteger]) -> pa.Array:
    """[rows, neurons], unsigned, to one BLOB a row: the lowest bit of every count, then the next bit of every count, up
    to the highest that is set in any of the row's. Each plane begins a byte, in which the first count has the highest
    bit.
    """
    planes = np.array([int(most).bit_length() for most in counts.max(axis=1, initial=0)], np.int64)
    ends = np.cumsum(planes)
    begins = ends - planes
    width = _width(counts.shape[1])
    content = np.empty((planes.sum(), width), np.uint8)
    for bit in range(planes.max(initial=0)):
        rows = np.flatnonzero(planes > bit)
        content[begins[rows] + bit] = np.packbits(counts[rows] & counts.dtype.type(1 << bit), axis=1)
    return cut(content, np.concatenate([[0], ends]) * width)


def unpacked(column: pa.Array, neurons: int) -> Counts:
    """The counts that `packed` made a column of: int64[rows, neurons]. Raises StoreError for a column of others."""
    offsets, width = blob_offsets(column).astype(np.int64), _width(neurons)
    planes, odd = np.divmod(np.diff(offsets), width)
    if column.null_count or odd.any() or planes.max(initial=0) > PLANES:
        raise StoreError(
            f"a histogram does not count {neurons} neurons: the run is damaged (nfinspect verify says more)"
        )
    begins = np.cumsum(planes) - planes
    bits = np.unpackbits(blob_bytes(column).reshape(-1, width), axis=1, count=neurons)
    counts = np.zeros((len(column), neurons), np.int64)
    for bit in range(planes.max(initial=0)):
        rows = np.flatnonzero(planes > bit)
        counts[rows] += bits[begins[rows] + bit].astype(np.int64) << bit
    return counts


def _width(neurons: int) -> int:
    """Bytes of a plane."""
    return -(-neurons // 8)
