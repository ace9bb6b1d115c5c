"""Statements with their parameters in them: what they say is what was asked."""

import math

import duckdb
import numpy as np
import pytest

from nfinspect_store.statements import heard, listened, statement


@pytest.mark.parametrize(
    ("sql", "parameters", "rows"),
    [
        ("SELECT ? + 1, ?", [41, "it's"], [(42, "it's")]),
        ("SELECT $b, '$a ?', $a  -- a comment?\n, \"x\" FROM (SELECT 1 AS \"x\")", {"a": None, "b": True},
         [(True, "$a ?", None, 1)]),
        ("SELECT list_sum(?), /* two\nlines */ ?", [[1, 2, 3], (1.5, -2e300)], [(6, [1.5, -2e300])]),
        ("SELECT ?, ?", [math.inf, -math.inf], [(math.inf, -math.inf)]),
        ("SELECT ?", [np.int64(7)], [(7,)]),
    ],
)  # fmt: skip
def test_a_statement_says_the_same_without_parameters(sql: str, parameters: object, rows: list[object]) -> None:
    said = statement(sql, parameters)  # type: ignore[arg-type]
    assert said.whole
    assert "\n" not in said.sql
    assert duckdb.execute(said.sql).fetchall() == rows


def test_what_sql_text_cannot_say_is_not_repeated() -> None:
    assert not statement("SELECT ?", [object()]).whole
    assert not statement("SELECT ?", []).whole
    long = statement("SELECT x FROM t WHERE list_contains(?, x)", [list(range(5000))])
    assert long == statement("SELECT x FROM t WHERE list_contains(?, x)", [list(range(6000))])
    assert not long.whole


def test_only_who_listens_hears() -> None:
    connection = duckdb.connect()
    with heard() as found:
        with heard() as inner:
            assert listened(connection).execute("SELECT ?", [1]).fetchall() == [(1,)]
        cursor = listened(connection)
        assert cursor.sql("SELECT $x", params={"x": "y"}).fetchall() == [("y",)]
    assert [one.sql for one in inner] == ["SELECT 1"]
    assert [one.sql for one in found] == ["SELECT 'y'"]
    assert listened(connection) is connection
    connection.close()
