"""A log of the app, repeated: what it prints is what its commands print, and what it may not do."""

from pathlib import Path

import pytest
from command_line import Run


def log(folder: Path, *lines: str) -> str:
    path = folder / "log.sh"
    path.write_text("\n".join(["#!/bin/sh", "# a comment", "", *lines]) + "\n", encoding="utf-8")
    return str(path)


def test_it_prints_what_its_commands_print(nfinspect: Run, tmp_path: Path) -> None:
    alone = nfinspect("neurons", "planted", "--class", "dead", "--json").stdout
    asked = nfinspect("sql", "planted", "SELECT 'it''s', count(*) FROM neurons").stdout
    path = log(
        tmp_path,
        "nfinspect neurons planted --class dead --json",
        "nfinspect sql planted 'SELECT '\"'\"'it'\"'\"''\"'\"'s'\"'\"', count(*) FROM neurons'",
    )
    done = nfinspect("replay", path)
    assert (done.returncode, done.stdout) == (0, alone + asked)
    assert "$ nfinspect neurons planted --class dead --json\n" in done.stderr
    assert nfinspect("replay", path, "--no-sql").stdout == alone
    assert nfinspect("replay", path, "--print").stdout == ""


def test_a_store_can_be_another_one(nfinspect: Run, store: Path, tmp_path: Path) -> None:
    path = log(tmp_path, "nfinspect info planted --json --store /nowhere/at/all")
    assert nfinspect("replay", path).returncode == 1
    assert nfinspect("replay", path, "--store", str(store)).stdout == nfinspect("info", "planted", "--json").stdout


def test_the_store_stands_before_what_follows_the_options(nfinspect: Run, store: Path, tmp_path: Path) -> None:
    given = "nfinspect generate ./m --store=/other --new-tokens 3 -- '-5 --store is'"
    done = nfinspect("replay", log(tmp_path, given), "--print", "--store", str(store))
    assert done.stderr == f"$ nfinspect generate ./m --new-tokens 3 --store {store} -- '-5 --store is'\n"


def test_a_command_that_fails_does_not_end_it(nfinspect: Run, tmp_path: Path) -> None:
    done = nfinspect("replay", log(tmp_path, "nfinspect info nobody", "nfinspect info planted --json"))
    assert done.returncode == 1
    assert done.stdout == nfinspect("info", "planted", "--json").stdout
    assert done.stderr.endswith("1 of 2 commands failed\n")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rm -rf /tmp/x", "expected a command of nfinspect, found 'rm -rf /tmp/x'"),
        ("nfinspect", "expected a command of nfinspect"),
        ("nfinspect 'info", "this command cannot be read"),
        ("nfinspect delete planted --yes", "a log does not repeat delete: it deletes a run"),
        ("nfinspect replay log.sh", "a log does not repeat replay"),
        ("nfinspect backend gpt2", "a log does not repeat backend: it does not end by itself"),
        ("nfinspect sql planted 'SELECT 1' --format csv --out=x", "a log does not repeat a command with --out"),
        ("nfinspect marks --run planted --note L0/N1 ''", "a log does not repeat a command with --note"),
        ("nfinspect capture ./theirs --allow-pickle", "a log does not repeat a command with --allow-pickle"),
        ("nfinspect export planted", "a log does not repeat export: it writes files"),
        ("nfinspect sql planted -", "a log does not repeat statements that are typed"),
        ("nfinspect watch training", "a log repeats watch with --once only"),
        ("nfinspect --store x delete planted", "expected a command of nfinspect, found"),
    ],
)
def test_anything_else_is_refused_before_the_first_line_runs(
    nfinspect: Run, store: Path, tmp_path: Path, line: str, why: str
) -> None:
    done = nfinspect("replay", log(tmp_path, "nfinspect info planted", line))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"line 5: {why}" in done.stderr
    assert (store / "planted.duckdb").exists()


def test_a_file_that_is_no_log(nfinspect: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    assert nfinspect("replay", "x").stderr.startswith("nfinspect: cannot read the log x: ")
    assert nfinspect("replay", "gone").stderr == "nfinspect: cannot read the log gone: No such file or directory\n"
