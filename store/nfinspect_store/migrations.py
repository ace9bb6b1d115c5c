"""Numbered steps from an empty file to today's schema. A step is never changed once released: a new one is added.

A new run takes all steps; a run of an older version takes those that it lacks, when it is first opened.
"""

from collections.abc import Callable

import duckdb

from nfinspect_store.schema import TABLES


def m001_first_schema(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(TABLES)


MIGRATIONS: tuple[Callable[[duckdb.DuckDBPyConnection], None], ...] = (m001_first_schema,)

SCHEMA_VERSION = len(MIGRATIONS)


def migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Take the steps after `version`, all or none of them."""
    connection.execute("BEGIN")
    try:
        for step in MIGRATIONS[version:]:
            step(connection)
        connection.execute("UPDATE run SET schema_version = ?", [len(MIGRATIONS)])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
