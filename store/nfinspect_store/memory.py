"""How much DuckDB may hold while a run is written, copied or read through, and how wide rows are taken within it.

It takes 2,048 rows at once, whatever their length: of prompt means of 14,336 neurons 117 MB, more than all the rest.
"""

from collections.abc import Iterator, Mapping

import duckdb

from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.schema import quoted

MEMORY = 256 * 2**20
"""Bytes that DuckDB may hold beside wide rows. It keeps written blocks as long as there is room, so that a capture
would grow to this with its tokens; 350,000 neurons are written within it, no slower than within 2 GB, measured."""

VECTOR = 2048
"""Rows that DuckDB takes at once."""

NUMBER = 8
"""Bytes of a number at most: the counts of histograms have so many."""

PIECE = 16 * 2**20
"""Bytes of rows that are inserted, copied or read with one statement [own]."""

WIDE: Mapping[str, int] = {"prompt_means": 1, "histograms": 4}
"""Tables whose rows hold a number of every neuron of a layer, by the schema version since which they do."""


def widest_layer(connection: duckdb.DuckDBPyConnection, catalog: str | None = None) -> int:
    """Neurons of the run's widest layer. The run must have been checked."""
    table = "layers" if catalog is None else f"{quoted(catalog)}.main.layers"
    widest = connection.execute(f"SELECT max(neurons) FROM {table}").fetchall()[0][0]
    return max(0, widest or 0)


def memory_for(widest: int) -> str:
    """DuckDB's memory limit for a run whose widest layer has so many neurons: what is committed in one transaction is
    taken through it by the vector, the histograms of 20 layers among it.
    """
    return f"{(MEMORY + VECTOR * NUMBER * widest) // 2**20}MiB"


def run_memory(connection: duckdb.DuckDBPyConnection) -> str:
    """The same for the run of a connection."""
    return memory_for(widest_layer(connection))


def pieces(
    connection: duckdb.DuckDBPyConnection, table: str, widest: int, *, source: str = "", version: int = SCHEMA_VERSION
) -> Iterator[str]:
    """Conditions under which the rows of a committed table come a piece at a time, in their order.

    source: the catalog and schema of the table, with a dot behind; version: of the run's schema.
    """
    if version < WIDE.get(table, version + 1):
        yield "true"
        return
    rows = max(1, PIECE // (NUMBER * max(1, widest)))
    last = connection.execute(f"SELECT max(rowid) FROM {source}{quoted(table)}").fetchall()[0][0]
    for start in range(0, 0 if last is None else last + 1, rows):
        yield f"rowid >= {start} AND rowid < {start + rows}"
