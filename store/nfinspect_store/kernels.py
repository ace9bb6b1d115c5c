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


def prompts(
    values: NDArray[np.float32],
    fired: NDArray[np.bool_] | None,
    rows: Counts,
    means: NDArray[np.float32],
    running: tuple[Floats, NDArray[np.float32], Counts, Counts, Counts],
    concepts: tuple[Counts, Floats, NDArray[np.float32]] | None,
    examples: tuple[Counts, NDArray[np.float32]] | None,
) -> None:
    """Add a batch of prompts, float32[tokens, neurons], to what is recorded: in place, one after the other.

    fired: as in `chunk`. rows: int64[prompts, 7], of each prompt: its first row, the first past position 0, the one
    after its last, the first that is generated and past position 0, the row of `means` for its first mean, its concept,
    and the token_idx of its first row. means, float32[means, neurons], is written: of each prompt with rows past
    position 0 their mean, the last of them, and the mean of those generated if there are any.

    running: moments float64[2, 5, neurons] (mean, m2, m3, m4, sum of |a|), extremes float32[2, 2, neurons] (minimum,
    maximum) and tallies int64[2, 2, neurons] (n, fired; below 0 it is unknown and stays so), each past position 0 and
    at it; then the counts of either, int64[neurons, BINS]. concepts: tallies int64[concepts, 2, neurons], means
    float64[concepts, neurons], maxima float32[concepts, neurons]. examples: token_idx int64[2, neurons, kept] and
    scores float32[2, neurons, kept], which fall: the largest values, and the smallest with the other sign.
    """
    neurons = values.shape[1]
    moments, extremes, tallies, counts, counts_at_start = running
    of_concept, mean, maximum = concepts or (None, None, None)
    token_idx, scores = examples or (None, None)
    _kernels.prompts(
        _rows(values),
        None if fired is None else _rows(fired).view(np.uint8),
        rows,
        moments.reshape(10, neurons),
        extremes.reshape(4, neurons),
        tallies.reshape(4, neurons),
        counts,
        counts_at_start,
        BIN_OF_KEY,
        means,
        None if of_concept is None else of_concept.reshape(-1, neurons),
        mean,
        maximum,
        None if token_idx is None else token_idx.reshape(2 * neurons, -1),
        None if scores is None else scores.reshape(2 * neurons, -1),
        ROWS,
    )


def parts(
    first: NDArray[np.float32],
    first_fired: NDArray[np.uint8] | None,
    moments: Floats,
    extremes: NDArray[np.float32],
    at: NDArray[np.int32] | None,
    fired: NDArray[np.int32] | None,
    rows: Counts,
    running: tuple[Floats, NDArray[np.float32], Counts],
    concepts: tuple[Counts, Floats, NDArray[np.float32]] | None,
    examples: tuple[Counts, NDArray[np.float32]] | None,
) -> None:
    """Add a batch of prompts whose statistics are known to what is recorded: in place, one after the other.

    first: the rows at position 0 of the prompts that have one, float32[firsts, neurons]; first_fired: uint8 of the same
    shape; None: a value above zero fires. Of the rows past position 0 of the prompts that have any, "rests": moments
    float64[rests, 5, neurons] (mean, m2, m3, m4, sum of |a|), extremes float32[rests, 2, neurons] (minimum, maximum),
    at int32[rests, 2, neurons] (in which of these rows they are first; needed with examples) and fired int32[rests,
    neurons] (in how many; None: unknown). rows, running, concepts, examples: as `prompts` takes them, without counts.
    """
    neurons = first.shape[1]
    of_running, of_extremes, tallies = running
    of_concept, mean, maximum = concepts or (None, None, None)
    token_idx, scores = examples or (None, None)
    _kernels.parts(
        first,
        first_fired,
        moments.reshape(-1, neurons),
        extremes.reshape(-1, neurons),
        None if at is None else at.reshape(-1, neurons),
        fired,
        rows,
        of_running.reshape(10, neurons),
        of_extremes.reshape(4, neurons),
        tallies.reshape(4, neurons),
        None if of_concept is None else of_concept.reshape(-1, neurons),
        mean,
        maximum,
        None if token_idx is None else token_idx.reshape(2 * neurons, -1),
        None if scores is None else scores.reshape(2 * neurons, -1),
    )


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


def row_sums(
    values: NDArray[np.float32],
    fired: NDArray[np.bool_] | None,
    of_token: NDArray[np.uint64],
    of_firing: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """uint64[rows]: of float32[rows, tokens] the bits of each value times its token's number in `of_token`, and the
    number in `of_firing` of each token where bool[rows, tokens] is set.
    """
    sums = np.zeros(len(values), np.uint64)
    _kernels.sum_rows(_rows(values), of_token, sums)
    if fired is not None:
        _kernels.sum_flags(_rows(fired), of_firing, sums)
    return sums


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
