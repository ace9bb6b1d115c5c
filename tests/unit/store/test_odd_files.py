"""Whatever lies in a store costs at most its own line of the list: nothing is waited for, nothing breaks the others."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from nfinspect_store.catalog import delete_run, list_everything, run_path
from nfinspect_store.errors import NfinspectError
from nfinspect_store.heartbeat import being_written, heartbeat_path, read_heartbeat_file
from nfinspect_store.history import list_histories
from nfinspect_store.reader import RunFile
from nfinspect_store.results import list_results, run_results
from nfinspect_store.run_summary import CACHE_NAME
from nfinspect_store.types import RunEntry


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    path.symlink_to("gone")


def empty(path: Path) -> None:
    path.touch()


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name takes 108 bytes
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD = [pipe, loop, nowhere, empty, noise, bound_socket, device]


def by_name(store: Path) -> dict[str, RunEntry]:
    return {entry.name: entry for entry in list_everything(store)}


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_an_odd_file_is_a_line_of_its_own(store: Path, make: Callable[[Path], None]) -> None:
    make(store / "odd.duckdb")
    found = by_name(store)
    assert set(found) == {"planted", "stats", "odd"}
    assert found["planted"].status == "complete" and found["planted"].problem is None
    problem = found["odd"].problem
    assert problem and "\n" not in problem and len(problem) < 400
    with pytest.raises(NfinspectError):
        RunFile.open(run_path(store, "odd"))


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_odd_companions_do_no_harm(store: Path, make: Callable[[Path], None]) -> None:
    (store / "t.history.jsonl").write_text('{"run": {"model": "m"}}\n')
    for name in ("planted.duckdb.heartbeat", "u.history.jsonl", "t.history.jsonl.heartbeat", CACHE_NAME):
        make(store / name)
    make(store / "planted.results")
    found = by_name(store)
    assert found["planted"].status == found["stats"].status == "complete"
    assert not being_written(store / "planted.duckdb")
    assert list_results(run_results(store / "planted.duckdb")) == ()
    assert set(list_histories(store)) <= {"t", "u"}


def test_a_name_that_is_not_utf8(store: Path) -> None:
    (store / os.fsdecode(b"caf\xe9.duckdb")).write_bytes((store / "planted.duckdb").read_bytes())
    found = by_name(store)
    odd = found.pop(os.fsdecode(b"caf\xe9"))
    assert set(found) == {"planted", "stats"} and "is not UTF-8" in str(odd.problem)
    assert all(entry.status == "complete" for entry in found.values())
    with pytest.raises(NfinspectError, match="is not UTF-8"):
        RunFile.open(odd.path)


def test_a_directory_called_as_a_run_is_none(store: Path) -> None:
    (store / "folder.duckdb").mkdir()
    assert set(by_name(store)) == {"planted", "stats"}


@pytest.mark.parametrize(
    "when", ["'infinity'", "'-infinity'", "'290000-01-01'", "'0044-03-15 (BC)'", "NULL", "'0001-01-01'", "'9999-12-31'"]
)
def test_a_date_that_python_has_no_name_for(store: Path, when: str) -> None:
    with duckdb.connect(str(store / "planted.duckdb")) as connection:
        connection.execute(f"UPDATE run SET created_at = {when}::TIMESTAMP, finished_at = {when}::TIMESTAMP")
    for _ in range(2):  # by the file, then by the cache
        found = by_name(store)
        assert set(found) == {"planted", "stats"} and found["stats"].problem is None
        assert "\n" not in (found["planted"].problem or "")


BEAT = {
    "pid": os.getpid(),
    "host": socket.gethostname(),
    "started_at": time.time(),
    "updated_at": time.time(),
    "tokens_done": 10,
    "tokens_total": 100,
    "tokens_per_second": 5.0,
    "bytes": 1000,
    "phase": "reading",
    "model": "m",
}
INF, NAN = float("inf"), float("nan")


ANYTHING = (INF, -INF, NAN, 1e300, -1, 10**30, "x", [], {}, None, True, "\ud800", "\x1b[31m")


@pytest.mark.parametrize("field", list(BEAT))
def test_a_heartbeat_may_hold_anything(store: Path, field: str) -> None:
    for value in ANYTHING:
        heartbeat_path(store / "planted.duckdb").write_text(json.dumps({**BEAT, field: value}))
        entry = by_name(store)["planted"]
        assert entry.status in ("capturing", "complete")
        if entry.progress is not None:  # then it can be reckoned and printed
            progress = entry.progress
            assert 0 <= progress.tokens_per_second < INF and 0 <= progress.tokens_done < 2**63
            assert entry.created_at is not None and json.dumps(vars(progress), allow_nan=False)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"null", b"\xff\xfe", b"[" * 100_000, b'{"pid": 1}'])
def test_a_heartbeat_that_is_none(store: Path, content: bytes) -> None:
    heartbeat_path(store / "planted.duckdb").write_bytes(content)
    assert read_heartbeat_file(store / "planted.duckdb") is None
    assert by_name(store)["planted"].status == "complete"


@pytest.mark.parametrize("field", ["status", "model", "created_at", "tokens", "problem", None])
def test_the_cache_of_facts_may_hold_anything(store: Path, field: str | None) -> None:
    by_name(store)
    cache = store / CACHE_NAME
    whole = json.loads(cache.read_text())
    for value in (*ANYTHING, "2026-01-01T00:00:00+05:00"):
        content = json.loads(json.dumps(whole))
        if field is None:
            content["runs"]["planted.duckdb"]["facts"] = value
        else:
            content["runs"]["planted.duckdb"]["facts"][field] = value
        cache.write_text(json.dumps(content))
        found = by_name(store)
        assert set(found) == {"planted", "stats"}
        entry = found["planted"]
        assert isinstance(entry.status, str) and isinstance(entry.model, str)
        assert entry.tokens is None or isinstance(entry.tokens, int)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}'])
def test_a_cache_that_is_none(store: Path, content: bytes) -> None:
    (store / CACHE_NAME).write_bytes(content)
    assert by_name(store)["planted"].status == "complete"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[" * 100_000,
        '{"run": 3}',
        '{"run": {"model": ["m"], "created_at": "2026-01-01T00:00:00+05:00"}}',
        '{"run": {"model": "m", "created_at": 1e400}}',
        '{"run": {"model": "m"}}\n{"end": {"status": ["x"]}}',
        '{"run": {"model": "\\ud800"}}',
        '{"run": {"model": "' + "m" * 5_000_000 + '"}}',
    ],
    ids=range(9),
)
def test_a_history_may_hold_anything(store: Path, line: str) -> None:
    (store / "t.history.jsonl").write_text(line + "\n")
    found = by_name(store)
    assert set(found) == {"planted", "stats", "t"} and found["t"].kind == "history"
    assert isinstance(found["t"].status, str) and isinstance(found["t"].model, str)
    assert found["t"].created_at is None or found["t"].created_at.tzinfo is None


def test_deleting_takes_what_nfinspect_made_and_names_what_stays(store: Path) -> None:
    ours = ["planted.duckdb.wal", "planted.duckdb.heartbeat", "planted.duckdb.heartbeat.77"]
    theirs = ["planted.duckdb.bak", "planted.duckdb.notes.txt", "planted.duckdb.heartbeat.txt", "planted.csv"]
    for name in theirs:
        (store / name).touch()
    results = run_results(store / "planted.duckdb")
    results.mkdir()
    for name in ("delta-0123456789.duckdb", "delta-0123456789.duckdb.wal", "prompts.jsonl", "my-notes.txt"):
        (results / name).touch()
    for name in ours[1:]:
        (store / name).touch()
    left = delete_run(store / "planted.duckdb")
    assert [path.name for path in left] == [*sorted(theirs[:3]), "planted.results"]
    assert [path.name for path in results.iterdir()] == ["my-notes.txt"]
    assert not any((store / name).exists() for name in ours) and (store / "planted.csv").exists()


def test_results_elsewhere_are_not_followed(store: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "delta-0123456789.duckdb").touch()
    run_results(store / "planted.duckdb").symlink_to(elsewhere)
    assert [path.name for path in delete_run(store / "planted.duckdb")] == ["planted.results"]
    assert list(elsewhere.iterdir())
