"""A stranger's file is data or it is refused: nothing in it runs, whatever opens it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hostile_files import LIES, NAMES, PROGRAMS, make
from sampled import sampled

from nfinspect_store import connect
from nfinspect_store.catalog import list_runs
from nfinspect_store.console import Console
from nfinspect_store.errors import NotARun, QueryError, StoreError
from nfinspect_store.migrate_run import migrate_run
from nfinspect_store.reader import RunFile
from nfinspect_store.results import find_result, keep_result, list_results
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

SECRET = "nobody may read this"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def test_there_are_many_of_them() -> None:
    assert len(NAMES) >= 60 and len({**PROGRAMS, **LIES}) == len(PROGRAMS) + len(LIES)


@pytest.mark.parametrize("name", sampled(PROGRAMS, 3))
def test_what_is_no_plain_run_is_refused_before_it_is_read(
    name: str, planted_runs: Path, secret: Path, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    path = make(tmp_path / "run.duckdb", name, planted_runs / "stats.duckdb", secret, written)
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        RunFile.open(path)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
    (entry,) = list_runs(tmp_path)
    assert SECRET not in repr(entry)
    assert path.read_bytes() == before and not written.exists()


@pytest.mark.parametrize("opening", [Console, RunWriter.reopen, migrate_run])
@pytest.mark.parametrize("name", ["view tokens", "macro lower", "trigger", "generated column"])
def test_whatever_opens_it(
    name: str, opening: Callable[[Path], object], planted_runs: Path, secret: Path, tmp_path: Path
) -> None:
    path = make(tmp_path / "run.duckdb", name, planted_runs / "stats.duckdb", secret, tmp_path / "written")
    before = path.read_bytes()
    with pytest.raises(NotARun, match="not a run, or was changed"):
        opening(path)
    assert path.read_bytes() == before
    assert not verify_run(path).ok


def test_a_log_beside_the_file_is_content_too(planted_runs: Path, secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    shutil.copy2(planted_runs / "stats.duckdb", path)
    code = f"""
import duckdb, os
connection = duckdb.connect({str(path)!r})
connection.execute("DROP TABLE tokens")
connection.execute("CREATE VIEW tokens AS SELECT * FROM read_text('{secret}')")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code], check=False)
    log = path.with_name("run.duckdb.wal")
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(NotARun, match="a view 'tokens'"):
        RunFile.open(path)
    with pytest.raises(NotARun, match="a view 'tokens'"):
        RunWriter.reopen(path)
    assert (path.read_bytes(), log.read_bytes()) == before


@pytest.mark.parametrize("name", ["sqlite:x", "md:x", "http:x", "postgres:x", "a*b", "a'; SELECT 1; --", "layout"])
def test_a_name_is_a_name(name: str, planted_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB takes what stands before a colon for the kind of database, and gets the extension for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = Path(f"{name}.duckdb")
    shutil.copy2(planted_runs / "stats.duckdb", path)
    with RunFile.open(path) as run, Console(path) as console:
        assert run.tokens == 1200
        assert console.run("SELECT count(*) FROM tokens").page() == [(1200,)]
    assert [entry.tokens for entry in list_runs(Path())] == [1200]
    assert not (tmp_path / "home").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.duckdb")
    (tmp_path / "loop.duckdb").symlink_to(tmp_path / "loop.duckdb")
    (tmp_path / "folder.duckdb").mkdir()
    for name in ("pipe", "loop", "folder"):
        with pytest.raises(StoreError) as caught:
            RunFile.open(tmp_path / f"{name}.duckdb")
        assert "\n" not in str(caught.value)


def test_a_linked_run_is_read_with_its_log(planted_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "run.duckdb").symlink_to(planted_runs / "stats.duckdb")
    with RunFile.open(tmp_path / "run.duckdb") as run:
        assert run.tokens == 1200


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE result; CREATE VIEW result AS SELECT * FROM read_text('{secret}')",
        "CREATE VIEW more AS SELECT * FROM read_text('{secret}')",
        "CREATE TABLE more (a INTEGER, b INTEGER GENERATED ALWAYS AS (a + 1))",
        "CREATE TABLE more (a INTEGER DEFAULT 3)",
        "CREATE TABLE more (a INTEGER PRIMARY KEY)",
        "ALTER TABLE result ADD COLUMN x INTEGER",
        "INSERT INTO result FROM result",
    ],
)
def test_a_kept_result_that_was_changed_counts_as_none(statement: str, secret: Path, tmp_path: Path) -> None:
    path = keep_result(tmp_path / "run.results", "delta", {}, {}, run_id="a").path
    assert find_result(path.parent, "delta", {}, "a") is not None
    with duckdb.connect(str(path)) as connection:
        connection.execute(statement.replace("{secret}", str(secret)))
    assert find_result(path.parent, "delta", {}, "a") is None
    assert list_results(path.parent) == ()


