"""How often a neuron's magnitude reaches a threshold that is known only after all tokens have been read.

Stored values give the exact count; they are streamed in blocks, so memory does not grow with the tokens. Without them
the signed-log histogram gives an approximate one. With them the histogram still helps: the bins that lie wholly on one
side of the threshold decide most neurons, and values are read only for those that the bin across it leaves open.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.histogram import EDGES, MIDDLE
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

READ_FIRST = 'SELECT token_idx FROM tokens WHERE "position" = 0 ORDER BY token_idx'


@dataclass(frozen=True)
class CountedRows:
    """Some of the chosen neurons on some tokens. place: the index of each among the chosen neurons."""

    place: NDArray[np.int64]  # [rows]
    values: NDArray[np.float32]  # [rows, tokens]
    counted: NDArray[np.bool_]  # [tokens]


def counted_tokens(run: RunTables, skip_first: bool) -> NDArray[np.bool_]:
    """Which tokens count: bool[tokens]."""
    counted = np.ones(run.tokens, np.bool_)
    if skip_first:
        counted[run.cursor().execute(READ_FIRST).fetchnumpy()["token_idx"]] = False
    return counted


def read_blocks(
    run: RunTables, layer: Layer, chosen: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> Iterator[CountedRows]:
    """Stream the stored values of the chosen neurons (bool[neurons]) of a layer; those of experts have none on tokens
    that were not routed to them.
    """
    place = np.cumsum(chosen) - 1
    some = None if chosen.all() else np.flatnonzero(chosen).tolist()
    for rows in run.blocks(layer, neurons=some, routed=True):
        yield CountedRows(place[rows.neuron], rows.values, counted[rows.index])


def count_reaching(
    run: RunTables, layer: Layer, chosen: NDArray[np.bool_], counted: NDArray[np.bool_], threshold: float
) -> NDArray[np.int64]:
    """On how many counted tokens |a| >= threshold, for each chosen neuron: int64[chosen]. Exact."""
    limit = at_least(threshold)
    total = np.zeros(int(chosen.sum()), np.int64)
    for rows in read_blocks(run, layer, chosen, counted):
        reaches = (np.abs(rows.values) >= limit) & rows.counted
        np.add.at(total, rows.place, np.count_nonzero(reaches, axis=1))
    return total


def at_least(threshold: float) -> np.float32:
    """The smallest float32 >= threshold: a float32 value reaches one exactly where it reaches the other."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) >= threshold else np.nextafter(nearest, np.float32(np.inf))


def bounds_reaching(counts: NDArray[np.int64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fewest and the most values with |a| >= threshold that a histogram allows: int64[neurons, BINS] -> two
    int64[neurons].
    """
    smallest = np.minimum(np.abs(EDGES[:-1]), np.abs(EDGES[1:]))
    largest = np.maximum(np.abs(EDGES[:-1]), np.abs(EDGES[1:]))
    smallest[MIDDLE] = 0.0
    # A bin holds smallest <= |a| < largest.
    surely = smallest >= threshold
    possibly = largest > threshold
    return counts[:, surely].sum(axis=1), counts[:, possibly].sum(axis=1)
