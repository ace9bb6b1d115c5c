"""A table's digest stands for its values: not for their order, their types in Arrow or how they came in parts."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nfinspect_store.digests import Digest, digest_of, read_digests
from nfinspect_store.verify import verify_run

COLUMNS: dict[str, list[object]] = {
    "number": [1, 2, None, 0, -5],
    "share": [0.5, float("nan"), None, -0.0, 1e300],
    "text": ["a", "", None, "\x1b[31m", "寿"],
    "yes": [True, False, None, True, False],
    "list": [[1.0, 2.0], [], None, [2.0, 1.0], [None, 1.0]],
    "bits": [b"\x00", b"", None, b"\xff", b"a"],
}


def table(columns: dict[str, list[object]] = COLUMNS) -> pa.Table:
    return pa.table(columns)


def test_order_of_rows_and_columns_and_parts_do_not_matter() -> None:
    whole = table()
    assert digest_of(whole.take(np.array([3, 1, 4, 0, 2]))) == digest_of(whole)
    assert digest_of(whole.select(list(COLUMNS)[::-1])) == digest_of(whole)
    assert digest_of(whole.slice(0, 2)) + digest_of(whole.slice(2)) == digest_of(whole)
    assert digest_of(whole.slice(0, 0)) == Digest()


def test_the_type_in_arrow_does_not_matter_where_the_value_is_the_same() -> None:
    whole = table()
    other = whole.cast(
        pa.schema(
            [
                ("number", pa.int16()),
                ("share", pa.float64()),
                ("text", pa.dictionary(pa.int8(), pa.string())),
                ("yes", pa.bool_()),
                ("list", pa.large_list(pa.float32())),
                ("bits", pa.large_binary()),
            ]
        )
    )
    assert digest_of(other) == digest_of(whole)


@pytest.mark.parametrize("column", list(COLUMNS))
def test_every_cell_counts(column: str) -> None:
    """Each cell against each other value of its column, and NULL."""
    whole = digest_of(table())
    values = COLUMNS[column]
    for row in range(len(values)):
        for other in (*values, COLUMNS[column][0]):
            if repr(other) != repr(values[row]):
                changed = [*values[:row], other, *values[row + 1 :]]
                assert digest_of(table({**COLUMNS, column: changed})) != whole, (row, other)


def test_values_that_change_places_between_rows_and_columns_count() -> None:
    both = pa.table({"a": [1, 2], "b": [2, 1]})
    assert digest_of(pa.table({"a": [2, 1], "b": [2, 1]})) != digest_of(both)
    assert digest_of(pa.table({"b": [1, 1], "a": [2, 2]})) != digest_of(pa.table({"a": [1, 1], "b": [2, 2]}))


def test_a_run_tells_the_digest_of_each_of_its_tables(store: Path) -> None:
    for name in ("planted", "stats"):
        with duckdb.connect(str(store / f"{name}.duckdb")) as connection:
            told = read_digests(connection)
            for part, digest in told.items():
                count = connection.execute(f"SELECT count(*) FROM {part}").fetchall()
                assert count == [(digest.rows,)], part
            assert {"run", "layers", "prompts", "tokens", "statistics", "histograms", "examples"} <= told.keys()
            assert {"prompt_means", "neurons", "layer_health"} <= told.keys()


def test_a_digest_that_is_gone_or_another_is_found(store: Path) -> None:
    path = store / "planted.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM digests WHERE part = 'prompts'")
        connection.execute("UPDATE digests SET digest = digest + 1 WHERE part = 'tokens'")
        connection.execute("INSERT INTO digests VALUES ('gone', 3, 5)")
    assert verify_run(path).problems == (
        "gone: the table is missing, 3 rows were written",
        "prompts: it holds 30 rows, 0 were written",
        "tokens: its rows are not those that were written: their digest differs",
    )
