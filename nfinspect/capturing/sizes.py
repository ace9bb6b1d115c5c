"""How many bytes a run file takes, told before it is written: for `--estimate` and `--limit-bytes`."""

import math
from collections.abc import Sequence

from nfinspect_store.examples import KEPT
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Keep, Layer

EMPTY_FILE = 2_800_000
"""A run with next to nothing in it: DuckDB gives every table its own pages of 256 KiB, measured."""

FILLED = 0.996
"""Of a page of values: BLOBs of 1 KB leave a rest."""

ROW_BYTES = 6.5
"""Of a row of blocks, beside its values: where its BLOB lies, and what is left of the other columns, measured."""

STATISTICS_BYTES = 9 * 8
"""Of one neuron in memory, at position 0 and past it."""

EXAMPLE_BYTES = 3 * KEPT * 12

STATISTICS_STORED = 101 + 66
"""Of one neuron, in `statistics` and `neurons`, compressed, measured."""

MEANS_STORED = 0.91
"""Bytes of a prompt's means for each byte of them, measured."""

EXAMPLES_STORED = 165
CONCEPT_STORED = 14
"""Of one neuron, where they are stored, measured."""


def run_bytes(layers: Sequence[Layer], keep: Keep, *, tokens: int, prompts: int, concepts: int, generates: bool) -> int:
    """About the size of a run's file: within 5 % from 20 MB on (a test holds it to that)."""
    neurons = sum(layer.neurons for layer in layers)
    gated = sum(layer.neurons for layer in layers if layer.fires == "gate")
    selections = 3 if generates else 2
    stored = neurons * (STATISTICS_STORED + _histogram_bytes(tokens))
    stored += MEANS_STORED * 4 * prompts * selections * neurons
    if keep == "all":
        rows = math.ceil(tokens / BLOCK)
        stored += neurons * (4 * tokens + ROW_BYTES * rows) / FILLED + gated * (tokens / 8 + 2 * rows)
    else:
        stored += neurons * (EXAMPLES_STORED + CONCEPT_STORED * concepts)
    return int(EMPTY_FILE + stored)


def _histogram_bytes(tokens: int) -> float:
    """Of one neuron: counts take the more bits the larger they are, measured."""
    return 8 + 5 * math.log2(max(tokens, 2))
