"""Numbered steps from the first schema to the current one. A released step is never changed: a new one is added.

A new run is created as in schema.py; a run of an older version goes through the steps that it lacks (migrate_run.py).
The steps also define what an older run looks like: they lead from FIRST_TABLES to any version.
"""

from collections.abc import Callable

import duckdb

from nfinspect_store.migration_004 import store_less
from nfinspect_store.migration_006 import store_sooner

FIRST_VERSION = 1

FIRST_TABLES = """
CREATE TABLE run (
    run_id VARCHAR, name VARCHAR, kind VARCHAR, model VARCHAR, model_type VARCHAR, dtype VARCHAR, device VARCHAR,
    seed BIGINT, created_at TIMESTAMP, finished_at TIMESTAMP, status VARCHAR, nfinspect_version VARCHAR,
    torch_version VARCHAR, transformers_version VARCHAR, schema_version INTEGER, settings JSON);
CREATE TABLE layers (
    layer_id SMALLINT, site VARCHAR, layer INTEGER, module VARCHAR, neurons INTEGER, activation VARCHAR, fires VARCHAR);
CREATE TABLE prompts (
    prompt_idx INTEGER, concept VARCHAR, text VARCHAR, first_token BIGINT, prompt_tokens INTEGER, tokens INTEGER);
CREATE TABLE tokens (
    token_idx BIGINT, prompt_idx INTEGER, position INTEGER, token_id INTEGER, token VARCHAR, generated BOOLEAN);
CREATE TABLE blocks (layer_id SMALLINT, neuron INTEGER, block INTEGER, "values" FLOAT[256]);
CREATE TABLE statistics (
    layer_id SMALLINT, concept VARCHAR, first BOOLEAN, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE, m2 DOUBLE,
    m3 DOUBLE, m4 DOUBLE, minimum FLOAT, maximum FLOAT, sum_abs DOUBLE);
CREATE TABLE histograms (layer_id SMALLINT, first BOOLEAN, neuron INTEGER, counts BIGINT[]);
CREATE TABLE prompt_means (layer_id SMALLINT, prompt_idx INTEGER, selection VARCHAR, n INTEGER, "values" FLOAT[]);
CREATE TABLE examples (layer_id SMALLINT, neuron INTEGER, kind VARCHAR, rank INTEGER, token_idx BIGINT, value FLOAT);
CREATE TABLE neurons (
    site VARCHAR, layer INTEGER, neuron INTEGER, n BIGINT, mean DOUBLE, std DOUBLE, min FLOAT, max FLOAT,
    mean_abs DOUBLE, firing_rate DOUBLE, class VARCHAR, dormancy DOUBLE, skewness DOUBLE, excess_kurtosis DOUBLE,
    near_dead BOOLEAN, rate_upper95 DOUBLE, approximate BOOLEAN);
CREATE TABLE layer_health (
    site VARCHAR, layer INTEGER, neurons INTEGER, activation_rate DOUBLE, pattern VARCHAR, dead INTEGER,
    missing INTEGER, weak INTEGER, saturated INTEGER, sporadic INTEGER, score DOUBLE, issues VARCHAR[], scale DOUBLE);
CREATE VIEW activations AS
SELECT l.site, l.layer, b.neuron, t.token_idx, b."values"[(t.token_idx & 255) + 1] AS value
FROM blocks b
JOIN layers l ON l.layer_id = b.layer_id
JOIN tokens t ON (t.token_idx // 256)::INTEGER = b.block;
"""
"""The first schema, as released: not to be changed."""


def m002_firings_and_example_lists(connection: duckdb.DuckDBPyConnection) -> None:
    """Blocks record which values fired (unknown for older values); examples get one row per neuron and kind."""
    connection.execute("ALTER TABLE blocks ADD COLUMN fired BLOB")
    connection.execute("ALTER TABLE examples RENAME TO examples_by_rank")
    connection.execute(
        """CREATE TABLE examples AS
           SELECT layer_id, neuron, kind, list(token_idx ORDER BY rank) AS token_idx,
                  list(value ORDER BY rank) AS "values"
           FROM examples_by_rank GROUP BY layer_id, neuron, kind ORDER BY layer_id, kind, neuron"""
    )
    connection.execute("DROP TABLE examples_by_rank")


