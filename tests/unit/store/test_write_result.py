import csv
import datetime as dt
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nfinspect_store.console import Console
from nfinspect_store.errors import QueryError, StorageFull
from nfinspect_store.write_result import write_csv, write_json, write_result

EVERY_KIND = """
SELECT 'nan'::DOUBLE AS nan, 'inf'::FLOAT AS inf, 1.5::DECIMAL(5, 2) AS tenth, 3::DECIMAL(5, 2) AS whole,
    sum(1) AS huge, TIMESTAMP '2026-01-02 03:04:05' AS at,
    TIMESTAMP_NS '2026-01-02 03:04:05.123456789' AS nano,
    DATE '2026-01-02' AS day,
    TIME '03:04:05' AS clock, '\\x00\\xFF'::BLOB AS blob, NULL AS nothing, true AS yes,
    [1, NULL] AS list, {'a': 'nan'::FLOAT} AS struct, MAP {'k': 1} AS map, INTERVAL 3 DAY AS span,
    'infinity'::TIMESTAMP AS never, now() IS NOT NULL AS zoned, 7 AS nan
"""


@pytest.fixture
def console(store: Path) -> Iterator[Console]:
    with Console(store / "planted.duckdb") as console:
        yield console


def test_json_holds_every_kind_of_value(console: Console) -> None:
    out = io.StringIO()
    assert write_json(console.run(EVERY_KIND), out) == 1
    (row,) = json.loads(out.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["nan"] is None and row["inf"] is None and row["nan_1"] == 7
    assert (row["tenth"], row["whole"], row["huge"]) == (1.5, 3, 1)
    assert row["at"] == "2026-01-02T03:04:05" and row["nano"] == "2026-01-02T03:04:05.123456"
    assert (row["day"], row["clock"]) == ("2026-01-02", "03:04:05")
    assert row["blob"] == "AP8=" and row["nothing"] is None and row["yes"] is True
    assert (row["list"], row["struct"], row["map"]) == ([1, None], {"a": None}, {"k": 1})
    assert isinstance(row["span"], str) and isinstance(row["never"], str)
    assert isinstance(row["whole"], int) and isinstance(row["huge"], int)


def test_an_empty_result_is_an_empty_list(console: Console) -> None:
    out = io.StringIO()
    write_json(console.run("FROM neurons LIMIT 0"), out)
    assert json.loads(out.getvalue()) == []


def test_csv_can_be_read_back(console: Console) -> None:
    out = io.StringIO()
    assert write_csv(console.run("SELECT token, NULL AS none, [1, 2] AS list FROM tokens LIMIT 4"), out) == 4
    rows = list(csv.reader(io.StringIO(out.getvalue())))
    assert rows[0] == ["token", "none", "list"]
    assert rows[1] == [" w0", "", "[1, 2]"]


def test_parquet_can_be_read_back(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    query = "SELECT a.*, a.value AS value, TIMESTAMP '2026-01-01' AS at FROM activations a"
    assert write_result(console.run(query), "parquet", file) == 240 * 1200
    table = pq.read_table(file)
    assert table.column_names == ["site", "layer", "neuron", "token_idx", "value", "value_1", "at"]
    assert table.column("at")[0].as_py() == dt.datetime(2026, 1, 1)


def test_a_file_appears_when_it_is_complete(console: Console, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(QueryError):
        write_result(console.run("SELECT i, error('late') FROM range(5) t(i)"), "csv", target / "a.csv")
    assert list(target.iterdir()) == []
    with pytest.raises(StorageFull):
        write_result(console.run("SELECT 1"), "csv", tmp_path / "missing" / "a.csv")
