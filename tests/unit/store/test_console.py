import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from nfinspect_store.console import Console, open_console
from nfinspect_store.errors import NotARun, QueryError, RunBusy, RunNotFound
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.query_result import HELD

SPIN = "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3"


@pytest.fixture
def path(store: Path) -> Path:
    return store / "planted.duckdb"


@pytest.mark.parametrize(
    "query",
    [
        "FROM neurons",
        "SELECT 1",
        "WITH t AS (SELECT 1 AS x) SELECT x FROM t",
        "VALUES (1), (2)",
        "TABLE layers",
        "DESCRIBE neurons",
        "SHOW TABLES",
        "SUMMARIZE layers",
        "PIVOT neurons ON class USING count(*) GROUP BY layer",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE FROM neurons",
        "-- a comment; with a semicolon\nSELECT ';' AS x /* ; */ ; -- the end;",
        "SELECT 1;",
        "FROM query_table('neurons')",
    ],
)
def test_queries_are_run(path: Path, query: str) -> None:
    with Console(path) as console:
        result = console.run(query)
        assert result.page(0, 1)
        assert result.columns


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('/etc/hostname')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM read_parquet('https://example.com/a.parquet')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM '{other}'",
        "FROM read_duckdb('{other}')",
        "FROM glob('/*')",
        "FROM sniff_csv('{file}')",
        "SELECT getenv('HOME')",
        "COPY neurons TO '{out}'",
        "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "IMPORT DATABASE '{out}'",
        "ATTACH '{other}' AS other",
        "ATTACH '{out}' AS other",
        "ATTACH ':memory:' AS m",
        "DETACH planted",
        "USE memory",
        "SET memory_limit = '1GB'",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "SET VARIABLE x = 1",
        "PRAGMA threads = 1",
        "PRAGMA database_list",
        "PRAGMA enable_profiling",
        "INSTALL httpfs",
        "LOAD httpfs",
        "UPDATE EXTENSIONS",
        "CALL checkpoint()",
        "CHECKPOINT",
        "VACUUM",
        "INSERT INTO prompts (prompt_idx) VALUES (99)",
        "DELETE FROM neurons",
        "UPDATE run SET status = 'failed'",
        "DROP TABLE neurons",
        "ALTER TABLE neurons ADD COLUMN x INT",
        "TRUNCATE neurons",
        "CREATE TABLE t (i INT)",
        "CREATE TEMP TABLE t (i INT)",
        "CREATE TABLE memory.t (i INT)",
        "CREATE MACRO f(x) AS x",
        "CREATE SECRET s (TYPE s3)",
        "CREATE VIEW v AS SELECT 1",
        "WITH gone AS (DELETE FROM neurons RETURNING *) FROM gone",
        "EXPLAIN ANALYZE DELETE FROM neurons",
        "EXPLAIN ANALYZE CREATE TABLE memory.t AS SELECT 1",
        "explain /* x */ analyze CREATE TABLE memory.t AS SELECT 1",
        "BEGIN",
        "PREPARE q AS SELECT 1",
        "COMMENT ON TABLE neurons IS 'x'",
        "FROM query('DROP TABLE neurons')",
        "FROM enable_logging()",
        "FROM python_variable",
        "SELECT 1; DROP TABLE neurons",
        "SELECT 1; SELECT 2",
        "",
        "  -- nothing",
        "SELEC 1",
        "SELECT \ud800",
    ],
)
def test_everything_else_is_refused_in_one_line(path: Path, tmp_path: Path, statement: str) -> None:
    python_variable = [1]  # noqa: F841 -- DuckDB looks variables up by name unless it is told not to
    file, other, out = tmp_path / "secret.csv", tmp_path / "other.duckdb", tmp_path / "out"
    file.write_text("secret\n1\n")
    shutil.copy(path, other)
    before = path.read_bytes()
    with Console(path) as console:
        with pytest.raises(QueryError) as caught:
            console.run(
                statement.replace("{file}", str(file)).replace("{other}", str(other)).replace("{out}", str(out))
            ).page()
        assert "\n" not in str(caught.value)
        assert console.run("SELECT count(*) FROM neurons").page() == [(240,)]
    assert path.read_bytes() == before
    assert not out.exists()


