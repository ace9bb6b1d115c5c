"""A part of the step to version 6: what made a commit long is stored in other ways (docs/decisions/0014)."""

import duckdb
import numpy as np
import pyarrow as pa

from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.blob_columns import cut
from nfinspect_store.histogram_rows import packed


def store_sooner(connection: duckdb.DuckDBPyConnection) -> None:
    """The counts of histograms become bit planes, prompt means BLOBs of up to 256 neurons, and DuckDB is told not to
    compress which values fired.
    """
    query = "SELECT sql FROM duckdb_views() WHERE view_name = 'activations' AND database_name = current_database()"
    view = connection.execute(query).fetchall()[0][0]
    connection.execute("DROP VIEW activations")
    connection.execute("ALTER TABLE blocks RENAME TO blocks_before")
    connection.execute(
        """CREATE TABLE blocks (
               layer_id SMALLINT, neuron INTEGER, block INTEGER, "first" UTINYINT, "last" UTINYINT,
               "values" BLOB USING COMPRESSION uncompressed, fired BLOB USING COMPRESSION uncompressed, scale FLOAT)"""
    )
    connection.execute("INSERT INTO blocks SELECT * FROM blocks_before")
    connection.execute("DROP TABLE blocks_before")
    connection.execute(view)
    _pack_histograms(connection)
    _cut_prompt_means(connection)


def _pack_histograms(connection: duckdb.DuckDBPyConnection) -> None:
    layers = connection.execute("SELECT layer_id, neurons FROM layers ORDER BY layer_id").fetchall()
    connection.execute("ALTER TABLE histograms RENAME TO counted_histograms")
    connection.execute('CREATE TABLE histograms (layer_id SMALLINT, "first" BOOLEAN, bin SMALLINT, counts BLOB)')
    query = """SELECT bin, counts FROM counted_histograms WHERE layer_id = $layer AND "first" = $first ORDER BY bin"""
    for layer_id, neurons in layers:
        for first in (False, True):
            rows = connection.sql(query, params={"layer": layer_id, "first": first}).to_arrow_table()
            counts = numbers(rows.column("counts").combine_chunks().flatten()).reshape(-1, neurons)
            planes = packed(counts.astype(np.uint64))
            packed_rows = connection.from_arrow(pa.table({"bin": rows.column("bin"), "counts": planes}))
            packed_rows.project(f"{layer_id}, {first}, bin, counts").insert_into("histograms")
    connection.execute("DROP TABLE counted_histograms")


ROWS = 1024
"""Prompt means migrated at a time."""


def _cut_prompt_means(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("ALTER TABLE prompt_means RENAME TO whole_means")
    connection.execute(
        """CREATE TABLE prompt_means (
               layer_id SMALLINT, prompt_idx INTEGER, selection VARCHAR, n INTEGER, first_neuron INTEGER,
               "values" BLOB USING COMPRESSION uncompressed)"""
    )
    last = connection.execute("SELECT coalesce(max(rowid), -1) FROM whole_means").fetchall()[0][0]
    for start in range(0, last + 1, ROWS):
        query = "FROM whole_means WHERE rowid >= $start AND rowid < $stop ORDER BY rowid"
        rows = connection.sql(query, params={"start": start, "stop": start + ROWS}).to_arrow_table().combine_chunks()
        values = rows.column("values").combine_chunks()
        content = numbers(values.flatten()).astype(">f4")
        lengths = numbers(values.value_lengths().fill_null(0))
        column = cut(content, 4 * np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        whole = rows.set_column(rows.schema.get_field_index("values"), "values", column)
        placed = connection.from_arrow(whole).project(
            """*, unnest(range(0, octet_length("values") // 4, 256)) AS place"""
        )
        placed.project(
            """layer_id, prompt_idx, selection, n, place::INTEGER, "values"[4 * place + 1 : 4 * place + 1024]"""
        ).insert_into("prompt_means")
    connection.execute("DROP TABLE whole_means")
