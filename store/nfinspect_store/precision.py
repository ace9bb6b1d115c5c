"""How a value is stored in a block: as it was computed (float32), in half the bytes (float16) or in a quarter (int8).

Both are rounded to the nearest number they have, except that nothing but 0 becomes 0: whether a neuron fires is its
value's sign. What a row cannot hold is stored as float32: a value that is not finite or, as float16, beyond 65,504.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfinspect_store import kernels
from nfinspect_store.errors import RequestError
from nfinspect_store.types import Keep, Precision

FLOAT32 = np.dtype(">f4")
"""DuckDB casts a bit string to FLOAT as a big-endian pattern."""

FLOAT16 = np.dtype(">f2")
INT8 = np.dtype("i1")

BYTES: Mapping[Precision, int] = {"float32": 4, "float16": 2, "int8": 1}

LARGEST = 127
"""Of an int8 value; a row's scale is its largest magnitude divided by it."""

SMALLEST_HALF = np.float16(2.0**-24)


@dataclass(frozen=True)
class Reduced:
    """Rows of values, stored: uint8[rows, bytes]."""

    stored: NDArray[np.uint8]
    scale: NDArray[np.float32]  # [rows], of int8
    error: NDArray[np.float32]  # [rows]: how far any value is from what it was
    held: NDArray[np.bool_]  # [rows]: False for a row that must be stored as float32, and is read back as it was
    sums: NDArray[np.uint64]  # [rows]: the bits of each value as read back, times its token's number


def reduced(values: NDArray[Any], precision: Precision, of_token: NDArray[np.uint64]) -> Reduced:
    """Round FLOAT32[rows, tokens] to float16 or int8. of_token: digests.value_numbers."""
    if kernels.compiled():
        return Reduced(*kernels.reduce(values, of_token, BYTES[precision]))
    given = values.astype(np.float32)
    largest = _largest(given)
    scale = np.zeros(len(given), np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        if precision == "float16":
            half = given.astype(np.float16)
            np.copyto(half, np.copysign(SMALLEST_HALF, given, dtype=np.float16), where=(half == 0) & (given != 0))
            stored: NDArray[Any] = half.astype(FLOAT16)
            back = half.astype(np.float32)
            held = np.isfinite(_largest(back))
        else:
            scale = (largest / np.float32(LARGEST)).astype(np.float32)
            whole = np.rint(given / np.where(scale > 0, scale, np.float32(1))[:, None])
            np.copyto(whole, np.sign(given), where=(whole == 0) & (given != 0))
            held = (scale > 0) | (largest == 0)
            held &= np.isfinite(largest)
            stored = np.clip(np.where(held[:, None], whole, 0), -LARGEST, LARGEST).astype(INT8)
            back = from_int8(stored, scale)
        back = np.where(held[:, None], back, given)
        error = np.where(held, _largest(back - given), np.float32(0))
    sums = np.einsum("ij,j->i", back.view(np.uint32), of_token)
    return Reduced(np.ascontiguousarray(stored).view(np.uint8), scale, error, held, sums)


def _largest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, the largest magnitude."""
    largest: NDArray[np.float32] = np.abs(values).max(axis=1, initial=0)
    return largest


def from_int8(stored: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """int8[rows, tokens], float32[rows] -> float32[rows, tokens]."""
    return stored.astype(np.float32) * scale[:, None]


def decoded(stored: NDArray[np.uint8], width: int, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """uint8[rows, width * tokens] of BLOBs -> float32[rows, tokens]. scale: [rows], of int8 (width 1)."""
    if width == INT8.itemsize:
        return from_int8(stored.view(INT8), scale)
    return stored.view(FLOAT16 if width == FLOAT16.itemsize else FLOAT32).astype(np.float32)


def check_precision(keep: Keep, precision: Precision) -> None:
    """Raises RequestError for a precision of values that are not kept."""
    if keep == "stats" and precision != "float32":
        raise RequestError(
            f"a run of statistics only (--keep stats) stores no values as {precision}: choose one of the two"
        )


def note(precision: Precision, worst: Mapping[str, float]) -> str:
    """What a reader of figures from such values must know. worst: the largest error, by site."""
    errors = ", ".join(f"{error:.3g} at {site}" for site, error in worst.items())
    told = f" (at most {errors})" if errors else ""
    return (
        f"values are stored as {precision}, each a little off{told}: single values, examples and what is computed from "
        "them are approximate; statistics, histograms and means are of the values as computed"
    )