def test_the_settings_are_those_of_a_closed_room(path: Path) -> None:
    wanted = {
        "enable_external_access": "false",
        "lock_configuration": "true",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    with Console(path) as console:
        found = dict(console.run("SELECT name, value FROM duckdb_settings()").page(0, 1000))
    assert {name: found[name] for name in wanted} == wanted


def test_a_message_says_what_was_meant(path: Path) -> None:
    with (
        Console(path) as console,
        pytest.raises(QueryError, match='neuron_s does not exist! Did you mean "neurons"'),
    ):
        console.run("FROM neuron_s")


def test_a_message_names_columns_that_could_be_meant(path: Path) -> None:
    with Console(path) as console, pytest.raises(QueryError, match=r"\bdormanc\b.*dormancy"):
        console.run("SELECT dormanc FROM neurons")


def test_several_runs_by_name(store: Path) -> None:
    with Console({"planted": store / "planted.duckdb", "other run": store / "stats.duckdb"}) as console:
        assert console.default == "planted"
        query = 'SELECT (SELECT count(*) FROM blocks), (SELECT count(*) FROM "other run".blocks)'
        assert console.run(query).page() == [(5 * 240, 0)]
        tables = console.tables()
    assert tables["neurons"].columns["max"] == "FLOAT" and not tables["neurons"].view
    assert tables["activations"].view and tables["activations"].public and not tables["blocks"].public
    assert '"other run".neurons' in tables
    assert list(tables)[0] == "run"


@pytest.mark.parametrize("name", ["memory", "system", "temp", "main", 'a"b', "neurons", "select"])
def test_a_run_may_have_any_name(store: Path, name: str) -> None:
    with Console({name: store / "planted.duckdb"}) as console:
        assert console.run("SELECT count(*) FROM neurons").page() == [(240,)]


def test_the_same_file_twice_is_attached_once(path: Path) -> None:
    with open_console({"a": path, "b": path}) as console:
        assert console.names == ("a",)


def test_pages_are_those_of_the_whole_result(path: Path) -> None:
    with Console(path) as console:
        result = console.run("SELECT i FROM range(25000) t(i) ORDER BY i DESC")
        assert result.rows is None
        assert [row[0] for row in result.page(0, 3)] == [24999, 24998, 24997]
        start = HELD - 2  # across the border of what is held
        assert [row[0] for row in result.page(start, 5)] == [24999 - start - i for i in range(5)]
        assert [row[0] for row in result.page(12_345, 2500)] == [24999 - 12_345 - i for i in range(2500)]
        assert result.page(24_999, 10) == [(0,)]
        assert result.rows == 25_000
        assert result.page(25_000, 10) == []
        assert result.page(90_000, 10) == []
        assert result.count() == 25_000


def test_a_short_result_knows_its_length_after_the_first_page(path: Path) -> None:
    with Console(path) as console:
        result = console.run("FROM layers")
        assert len(result.page(0, 2)) == 2
        assert result.rows == 6


def test_a_long_result_is_streamed(path: Path) -> None:
    with Console(path) as console:
        first = next(iter(console.run("SELECT i FROM range(10000000000) t(i)")))
        assert first == (0,)
        batches = console.run("FROM activations").batches()
        assert sum(batch.num_rows for batch in batches) == 240 * 1200


def test_the_tall_view_has_the_values(path: Path) -> None:
    with Console(path) as console:
        query = "SELECT min(value), max(value), count(*) FROM activations WHERE site = 'mlp' AND neuron = 1"
        assert console.run(query).page() == [(3.0, 3.0, 3 * 1200)]


def test_a_timeout_stops_a_query(path: Path) -> None:
    with Console(path) as console:
        started = time.monotonic()
        with pytest.raises(QueryError, match=r"longer than 0.2 s"):
            console.run(SPIN, timeout=0.2).page()
        assert time.monotonic() - started < 5
        assert console.run("SELECT 1", timeout=5).page() == [(1,)]


@pytest.mark.parametrize("how", ["page", "stream"])
def test_interrupt_stops_a_query_in_another_thread(path: Path, how: str) -> None:
    with Console(path) as console:
        threading.Timer(0.2, console.interrupt).start()
        with pytest.raises(QueryError, match="was interrupted"):
            if how == "page":
                console.run(SPIN).page()
            else:
                for _ in console.run("SELECT i FROM range(10000000000000) t(i)").batches():
                    pass
        assert console.run("SELECT 1").page() == [(1,)]


def test_threads_share_a_console(path: Path) -> None:
    results: list[object] = []
    with Console(path) as console:
        threads = [
            threading.Thread(target=lambda: results.append(console.run("SELECT sum(neuron) FROM neurons").page()))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8 and len(set(map(str, results))) == 1


def test_a_closed_console_says_so(path: Path) -> None:
    console = Console(path)
    result = console.run("FROM neurons")
    console.close()
    with pytest.raises(QueryError):
        result.page()


def test_nothing_is_left_in_the_working_directory(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with Console(path) as console:
        console.run("FROM activations ORDER BY value").page()
    assert os.listdir(empty) == []


def test_what_cannot_be_opened(store: Path, tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("no database")
    with pytest.raises(NotARun):
        Console(tmp_path / "text.duckdb")
    with pytest.raises(RunNotFound):
        Console(tmp_path / "none.duckdb")
    Heartbeat(store / "stats.duckdb").beat()
    with pytest.raises(RunBusy):
        Console(store / "stats.duckdb")
