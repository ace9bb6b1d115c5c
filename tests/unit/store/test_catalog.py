import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from nfinspect_store import catalog
from nfinspect_store.catalog import delete_run, list_runs, new_run_path, run_path, store_path
from nfinspect_store.errors import BadName, NotARun, RunBusy, RunNotFound, StoreError
from nfinspect_store.heartbeat import Heartbeat, heartbeat_path
from nfinspect_store.names import check_name
from nfinspect_store.run_summary import CACHE_NAME


def set_status(path: Path, status: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE run SET status = ?", [status])


def test_store_path_is_the_option_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFINSPECT_STORE", str(tmp_path / "env"))
    assert store_path("given") == Path("given")
    assert store_path(None) == tmp_path / "env"
    monkeypatch.delenv("NFINSPECT_STORE")
    assert store_path(None) == Path("nfinspect-store")


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for attempt in (store_path, list_runs):
        with pytest.raises(StoreError, match="found a file"):
            attempt(file)


def test_a_store_that_is_not_there_holds_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []


def test_runs_are_listed_with_their_facts(store: Path) -> None:
    entries = {entry.name: entry for entry in list_runs(store)}
    assert set(entries) == {"planted", "stats"}
    found = entries["planted"]
    assert (found.status, found.tokens, found.progress, found.problem) == ("complete", 1200, None, None)
    assert found.bytes == (store / "planted.duckdb").stat().st_size
    assert found.created_at is not None


def test_what_is_no_run_is_listed_with_its_problem(store: Path) -> None:
    (store / "text.duckdb").write_text("not a database")
    (store / "empty.duckdb").touch()
    duckdb.connect(str(store / "other.duckdb")).close()
    (store / "notes.txt").write_text("no run, and no claim to be one")
    (store / "folder.duckdb").mkdir()
    entries = {entry.name: entry for entry in list_runs(store)}
    assert set(entries) == {"planted", "stats", "text", "empty", "other"}
    for name in ("text", "empty", "other"):
        assert entries[name].problem and "\n" not in entries[name].problem
        assert entries[name].status == ""


def test_a_warm_listing_opens_no_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list_runs(store)
    assert (store / CACHE_NAME).is_file()
    monkeypatch.setattr(duckdb, "connect", lambda *a, **k: pytest.fail("a file was opened"))
    assert list_runs(store) == first


def test_a_changed_run_is_read_again(store: Path) -> None:
    list_runs(store)
    set_status(store / "planted.duckdb", "failed")
    assert {entry.name: entry.status for entry in list_runs(store)}["planted"] == "failed"


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"version": 2, "runs": []}', '{"version": 2, "runs": {"planted.duckdb": {"file": 1}}}'],
)
def test_a_broken_cache_is_ignored(store: Path, content: str) -> None:
    (store / CACHE_NAME).write_text(content)
    assert {entry.name for entry in list_runs(store)} == {"planted", "stats"}


def test_a_listing_imports_no_database(store: Path) -> None:
    list_runs(store)
    code = (
        "import sys; from pathlib import Path; from nfinspect_store.catalog import list_runs;"
        f"assert len(list_runs(Path({str(store)!r}))) == 2;"
        "assert not {'duckdb', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_capture_that_runs_is_told_by_its_heartbeat(store: Path) -> None:
    path = store / "planted.duckdb"
    Heartbeat(path, model="gpt2").beat(tokens_done=7, tokens_total=70, phase="reading")
    found = next(entry for entry in list_runs(store) if entry.name == "planted")
    assert (found.status, found.model, found.tokens) == ("capturing", "gpt2", 7)
    assert found.progress is not None and found.progress.tokens_total == 70 and found.edits == ""
    Heartbeat(path, model="gpt2", edits="zero L0/N1").beat(tokens_done=7, tokens_total=70, phase="reading")
    assert [entry.edits for entry in list_runs(store) if entry.name == "planted"] == ["zero L0/N1"]
    Heartbeat(store / "coming.duckdb").beat(phase="loading")  # no file yet
    assert {entry.name for entry in list_runs(store)} == {"planted", "stats", "coming"}
    with pytest.raises(RunBusy, match="being captured"):
        run_path(store, "coming")


def test_a_capture_whose_process_is_gone_is_interrupted(store: Path) -> None:
    set_status(store / "planted.duckdb", "capturing")
    heartbeat_path(store / "planted.duckdb").write_text("{}")
    assert {entry.name: entry.status for entry in list_runs(store)}["planted"] == "interrupted"


def test_a_run_is_found_by_name_and_by_path(store: Path, tmp_path: Path) -> None:
    assert run_path(store, "planted") == store / "planted.duckdb"
    assert run_path(tmp_path, str(store / "planted.duckdb")) == store / "planted.duckdb"


@pytest.mark.parametrize("name", ["plantd", "", "x" * 5000, "a\0b", "../planted", "/nowhere/a.duckdb"])
def test_an_unknown_run_names_those_there_are(store: Path, name: str) -> None:
    with pytest.raises(RunNotFound, match="planted"):
        run_path(store, name)


@pytest.mark.parametrize("name", ["gpt2", "a.b", "tulips 2", "việt-nam", "x" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b",
        "a\\b",
        ".hidden",
        "..",
        "-x",
        "~",
        "a\nb",
        "a\x1b",
        "a\u202eb",
        "x" * 129,
        " a",
        "a.duckdb",
    ],
)
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadName, match="run name") as caught:
        new_run_path(tmp_path, name)
    assert caught.value.exit_status == 2


def test_delete_takes_the_companions_and_nothing_else(store: Path) -> None:
    path = store / "planted.duckdb"
    for suffix in (".wal.checkpoint", ".heartbeat.12", ".heartbeat"):
        path.with_name(path.name + suffix).write_text("{}")
    shutil.copy(path, store / "planted.duckdb.copy.duckdb")  # a run of its own
    delete_run(path)
    assert {file.name for file in store.glob("planted*")} == {"planted.duckdb.copy.duckdb"}
    assert (store / "stats.duckdb").exists()


def test_delete_refuses_while_a_capture_writes(store: Path) -> None:
    path = store / "planted.duckdb"
    Heartbeat(path).beat()
    with pytest.raises(RunBusy):
        delete_run(path)
    assert path.exists()


def test_delete_refuses_what_another_process_has_locked(store: Path) -> None:
    path = store / "planted.duckdb"
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None and writer.stdout is not None
    try:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(RunBusy):
            delete_run(path)
        found = next(entry for entry in list_runs(store) if entry.name == "planted")
        assert found.status == "capturing" and found.problem
    finally:
        writer.communicate("")
    assert path.exists()


def test_delete_spares_a_file_that_is_no_run_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "thesis.duckdb"
    file.write_text("years of work")
    with pytest.raises(NotARun, match="--force"):
        delete_run(file)
    assert file.exists()
    delete_run(file, force=True)
    assert not file.exists()


def test_entries_are_frozen(store: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        list_runs(store)[0].name = "other"  # type: ignore[misc]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_is_listed(store: Path) -> None:
    store.chmod(0o500)
    try:
        assert len(list_runs(store)) == 2
    finally:
        store.chmod(0o700)
    assert catalog.companions(store / "planted.duckdb") == []
