"""The loops over every value, compiled (_kernels.c): what they take and give, and whether they are there.

Each has a twin in numpy next to where it is used, with the same result to the last bit, for installations without a C
compiler (docs/decisions/0009).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.histogram import BIN_OF_KEY

try:
    from nfinspect_store import _kernels
except ImportError:  # built only where there was a C compiler
    _kernels = None  # type: ignore[assignment]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

ROWS = 32
"""Rows whose powers are summed before they are added up. numpy's way: 32 x 3072 float64 values stay in the cache."""

MISSING = (
    "this nfinspect was installed without its compiled loops, so statistics and blocks take about three times as long: "
    "install nfinspect again where there are a C compiler and Python's headers"
)


def compiled() -> bool:
    """Whether the loops are there."""
    return _kernels is not None


def chunk(
    values: NDArray[np.float32], fired: NDArray[np.bool_] | None, counts: Counts | None
) -> tuple[Floats, NDArray[np.float32], NDArray[np.float32], Counts]:
    """Statistics of float32[tokens, neurons], one token or more.

    fired: bool[tokens, neurons]; None: a value above zero fires. counts: int64[neurons, BINS], to count the values
    into. Returns mean, m2, m3, m4 and the sum of |a|, float64[5, neurons]; minimum and maximum, float32[neurons]; how
    often it fired, int64[neurons].
    """
    neurons = values.shape[1]
    sums, low, high = np.empty((5, neurons)), np.empty(neurons, np.float32), np.empty(neurons, np.float32)
    count = np.empty(neurons, np.int64)
    flags = None if fired is None else _rows(fired).view(np.uint8)
    _kernels.chunk(_rows(values), flags, sums, low, high, count, counts, BIN_OF_KEY, ROWS)
    return sums, low, high, count


def merge(n: Counts, moments: tuple[Floats, ...], other_n: Counts, other: tuple[Floats, ...]) -> Floats:
    """Mean, m2, m3 and m4 of two parts together, float64[4, neurons], from those of each, float64[neurons]."""
    out = np.empty((4, len(n)))
    mean, m2, m3, m4, mean_b, m2_b, m3_b, m4_b = map(np.ascontiguousarray, (*moments, *other))
    _kernels.merge(n, other_n, mean, m2, m3, m4, mean_b, m2_b, m3_b, m4_b, out)
    return out


def lay_out(
    values: NDArray[np.float32], out: NDArray[Any], of_token: NDArray[np.uint64], sums: NDArray[np.uint64]
) -> None:
    """Turn float32[tokens, neurons] into big-endian [neurons, tokens], and add to uint64[neurons] the bits of each
    value times its token's number.
    """
    _kernels.lay_out(_rows(values), out.view(np.uint32), of_token, sums)


def lay_out_flags(
    fired: NDArray[np.bool_], out: NDArray[np.bool_], of_token: NDArray[np.uint64], sums: NDArray[np.uint64]
) -> None:
    """Turn bool[tokens, neurons] into [neurons, tokens], and add the token's number wherever one is set."""
    _kernels.lay_out_flags(_rows(fired).view(np.uint8), out.view(np.uint8), of_token, sums)


def reduce(
    values: NDArray[Any], of_token: NDArray[np.uint64], width: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint64]]:
    """Round big-endian float32[rows, tokens], at most 256 tokens, to float16 (width 2) or int8 (width 1).

    Returns the bytes, uint8[rows, width * tokens], and of each row: its scale (of int8), how far a value is off,
    whether it could be held, and the sum of the bits of what is read back times its token's number.
    """
    rows, tokens = values.shape
    out = np.empty((rows, width * tokens), np.uint8)
    scale, error = np.zeros(rows, np.float32), np.empty(rows, np.float32)
    held, sums = np.empty(rows, np.uint8), np.empty(rows, np.uint64)
    _kernels.reduce(_rows(values).view(np.uint32), of_token, out, scale, error, held, sums)
    return out, scale, error, held.astype(np.bool_), sums


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """With contiguous rows, as the loops want them."""
    whole = array.shape[1] < 2 or array.strides[1] == array.itemsize
    return array if whole else np.ascontiguousarray(array)
