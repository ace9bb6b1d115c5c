"""Numbers in results: an undefined one is None (NULL in Arrow), never NaN or infinity."""

import math
from typing import Any, SupportsFloat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def number(value: SupportsFloat | None) -> float | None:
    """A float, or None where the statistic is undefined (NaN or infinite)."""
    if value is None:
        return None
    result = float(value)
    return result if math.isfinite(result) else None


def nullable(values: NDArray[np.floating[Any]]) -> "pa.Array[Any]":
    """The values as an Arrow array of their own type, with NULL where they are undefined."""
    column: pa.Array[Any] = pa.array(values, mask=~np.isfinite(values))
    return column
