"""Runs of older schemas are migrated, and say the same as before."""

import sys
from dataclasses import fields
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from recorded import CONCEPTS, LAYERS, Arrays, make_arrays, record_arrays  # noqa: E402

from nfinspect.analysis.neuron import neuron_detail
from nfinspect.capturing.statistics import chunk_statistics
from nfinspect_store.addresses import Address
from nfinspect_store.errors import SchemaTooOld, StoreError
from nfinspect_store.migrate_run import migrate_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.reader import RunFile
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.verify import verify_run

TABLES_OF_VERSION_3 = """
DROP VIEW activations;
DROP TABLE blocks; DROP TABLE statistics; DROP TABLE concept_statistics; DROP TABLE histograms;
CREATE TABLE blocks (layer_id SMALLINT, neuron INTEGER, block INTEGER, "values" FLOAT[256], fired BLOB);
CREATE TABLE statistics (
    layer_id SMALLINT, concept VARCHAR, first BOOLEAN, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE, m2 DOUBLE,
    m3 DOUBLE, m4 DOUBLE, minimum FLOAT, maximum FLOAT, sum_abs DOUBLE);
CREATE TABLE histograms (layer_id SMALLINT, first BOOLEAN, neuron INTEGER, counts BIGINT[]);
CREATE VIEW activations AS
SELECT l.site, l.layer, b.neuron, t.token_idx, b."values"[(t.token_idx & 255) + 1] AS value
FROM blocks b
JOIN layers l ON l.layer_id = b.layer_id
JOIN tokens t ON (t.token_idx // 256)::INTEGER = b.block;
ALTER TABLE tokens DROP COLUMN bytes;
ALTER TABLE tokens DROP COLUMN role;
DROP TABLE digests; DROP TABLE unrecorded; DROP TABLE beyond;
UPDATE run SET schema_version = 3;
"""

WHOLE_MEANS = """
CREATE TABLE whole AS
SELECT layer_id, prompt_idx, selection, n,
       list(("values"[4 * i + 1 : 4 * i + 4])::BIT::FLOAT ORDER BY first_neuron, i) AS "values"
FROM (SELECT *, unnest(range(0, octet_length("values") // 4)) AS i FROM prompt_means)
GROUP BY layer_id, prompt_idx, selection, n ORDER BY prompt_idx, layer_id, selection;
DROP TABLE prompt_means;
CREATE TABLE prompt_means (layer_id SMALLINT, prompt_idx INTEGER, selection VARCHAR, n INTEGER, "values" FLOAT[]);
INSERT INTO prompt_means FROM whole;
DROP TABLE whole;
"""

FROM_3_TO_1 = """
ALTER TABLE blocks DROP COLUMN fired;
CREATE TABLE by_rank AS
SELECT layer_id, neuron, kind, unnest(generate_series(0, len(token_idx) - 1))::INTEGER AS rank,
       unnest(token_idx) AS token_idx, unnest("values") AS value FROM examples;
DROP TABLE examples;
CREATE TABLE examples (layer_id SMALLINT, neuron INTEGER, kind VARCHAR, rank INTEGER, token_idx BIGINT, value FLOAT);
INSERT INTO examples SELECT * FROM by_rank ORDER BY hash(neuron, rank);
DROP TABLE by_rank;
DROP TABLE IF EXISTS mamba_delta;
UPDATE run SET schema_version = 1;
"""


