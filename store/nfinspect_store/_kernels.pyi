from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def chunk(
    values: Array,
    fired: Array | None,
    sums: Array,
    low: Array,
    high: Array,
    count: Array,
    counts: Array | None,
    keys: Array,
    rows: int,
    /,
) -> None: ...
def merge(
    n: Array,
    other_n: Array,
    mean: Array,
    m2: Array,
    m3: Array,
    m4: Array,
    other_mean: Array,
    other_m2: Array,
    other_m3: Array,
    other_m4: Array,
    out: Array,
    /,
) -> None: ...
def prompts(
    values: Array,
    fired: Array | None,
    prompts: Array,
    moments: Array,
    extremes: Array,
    tallies: Array,
    counts: Array,
    counts_at_start: Array,
    keys: Array,
    means: Array,
    concept_tallies: Array | None,
    concept_means: Array | None,
    concept_maxima: Array | None,
    examples: Array | None,
    scores: Array | None,
    rows: int,
    /,
) -> None: ...
def parts(
    first: Array,
    first_fired: Array | None,
    part_moments: Array,
    part_extremes: Array,
    part_places: Array | None,
    part_fired: Array | None,
    prompts: Array,
    moments: Array,
    extremes: Array,
    tallies: Array,
    concept_tallies: Array | None,
    concept_means: Array | None,
    concept_maxima: Array | None,
    examples: Array | None,
    scores: Array | None,
    /,
) -> None: ...
def lay_out(values: Array, out: Array, of_token: Array, sums: Array, /) -> None: ...
def lay_out_flags(values: Array, out: Array, of_token: Array, sums: Array, /) -> None: ...
def sum_rows(values: Array, of_token: Array, sums: Array, /) -> None: ...
def sum_flags(values: Array, of_token: Array, sums: Array, /) -> None: ...
def reduce(
    values: Array, of_token: Array, out: Array, scale: Array, error: Array, held: Array, sums: Array, /
) -> None: ...
