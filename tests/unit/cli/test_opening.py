"""What stands on the line decides what opens: the app on a store or a run, a command, or a line that says why not."""

from pathlib import Path
from typing import Any

import click
import pytest

from nfinspect.cli import group


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the stores `runs.d` and `-odd`, and the file `file.txt`."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs.d", "-odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    return tmp_path


@pytest.fixture
def opened(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The stores that the app was opened on, with its options."""
    found: list[tuple[Any, ...]] = []

    def open_app(store: str | None, run: str | None = None, *, ascii_only: bool = False, no_mouse: bool = False) -> int:
        found.append((store, ascii_only, no_mouse))
        return 0

    monkeypatch.setattr(group, "open_app", open_app)
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", (None, False, False)),
        ("runs.d", ("runs.d", False, False)),
        ("./runs.d", ("./runs.d", False, False)),
        ("--store runs.d", ("runs.d", False, False)),
        ("--store=runs.d", ("runs.d", False, False)),
        ("--store -odd", ("-odd", False, False)),
        ("-- runs.d", ("runs.d", False, False)),
        ("--ascii -- -odd", ("-odd", True, False)),
        ("--store runs", ("runs", False, False)),  # the name of a command, where a directory is asked for
        ("--store new", ("new", False, False)),  # a store need not exist yet
        ("--ascii --store runs.d --no-mouse", ("runs.d", True, True)),
        ("--ascii runs.d --no-mouse", ("runs.d", True, True)),
        ("file.txt", ("file.txt", False, False)),  # which store_path refuses as a file
    ],
)
def test_the_app_opens_on_what_is_given(opened: list[tuple[Any, ...]], line: str, expected: tuple[Any, ...]) -> None:
    group.nfinspect.main(line.split(), standalone_mode=False)
    assert opened == [expected]


@pytest.fixture
def runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stores with runs and a training: the usual one and runs.d. What the app was opened on: a store, and a run."""
    (here / "usual").mkdir()
    monkeypatch.setenv("NFINSPECT_STORE", str(here / "usual"))
    for name in ("usual/tulips.duckdb", "usual/runs.duckdb", "usual/loss.history.jsonl", "runs.d/night.duckdb"):
        (here / name).touch()
    (here / "usual/both.duckdb").touch()
    (here / "both").mkdir()
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(group, "open_app", lambda store, run=None, **options: found.append((store, run)))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tulips", (None, "tulips")),
        ("--ascii tulips", (None, "tulips")),
        ("-- tulips", (None, "tulips")),
        ("--store runs.d night", ("runs.d", "night")),
        ("night --store=runs.d", ("runs.d", "night")),
        ("both", ("both", None)),  # a directory comes first
    ],
)
def test_a_run_opens_by_its_name(runs: list[tuple[Any, ...]], line: str, expected: tuple[Any, ...]) -> None:
    group.nfinspect.main(line.split(), standalone_mode=False)
    assert runs == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tulip", "no command, store or run is called 'tulip': did you mean tulips?"),
        ("run", "no command, store or run is called 'run': did you mean runs?"),  # a command, and a run
        ("night", "no command or directory is called 'night'"),
        ("tulips --store runs.d", "no command or directory is called 'tulips'"),
        ("tulips health", "no command or directory is called 'tulips'"),
        ("loss", "loss is a training: nfinspect watch loss shows it"),
        ("tulips --store file.txt", "no command or directory is called 'tulips'"),
    ],
)
def test_a_name_of_no_run_names_those_near(runs: list[tuple[Any, ...]], line: str, expected: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        group.nfinspect.main(line.split(), standalone_mode=False)
    assert expected in caught.value.format_message() and not runs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("./nowhere", "no such directory: ./nowhere"),
        ("/no/where", "no such directory: /no/where"),
        ("~/no-such-place", "no such directory: ~/no-such-place"),
        ("old.d --ascii", "no such directory: old.d"),
        ("some/run.duckdb", "no such run file: some/run.duckdb"),
        ("healht", "did you mean health?"),
        ("healht planted", "did you mean health?"),
        ("--ascii expotr planted", "did you mean export?"),
        ("elephants", "no command or directory is called 'elephants': nfinspect -h"),
        ("elephants planted", "no command or directory is called 'elephants'"),
        ("runs.d health planted", "nfinspect health … --store runs.d"),
        ("runs.d other", "nfinspect runs.d opens it"),
        ("runs.d --store other", "expected one store, found 'runs.d' and --store"),
        ("--store runs.d health planted", "nfinspect health … --store runs.d"),
        ("--ascii health planted", "the app's options take no command after them, found health"),
        ("--store", "--store"),
        ("--stroe runs.d", "--stroe"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_line(opened: list[tuple[Any, ...]], line: str, expected: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        group.nfinspect.main(line.split(), standalone_mode=False)
    said = caught.value.format_message()
    assert expected in said and "\n" not in said and len(said) < 160 and opened == []
    assert said.count("capture") == 0  # not all the commands