def to_version_3(path: Path, arrays: Arrays, histograms: dict[int, dict[bool, np.ndarray]], examples: Path) -> None:
    """From today's layout back to that of version 3. examples: a run that stores them."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(TABLES_OF_VERSION_3)
        connection.execute(WHOLE_MEANS)
        for layer in LAYERS:
            values = arrays.layer(layer.layer_id)
            fired = np.concatenate([f[1] for f in arrays.fired]) if layer.fires == "gate" else None
            for block, start in enumerate(range(0, len(values), 256)):
                padded = np.zeros((layer.neurons, 256), np.float32)
                part = values[start : start + 256].T
                padded[:, : part.shape[1]] = part
                bits = np.zeros((layer.neurons, 256), np.bool_)
                if fired is not None:
                    bits[:, : part.shape[1]] = fired[start : start + 256].T
                packed = [row.tobytes() for row in np.packbits(bits, axis=1, bitorder="little")]
                rows = pa.table(
                    {
                        "layer_id": np.full(layer.neurons, layer.layer_id, np.int16),
                        "neuron": np.arange(layer.neurons, dtype=np.int32),
                        "block": np.full(layer.neurons, block, np.int32),
                        "values": padded.tolist(),
                        "fired": packed if fired is not None else pa.nulls(layer.neurons, pa.binary()),
                    }
                )
                insert(connection, "blocks", rows)
            for concept in CONCEPTS:
                for first in (False, True):
                    chosen = (arrays.concept == concept) & (arrays.first == first)
                    found = chunk_statistics(values[chosen], None if fired is None else fired[chosen], layer.fires)
                    rows = pa.table({f.name: getattr(found, f.name) for f in fields(NeuronStatistics)})
                    rows = rows.append_column("concept", pa.array([concept] * layer.neurons))
                    rows = rows.append_column("first", pa.array([first] * layer.neurons))
                    rows = rows.append_column("layer_id", pa.array([layer.layer_id] * layer.neurons))
                    insert(connection, "statistics", rows.append_column("neuron", pa.array(range(layer.neurons))))
            for first, counts in histograms[layer.layer_id].items():
                rows = pa.table({"neuron": range(layer.neurons), "counts": counts.tolist()})
                rows = rows.append_column("first", pa.array([first] * layer.neurons))
                insert(
                    connection, "histograms", rows.append_column("layer_id", pa.array([layer.layer_id] * layer.neurons))
                )
        connection.execute(f"ATTACH '{examples}' AS other (READ_ONLY)")
        connection.execute("INSERT INTO examples SELECT * FROM other.examples")
        connection.execute("DETACH other")


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    connection.register("rows_given", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM rows_given")
    connection.unregister("rows_given")


@pytest.mark.parametrize("version", [1, 3])
def test_a_run_of_an_older_version_is_read_as_before(version: int, tmp_path: Path) -> None:
    arrays = make_arrays([40, 300, 9, 30, 2, 17, 1], seed=3)
    path = record_arrays(tmp_path / "old.duckdb", arrays)
    stats = record_arrays(tmp_path / "stats.duckdb", arrays, keep="stats")

    def everything(run: RunFile) -> list[object]:
        examples = [run.examples(x.site, x.layer, n) for x in LAYERS for n in range(x.neurons)]
        histograms = [run.histograms(x.site, x.layer, skip_first=s).tolist() for x in LAYERS for s in (False, True)]
        values = [run.activations(x.site, x.layer).tolist() for x in LAYERS]
        view = run.sql("FROM activations ORDER BY ALL").fetchall()
        means = run.sql("FROM prompt_means ORDER BY ALL").fetchall()
        return [examples, histograms, values, view, means, run.sql("FROM neurons").fetchall()]

    def statistics(run: RunFile) -> list[np.ndarray]:
        found = [run.statistics(site, skip_first=skip) for site in ("mlp", "resid") for skip in (False, True)]
        return [getattr(one, f.name) for one in found for f in fields(NeuronStatistics)]

    columns_of = "SELECT table_name, column_name, data_type FROM duckdb_columns() ORDER BY ALL"
    with RunFile.open(path) as run:
        before, statistics_before = everything(run), statistics(run)
        columns = run.sql(columns_of).fetchall()
        concepts = [neuron_detail(run, Address(x.layer, 2, x.site)).concepts for x in LAYERS]
        histograms = {}
        for layer in LAYERS:
            past = run.histograms(layer.site, layer.layer, skip_first=True)
            histograms[layer.layer_id] = {False: past, True: run.histograms(layer.site, layer.layer) - past}
    to_version_3(path, arrays, histograms, stats)
    if version == 1:
        with duckdb.connect(str(path)) as connection:
            connection.execute(FROM_3_TO_1)
    with pytest.raises(SchemaTooOld, match=f"schema version {version}"):
        RunFile.open(path)
    assert migrate_run(path).before == version
    with RunFile.open(path) as run:
        assert run.info.schema_version == SCHEMA_VERSION
        assert everything(run) == before
        for one, other in zip(statistics(run), statistics_before, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
        assert run.sql(columns_of).fetchall() == columns
        for layer, told in zip(LAYERS, concepts, strict=True):
            for one, other in zip(neuron_detail(run, Address(layer.layer, 2, layer.site)).concepts, told, strict=True):
                assert (one.concept, one.tokens, one.max) == (other.concept, other.tokens, other.max)
                assert one.mean == pytest.approx(other.mean, rel=1e-12) and one.firing_rate == other.firing_rate
        gated = LAYERS[1]
        fired = np.zeros((run.tokens, gated.neurons), np.bool_)
        if version == 1:
            with pytest.raises(StoreError, match="layer 1 at site mlp fires by its gate, .* capture it again"):
                list(run.blocks(gated, fired=True))
        else:
            for rows in run.blocks(gated, fired=True):
                fired[rows.tokens, rows.neuron] = rows.fired.T
            np.testing.assert_array_equal(fired, np.concatenate([f[1] for f in arrays.fired]))
    assert verify_run(path).problems == ()
