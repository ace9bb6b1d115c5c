"""Runs of older schemas are migrated, and say the same as before."""

import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from recorded import LAYERS, make_arrays, record_arrays  # noqa: E402

from nfinspect_store.errors import SchemaTooOld, StoreError
from nfinspect_store.migrate_run import migrate_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

TO_VERSION_1 = """
ALTER TABLE blocks DROP COLUMN fired;
CREATE TABLE by_rank AS
SELECT layer_id, neuron, kind, unnest(generate_series(0, len(token_idx) - 1))::INTEGER AS rank,
       unnest(token_idx) AS token_idx, unnest("values") AS value FROM examples;
DROP TABLE examples;
CREATE TABLE examples (layer_id SMALLINT, neuron INTEGER, kind VARCHAR, rank INTEGER, token_idx BIGINT, value FLOAT);
INSERT INTO examples SELECT * FROM by_rank ORDER BY hash(neuron, rank);
DROP TABLE by_rank;
DROP TABLE IF EXISTS mamba_delta;
ALTER TABLE tokens DROP COLUMN bytes;
DROP TABLE digests;
ALTER TABLE tokens DROP COLUMN role;
UPDATE run SET schema_version = 1;
"""
"""From today's schema back to the first one, as far as they differ."""


def test_a_run_of_the_first_version_is_read_as_before(tmp_path: Path) -> None:
    arrays = make_arrays([40, 300, 9, 30, 2, 17, 1], seed=3)
    path = record_arrays(tmp_path / "old.duckdb", arrays)

    def everything(run: RunFile) -> list[object]:
        examples = [run.examples(x.site, x.layer, n) for x in LAYERS for n in range(x.neurons)]
        return [examples, run.sql("FROM activations ORDER BY ALL").fetchall(), run.sql("FROM neurons").fetchall()]

    with RunFile.open(path) as run:
        before = everything(run)
        columns = run.sql("SELECT table_name, column_name, data_type FROM duckdb_columns() ORDER BY ALL").fetchall()
    with duckdb.connect(str(path)) as connection:
        connection.execute(TO_VERSION_1)
    with pytest.raises(SchemaTooOld, match="schema version 1"):
        RunFile.open(path)
    assert migrate_run(path).before == 1
    with RunFile.open(path) as run:
        assert run.info.schema_version == SCHEMA_VERSION
        assert everything(run) == before
        upgraded = run.sql("SELECT table_name, column_name, data_type FROM duckdb_columns() ORDER BY ALL").fetchall()
        assert upgraded == columns
        relu, gated, _ = LAYERS
        read = np.zeros((relu.neurons, 2, 256), np.float32)
        for rows in run.neuron_blocks(relu, 0, relu.neurons):
            read[rows.neuron, rows.block] = rows.values
        np.testing.assert_array_equal(read.reshape(relu.neurons, -1)[:, : run.tokens], arrays.layer(0).T)
        with pytest.raises(StoreError, match="layer 1 at site mlp fires by its gate, .* capture it again"):
            list(run.neuron_blocks(gated, 0, gated.neurons))
    assert verify_run(path).problems == ()
