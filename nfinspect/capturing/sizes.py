"""Predicts the size of a run file before it is written: for `--estimate` and `--limit-bytes`."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from nfinspect_store.examples import KEPT
from nfinspect_store.histogram import BINS
from nfinspect_store.precision import BYTES
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Keep, Layer, Precision

EMPTY_FILE = 2_800_000
"""Bytes of a nearly empty run: DuckDB gives every table its own blocks of 256 KiB, measured."""

FILLED = 0.996
"""Used share of a disk block of values: BLOBs of 1 KB leave a remainder."""

ROW_BYTES = 6.5
"""Of a row of blocks, in addition to its values: the BLOB's offset and the other columns, compressed, measured."""

SCALE_BYTES = 4
"""Of a row of int8, in addition."""

STATISTICS_BYTES = 9 * 8
"""Of one neuron in memory, for each of position 0 and the others."""

EXAMPLE_BYTES = 3 * KEPT * 12
"""Of one neuron's examples in memory."""

CONCEPT_BYTES = 28
"""Of one neuron in memory, for each concept."""

STATISTICS_STORED = 101 + 66
"""Of one neuron in the tables `statistics` and `neurons`, compressed, measured."""

MEANS_STORED = 1.01
"""Stored bytes per byte of a prompt's means: with the other columns of its rows, and what disk blocks leave."""

BEYOND_STORED = 6.0
"""Of a value of `--where beyond=pX`, with its token and its neuron, compressed, measured."""

ROUTED_STORED = 4.2
"""Of a token that was routed to an expert whose values are kept, compressed, measured with 65,000 to 262,000 rows."""

EXAMPLES_STORED = 165
CONCEPT_STORED = 14
"""Of one neuron, for runs that store them (CONCEPT_STORED per concept), measured."""


def run_bytes(
    layers: Sequence[Layer],
    keep: Keep,
    precision: Precision = "float32",
    *,
    tokens: int,
    prompts: int,
    concepts: int,
    generates: bool,
    beyond: int = 0,
    held: Sequence[int] | None = None,
) -> int:
    """About the size of a run's file in bytes: within 5 % from 20 MB on, which a test checks. beyond: how many values
    are kept one by one. held: of each layer how many values a token has; None: one of each neuron.
    """
    neurons = sum(layer.neurons for layer in layers)
    selections = 3 if generates else 2
    stored = neurons * (STATISTICS_STORED + _histogram_bytes(tokens))
    stored += MEANS_STORED * 4 * prompts * selections * neurons
    for layer, of_token in zip(layers, held or [layer.neurons for layer in layers], strict=True):
        if keep == "stats" or layer.experts:
            stored += layer.neurons * (EXAMPLES_STORED + CONCEPT_STORED * concepts)
        if keep == "all":
            stored += _values_bytes(layer, precision, tokens * of_token)
    return int(EMPTY_FILE + stored + BEYOND_STORED * beyond)


def _values_bytes(layer: Layer, precision: Precision, values: int) -> float:
    """Of so many values of a layer, which its neurons have equally many of."""
    each = values / layer.neurons
    rows = math.ceil(each / BLOCK)
    row = ROW_BYTES + (SCALE_BYTES if precision == "int8" else 0)
    stored = layer.neurons * (BYTES[precision] * each + row * rows) / FILLED
    if layer.fires == "gate":
        stored += layer.neurons * (each / 8 + 2 * rows)
    return stored + (ROUTED_STORED * values / layer.width if layer.experts else 0)


def state_bytes(neurons: int, concepts: int) -> int:
    """What a capture keeps of all neurons in memory, whatever the number of tokens: statistics and histograms, at
    position 0 and past it, those of concepts, and examples.
    """
    return neurons * (2 * STATISTICS_BYTES + CONCEPT_BYTES * concepts + 2 * BINS * 8 + EXAMPLE_BYTES)


def most_beyond(percentile: Decimal | None, values: int) -> int:
    """About the most of so many values that are beyond a percentile. Usually fewer are kept (beyond.py)."""
    return 0 if percentile is None else math.ceil(values * (1 - Fraction(percentile) / 100))


def _histogram_bytes(tokens: int) -> float:
    """Of one neuron, measured: larger counts take more bits."""
    return 8 + 5 * math.log2(max(tokens, 2))
