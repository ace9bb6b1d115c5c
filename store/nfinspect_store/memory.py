"""How much memory DuckDB may use while a run is written, copied or read through, and how wide rows fit into it.

DuckDB handles 2,048 rows at once, whatever their length: prompt means of 14,336 neurons, a row each up to the fifth
schema, take 117 MB, more than all the rest.
"""

from collections.abc import Iterator, Mapping

import duckdb

from nfinspect_store.migrations import FIRST_VERSION, SCHEMA_VERSION
from nfinspect_store.schema import quoted

MEMORY = 256 * 2**20
"""Bytes that DuckDB may use in addition to wide rows. It keeps written blocks while there is room, so memory grows to
this limit in a long capture; writing 350,000 neurons is no slower with it than with 2 GB, measured."""

READERS = 512 * 2**20
"""Bytes for those who read a run while it is written: DuckDB's limit is of an instance, and a reader that fills it must
not fail the writer [own]."""

VECTOR = 2048
"""Rows that DuckDB handles at once."""

NUMBER = 8
"""Bytes of the largest number in a wide row: a histogram's counts are int64."""

PIECE = 16 * 2**20
"""Bytes of rows that are inserted, copied or read with one statement [own]."""

WIDE: Mapping[str, range] = {"prompt_means": range(FIRST_VERSION, 6), "histograms": range(4, SCHEMA_VERSION + 1)}
"""Tables whose rows hold a number for every neuron of a layer, and the schema versions in which they do."""


def widest_layer(connection: duckdb.DuckDBPyConnection, catalog: str | None = None) -> int:
    """The number of neurons in the run's widest layer. The run must have been checked."""
    table = "layers" if catalog is None else f"{quoted(catalog)}.main.layers"
    widest = connection.execute(f"SELECT max(neurons) FROM {table}").fetchall()[0][0]
    return max(0, widest or 0)


def memory_for(widest: int, *, readers: bool = False) -> str:
    """DuckDB's memory limit for a run whose widest layer has so many neurons: a commit passes through it VECTOR rows
    at a time, as many as the histograms of 20 layers have. readers: others read the run meanwhile.
    """
    return f"{(MEMORY + VECTOR * NUMBER * widest + readers * READERS) // 2**20}MiB"


def run_memory(connection: duckdb.DuckDBPyConnection, *, readers: bool = False) -> str:
    """`memory_for` the run of a connection."""
    return memory_for(widest_layer(connection), readers=readers)


def pieces(
    connection: duckdb.DuckDBPyConnection, table: str, widest: int, *, source: str = "", version: int = SCHEMA_VERSION
) -> Iterator[str]:
    """SQL conditions that select the rows of a committed table piece by piece, in their order.

    source: the table's catalog and schema as a prefix, "old.main."; version: of the run's schema.
    """
    if version not in WIDE.get(table, ()):
        yield "true"
        return
    rows = max(1, PIECE // (NUMBER * max(1, widest)))
    last = connection.execute(f"SELECT max(rowid) FROM {source}{quoted(table)}").fetchall()[0][0]
    for start in range(0, 0 if last is None else last + 1, rows):
        yield f"rowid >= {start} AND rowid < {start + rows}"
