"""Numbered steps from the first schema to today's. A step is never changed once released: a new one is added.

A new run is made as schema.py has it; a run of an older version takes the steps that it lacks when it is first opened.
"""

from collections.abc import Callable

import duckdb

from nfinspect_store.digests import renew_digests

FIRST_VERSION = 1


def m002_firings_and_example_lists(connection: duckdb.DuckDBPyConnection) -> None:
    """Which values fired comes to the blocks (unknown for values of before), examples become a row for each kind."""
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
    """A Mamba's own step size gets a table, empty for runs of before."""
    connection.execute(
        """CREATE TABLE mamba_delta (
               layer INTEGER, channel INTEGER, n BIGINT, mean DOUBLE, m2 DOUBLE, surprisal_mean DOUBLE,
               surprisal_m2 DOUBLE, comoment DOUBLE)"""
    )


def m004_token_bytes_roles_and_digests(connection: duckdb.DuckDBPyConnection) -> None:
    """Tokens get their bytes where they are pieces of a character, and who says them in a chat; of those of before
    neither is known. A table says what the others held when they were written, for runs of before: when they were
    migrated.
    """
    connection.execute("ALTER TABLE tokens ADD COLUMN bytes BLOB")
    connection.execute("ALTER TABLE tokens ADD COLUMN role VARCHAR")
    connection.execute('CREATE TABLE digests (part VARCHAR, "rows" BIGINT, digest UBIGINT)')


MIGRATIONS: tuple[Callable[[duckdb.DuckDBPyConnection], None], ...] = (
    m002_firings_and_example_lists,
    m003_mamba_delta,
    m004_token_bytes_roles_and_digests,
)

SCHEMA_VERSION = FIRST_VERSION + len(MIGRATIONS)


def migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Take the steps after `version`, all or none of them."""
    connection.execute("BEGIN")
    try:
        for step in MIGRATIONS[version - FIRST_VERSION :]:
            step(connection)
        renew_digests(connection)
        connection.execute("UPDATE run SET schema_version = ?", [FIRST_VERSION + len(MIGRATIONS)])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
