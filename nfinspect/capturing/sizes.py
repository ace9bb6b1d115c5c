"""How many bytes a run file takes, told before it is written: for `--estimate` and `--limit-bytes`."""

from collections.abc import Sequence

from nfinspect.capturing.examples import KEPT
from nfinspect_store.histogram import BINS
from nfinspect_store.types import Keep, Layer

EMPTY_FILE = 2_750_000
"""A run with next to nothing in it: DuckDB gives every table its own pages of 256 KiB, measured."""

STORED_PER_BYTE = 1.03
"""Bytes of a run file for each byte of its values: 1.01 to 1.05, measured (docs/decisions/0001)."""

STATISTICS_BYTES = 9 * 8
"""Of one neuron, for each concept, at position 0 and past it."""

EXAMPLE_BYTES = 3 * KEPT * 12

COMPRESSED = 0.6
"""What DuckDB's compression leaves of statistics, histograms and examples, measured."""


def run_bytes(layers: Sequence[Layer], keep: Keep, *, tokens: int, prompts: int, concepts: int, generates: bool) -> int:
    """About the size of a finished run: within 25 % of the file from 20 MB on (a test holds it to that)."""
    neurons = sum(layer.neurons for layer in layers)
    values = 4 * tokens * neurons * STORED_PER_BYTE if keep == "all" else 0.0
    selections = 3 if generates else 2
    means = 4 * prompts * selections * neurons
    statistics = neurons * (2 * concepts * STATISTICS_BYTES + 2 * BINS + EXAMPLE_BYTES)
    return int(EMPTY_FILE + values + means + COMPRESSED * statistics)