@pytest.mark.parametrize("name", ["max(x)", "lower(x)", "duckdb_tables()", "json(x)"])
def test_a_macro_in_a_kept_result_is_never_called(name: str, tmp_path: Path) -> None:
    rows = pa.table({"a": [1, 2]})
    kept = keep_result(tmp_path / "run.results", "delta", {"k": 1}, {"d": "e"}, run_id="a", tables={"more": rows})
    with duckdb.connect(str(kept.path)) as connection:
        connection.execute(f"CREATE MACRO {name} AS {'TABLE SELECT 7 AS a' if name.endswith('()') else '7'}")
    found = find_result(kept.path.parent, "delta", {"k": 1}, "a")
    assert found == kept
    assert found.table("more").equals(rows)
    assert list_results(kept.path.parent) == (kept,)


@pytest.mark.parametrize("way", ["in place", "by another file", "in a log"])
def test_what_was_a_run_and_has_changed_is_looked_at_again(way: str, planted_runs: Path, tmp_path: Path) -> None:
    """Also where size and time of the last change are as before."""
    path, other = tmp_path / "run.duckdb", tmp_path / "other.duckdb"
    shutil.copy2(planted_runs / "stats.duckdb", path)
    for _ in range(2):
        with RunFile.open(path) as run:
            assert run.tokens == 1200
    before = path.stat()
    changed = other if way == "by another file" else path
    if changed is other:
        shutil.copy2(path, other)
    connection = duckdb.connect(str(changed))
    if way == "in a log":
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    connection.execute("CREATE MACRO max(x) AS 42")
    connection.close()
    if changed is other:
        os.replace(other, path)
    with open(path, "ab") as file:
        file.truncate(max(before.st_size, path.stat().st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(NotARun, match="macro 'max'"):
        RunFile.open(path)
    with pytest.raises(NotARun, match="macro 'max'"):
        Console(path)


def test_the_instance_that_reads_reaches_nothing_else(planted_runs: Path, secret: Path) -> None:
    """Even a file that got past the check could do no harm."""
    with RunFile.open(planted_runs / "stats.duckdb") as run:
        for statement in (
            f"FROM read_text('{secret}')",
            f"ATTACH '{secret}' AS other",
            f"COPY (SELECT 1) TO '{secret}'",
            "INSTALL httpfs",
            "LOAD httpfs",
            f"FROM enable_logging('QueryLog', storage = 'file', storage_path = '{secret}')",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "SET memory_limit = '1GB'",
            "FROM statement",  # a variable of this function
        ):
            with pytest.raises((QueryError, duckdb.Error)) as caught:
                run.sql(statement).fetchall()
            assert SECRET not in str(caught.value)
    assert secret.read_text() == SECRET


def test_one_module_opens_databases() -> None:
    """The walls stand in one place: nothing else of ours calls DuckDB's own connect, or attaches what it names."""
    folder = Path(connect.__file__).parent
    roots = (folder, folder.parents[1] / "nfinspect")
    for path in (p for root in roots for p in root.rglob("*.py") if p.name != "connect.py"):
        text = path.read_text(encoding="utf-8")
        assert "duckdb.connect(" not in text, path
        assert all("':memory:'" in line for line in text.splitlines() if '"ATTACH ' in line), path
