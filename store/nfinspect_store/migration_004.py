"""The step to version 4: blocks are no longer padded, and statistics take less space (docs/decisions/0008)."""

from dataclasses import fields

import duckdb
import numpy as np
import pyarrow as pa

from nfinspect_store.rows import statistics_table
from nfinspect_store.statistics import NeuronStatistics


def store_less(connection: duckdb.DuckDBPyConnection) -> None:
    """Blocks become BLOBs without padding, statistics are merged over concepts, histograms get one row per bin."""
    tokens = connection.execute("SELECT count(*) FROM tokens").fetchall()[0][0]
    layers = connection.execute("SELECT layer_id, neurons FROM layers ORDER BY layer_id").fetchall()
    _unpad_blocks(connection, layers, tokens)
    _merge_concepts(connection, layers)
    connection.execute("ALTER TABLE histograms RENAME TO histograms_by_neuron")
    connection.execute('CREATE TABLE histograms (layer_id SMALLINT, "first" BOOLEAN, bin SMALLINT, counts BIGINT[])')
    for layer_id, _ in layers:  # one at a time, as DuckDB builds lists in memory
        for first in (False, True):
            connection.execute(
                """INSERT INTO histograms
                   SELECT $layer, $first, (bin - 1)::SMALLINT, list(counts[bin] ORDER BY neuron) AS by_neuron
                   FROM histograms_by_neuron CROSS JOIN range(1, 100) bins(bin)
                   WHERE layer_id = $layer AND "first" = $first
                   GROUP BY bin HAVING max(counts[bin]) > 0 ORDER BY bin""",
                {"layer": layer_id, "first": first},
            )
    connection.execute("DROP TABLE histograms_by_neuron")


def _unpad_blocks(connection: duckdb.DuckDBPyConnection, layers: list[tuple[int, int]], tokens: int) -> None:
    connection.execute("DROP VIEW activations")
    connection.execute("ALTER TABLE blocks RENAME TO padded_blocks")
    connection.execute(
        """CREATE TABLE blocks (
               layer_id SMALLINT, neuron INTEGER, block INTEGER, "first" UTINYINT, "last" UTINYINT,
               "values" BLOB USING COMPRESSION uncompressed, fired BLOB)"""
    )
    numbers = connection.execute("SELECT DISTINCT block FROM padded_blocks ORDER BY block").fetchall()
    query = (
        'SELECT neuron, "values", fired FROM padded_blocks WHERE layer_id = $layer AND block = $block ORDER BY neuron'
    )
    for (block,) in numbers:
        held = min(256, tokens - 256 * block)
        for layer_id, _ in layers:
            rows = connection.sql(query, params={"layer": layer_id, "block": block}).to_arrow_table()
            values = rows.column("values").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 256)
            stored = values[:, :held].astype(">f4")
            fired = [bits if bits is None else bits[: (held + 7) // 8] for bits in rows.column("fired").to_pylist()]
            unpadded = pa.table(
                {
                    "neuron": rows.column("neuron"),
                    "values": pa.array([row.tobytes() for row in stored], pa.binary()),
                    "fired": pa.array(fired, pa.binary()),
                }
            )
            placed = f'{layer_id}, neuron, {block}, 0, {held - 1}, "values", fired'
            connection.from_arrow(unpadded).project(placed).insert_into("blocks")
    connection.execute("DROP TABLE padded_blocks")
    connection.execute(
        """CREATE VIEW activations AS
           SELECT l.site, l.layer, b.neuron, t.token_idx,
                  (b."values"[4 * ((t.token_idx & 255) - b."first") + 1
                              : 4 * ((t.token_idx & 255) - b."first") + 4])::BIT::FLOAT AS value
           FROM blocks b
           JOIN layers l ON l.layer_id = b.layer_id
           JOIN tokens t ON (t.token_idx // 256)::INTEGER = b.block
               AND (t.token_idx & 255) BETWEEN b."first" AND b."last"
        """
    )


def _merge_concepts(connection: duckdb.DuckDBPyConnection, layers: list[tuple[int, int]]) -> None:
    """Merge the statistics of all concepts (NeuronStatistics.merge); of each, keep the columns of ConceptStatistics."""
    connection.execute("ALTER TABLE statistics RENAME TO statistics_by_concept")
    connection.execute(
        """CREATE TABLE concept_statistics (
               layer_id SMALLINT, concept VARCHAR, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE,
               maximum FLOAT)"""
    )
    connection.execute(
        """INSERT INTO concept_statistics
           SELECT layer_id, concept, neuron, sum(n)::BIGINT, if(min(fired) < 0, -1, sum(fired))::BIGINT,
                  sum(n * mean) / sum(n), max(maximum)
           FROM statistics_by_concept GROUP BY layer_id, concept, neuron HAVING sum(n) > 0
           ORDER BY layer_id, concept, neuron"""
    )
    connection.execute(
        """CREATE TABLE statistics (
               layer_id SMALLINT, "first" BOOLEAN, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE, m2 DOUBLE,
               m3 DOUBLE, m4 DOUBLE, minimum FLOAT, maximum FLOAT, sum_abs DOUBLE)"""
    )
    names = tuple(field.name for field in fields(NeuronStatistics))
    groups = 'SELECT DISTINCT concept FROM statistics_by_concept WHERE layer_id = ? AND "first" = ? ORDER BY concept'
    query = f"""SELECT {", ".join(names)} FROM statistics_by_concept
                WHERE layer_id = ? AND "first" = ? AND concept = ? ORDER BY neuron"""
    for layer_id, neurons in layers:
        for first in (False, True):
            total = NeuronStatistics.empty(neurons)
            for (concept,) in connection.execute(groups, [layer_id, first]).fetchall():
                columns = connection.execute(query, [layer_id, first, concept]).fetchnumpy()
                total = total.merge(NeuronStatistics(**{name: np.asarray(columns[name]) for name in names}))
            if total.n.any():
                connection.register("merged", statistics_table(layer_id, first, total))
                connection.execute("INSERT INTO statistics BY NAME SELECT * FROM merged")
                connection.unregister("merged")
    connection.execute("DROP TABLE statistics_by_concept")
