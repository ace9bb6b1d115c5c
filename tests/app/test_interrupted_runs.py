"""A run whose capture was interrupted says how it goes on: in the list of runs, above its layers, and at one key."""

import json
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from app_driver import Start

from nfinspect.backend.protocol import JobState
from nfinspect.tui.captures import Captures, resuming
from nfinspect.tui.engine import Engine

COMMAND = ["capture", "gpt2", "--prompts", "the prompts.json", "--generate", "8"]


def interrupt(path: Path, command: Any, directory: Any, **told: Any) -> None:
    """Leave the run as a capture does that was interrupted."""
    settings = json.dumps({"command": command, "directory": directory, **told})
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE run SET status = 'interrupted', settings = ?", [settings])


@pytest.fixture
def engine(store: Path) -> Iterator[Engine]:
    with closing(Engine(store)) as opened:
        yield opened


@pytest.fixture
def line(store: Path) -> str:
    """Of the run `planted`, which is interrupted here."""
    interrupt(store / "planted.duckdb", COMMAND, str(Path.cwd()))
    return shlex.join(["nfinspect", *COMMAND, "--store", str(store.resolve()), "--run", "planted", "--resume"])


async def test_the_list_of_runs_says_how_it_goes_on(start: Start, engine: Engine, store: Path, line: str) -> None:
    async with start(engine, None, size=(200, 50)) as app:
        while app.pane.table.current.name != "planted":
            await app.press("j")
        assert "interrupted: p, then r goes on with it" in app.text and f"$ {line}"[:190] in app.text
        await app.press("p")
        assert app.status == "not all was captured; r resumes it here"
        assert app.text.count("planted is interrupted; what it had committed is kept") == 1
        await app.press("y")
        assert app.app.clipboard == line


async def test_the_command_of_a_file_is_run_only_after_a_yes(
    start: Start, engine: Engine, store: Path, line: str
) -> None:
    async with start(engine, None) as app:
        app.app.follow("planted")
        await app.settle()
        await app.press("r")
        assert "Run what the file of this run says? nfinspect capture gpt2" in " ".join(app.text.split())
        await app.press("n")
        assert not app.pane.busy_with and app.app.engine.captures.statuses() == ()


async def test_the_layers_of_the_run_say_it_too(start: Start, engine: Engine, store: Path, line: str) -> None:
    async with start(engine, "planted") as app:
        assert ":live, then r goes on: $ nfinspect capture gpt2 --prompts" in app.text


@pytest.mark.parametrize(
    ("command", "directory"),
    [
        (["rm", "-rf", "x"], "/"),
        ("capture gpt2", "/"),
        (["capture"], "/"),
        (["capture", 1], "/"),
        (COMMAND, 7),
        (None, None),
    ],
)
def test_what_is_no_capture_is_not_told(store: Path, command: Any, directory: Any) -> None:
    interrupt(store / "planted.duckdb", command, directory)
    assert Captures(store).resume_line("planted") == ""


def test_a_complete_run_has_nothing_to_go_on_with(store: Path) -> None:
    assert Captures(store).resume_line("planted") == ""


def test_a_line_for_another_folder_goes_there_first(store: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Path.cwd()
    monkeypatch.chdir(store)
    assert Captures(store).resume_line("planted") == f"cd {shlex.quote(str(there))} && {line}"


LIMITED = [*COMMAND, "--limit-bytes", "7M", "--seed", "1"]


@pytest.fixture
def raised(store: Path) -> str:
    """How the run `planted` goes on, which has reached its limit."""
    interrupt(store / "planted.duckdb", LIMITED, str(Path.cwd()), limit_needed="13M")
    words = [*COMMAND, "--seed", "1", "--store", str(store.resolve()), "--limit-bytes", "13M"]
    return shlex.join(["nfinspect", *words, "--run", "planted", "--resume"])


async def test_a_run_that_reached_its_limit_goes_on_with_a_larger_one(
    start: Start, engine: Engine, store: Path, raised: str
) -> None:
    async with start(engine, None, size=(200, 50)) as app:
        app.app.follow("planted")
        await app.settle()
        assert "planted has reached its --limit-bytes, and needs 13M for all of it" in app.text
        assert app.status.endswith("r resumes it here with --limit-bytes 13M")
        await app.press("y")
        assert app.app.clipboard == raised == Captures(store).resume_line("planted")
        await app.press("r")
        assert "--limit-bytes 13M --run planted --resume" in " ".join(app.text.split())
        await app.press("n")
        assert app.app.engine.captures.statuses() == ()


def test_the_capture_of_a_backend_is_told_the_limit_it_needs(store: Path) -> None:
    interrupt(store / "planted.duckdb", LIMITED, str(Path.cwd()), limit_needed="13M")
    captures, path = Captures(store), str(store / "planted.duckdb")
    for limit in (("--limit-bytes=7M",), ("--limit-bytes", "7M")):
        captures.remember(JobState(3, ("capture", "m", *limit, "--run", "planted"), ".", "failed", run=path, line="x"))
        left = captures.left("planted")
        assert left is not None and left.needed == "13M"
        assert resuming(left.job) == ("capture", "m", "--run", "planted", "--limit-bytes", "13M", "--resume")
    captures.remember(JobState(3, ("capture", "m", "--run", "planted"), ".", "failed", run=path))
    left = captures.left("planted")
    assert left is not None and not left.needed and resuming(left.job)[-1] == "--resume"


@pytest.mark.parametrize("told", [7, "13M; rm -rf x", "", "\x1b[31m13M", None, ["13M"]])
def test_a_limit_that_is_none_is_not_told(store: Path, told: Any) -> None:
    interrupt(store / "planted.duckdb", LIMITED, str(Path.cwd()), limit_needed=told)
    assert "--limit-bytes 7M" in Captures(store).resume_line("planted")
