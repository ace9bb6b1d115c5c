"""Rows on their way into a table."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nfinspect_store.writer import _insert

PIECE = 4 * 2**20


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.execute('CREATE TABLE "odd name" (place INTEGER, "values" BLOB, more VARCHAR)')
    return made


def test_rows_are_let_go_of_before_the_transaction_ends(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("BEGIN")
    before = pa.total_allocated_bytes()
    for place in range(8):
        content = pa.array([bytes(PIECE)], pa.binary())
        _insert(connection, "odd name", pa.table({"place": [place], "values": content}))
        del content
        assert pa.total_allocated_bytes() - before < 2 * PIECE
    connection.execute("COMMIT")
    assert connection.execute('SELECT count(*), sum(octet_length("values")) FROM "odd name"').fetchall() == [
        (8, 8 * PIECE)
    ]


def test_columns_go_by_name_and_those_that_are_not_given_are_null(connection: duckdb.DuckDBPyConnection) -> None:
    _insert(connection, "odd name", pa.table({"more": ["a", "b"], "place": np.array([1, 2], np.int32)}))
    assert connection.execute('FROM "odd name" ORDER BY place').fetchall() == [(1, None, "a"), (2, None, "b")]