def m003_mamba_delta(connection: duckdb.DuckDBPyConnection) -> None:
    """Mamba's step size gets a table, empty for older runs."""
    connection.execute(
        """CREATE TABLE mamba_delta (
               layer INTEGER, channel INTEGER, n BIGINT, mean DOUBLE, m2 DOUBLE, surprisal_mean DOUBLE,
               surprisal_m2 DOUBLE, comoment DOUBLE)"""
    )


def m004_less_room_token_bytes_roles_and_digests(connection: duckdb.DuckDBPyConnection) -> None:
    """Value blocks and statistics take less space. Tokens get columns for their bytes, where they are pieces of
    characters, and for their role in a chat; both are NULL in older runs. A table of digests records the content of the
    others: of a migrated run, as it was when migrated.
    """
    store_less(connection)
    connection.execute("ALTER TABLE tokens ADD COLUMN bytes BLOB")
    connection.execute("ALTER TABLE tokens ADD COLUMN role VARCHAR")
    connection.execute('CREATE TABLE digests (part VARCHAR, "rows" BIGINT, digest UBIGINT)')


OF_BLOCKS = """
SELECT l.site, l.layer, b.neuron, t.token_idx,
    CASE octet_length(b."values") // (b."last"::INTEGER - b."first" + 1)
    WHEN 4 THEN (b."values"[4 * ((t.token_idx & 255) - b."first") + 1
                            : 4 * ((t.token_idx & 255) - b."first") + 4])::BIT::FLOAT
    WHEN 2 THEN ((b."values"[2 * ((t.token_idx & 255) - b."first") + 1
                             : 2 * ((t.token_idx & 255) - b."first") + 2])::BIT::SMALLINT::INTEGER
                 * 8192 & -1879056384)::BIT::FLOAT * 4611686018427387904::FLOAT * 1125899906842624::FLOAT
    ELSE (b."values"[(t.token_idx & 255) - b."first" + 1
                     : (t.token_idx & 255) - b."first" + 1])::BIT::TINYINT * b.scale
    END AS value
FROM blocks b
JOIN layers l ON l.layer_id = b.layer_id
JOIN tokens t ON (t.token_idx // 256)::INTEGER = b.block
    AND (t.token_idx & 255) BETWEEN b."first" AND b."last"
"""
"""The values in blocks, from the fifth schema on: not to be changed."""


def m005_values_in_fewer_bytes(connection: duckdb.DuckDBPyConnection) -> None:
    """Blocks may hold float16, or int8 with a scale; those of older runs hold float32."""
    connection.execute("ALTER TABLE blocks ADD COLUMN scale FLOAT")
    connection.execute("DROP VIEW activations")
    connection.execute(f"CREATE VIEW activations AS {OF_BLOCKS}")


def m006_chosen_tokens_and_values_and_histograms_as_bits(connection: duckdb.DuckDBPyConnection) -> None:
    """Tokens that the model read and the run does not hold values of get a table, and so do values that were chosen one
    by one; both are empty for older runs. Histograms and prompt means become BLOBs, and which values fired is no longer
    compressed.
    """
    store_sooner(connection)
    connection.execute(
        """CREATE TABLE unrecorded (
               prompt_idx INTEGER, position INTEGER, token_id INTEGER, token VARCHAR, generated BOOLEAN, bytes BLOB,
               role VARCHAR)"""
    )
    connection.execute("CREATE TABLE beyond (layer_id SMALLINT, neuron INTEGER, token_idx BIGINT, value FLOAT)")
    connection.execute("DROP VIEW activations")
    connection.execute(
        f"""CREATE VIEW activations AS {OF_BLOCKS}
           UNION ALL
           SELECT l.site, l.layer, s.neuron, s.token_idx, s.value
           FROM beyond s JOIN layers l ON l.layer_id = s.layer_id"""
    )


MIGRATIONS: tuple[Callable[[duckdb.DuckDBPyConnection], None], ...] = (
    m002_firings_and_example_lists,
    m003_mamba_delta,
    m004_less_room_token_bytes_roles_and_digests,
    m005_values_in_fewer_bytes,
    m006_chosen_tokens_and_values_and_histograms_as_bits,
)

SCHEMA_VERSION = FIRST_VERSION + len(MIGRATIONS)
