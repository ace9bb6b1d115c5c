"""Whatever a run, a name or an error holds: no command sends a terminal what it would obey, and nothing is forged."""

import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run
from hostile import HOSTILE, UNSAFE, poison, spoken

from nfinspect import output
from nfinspect.present.tables import Column, table, wrapped

COMMANDS = [
    ("runs",),
    ("info", "planted"),
    ("verify", "planted"),
    ("health", "planted"),
    ("neurons", "planted"),
    ("neuron", "planted", "L1/N5"),
    ("neuron", "planted", "resid:L1/N5"),
    ("trace", "planted", "--concept", spoken()),
    ("trace", "planted", "--concept", spoken() + "tulip", "--baseline", spoken() + "baseline"),
    ("overlap", "planted", "--concepts", f"{spoken()}tulip,{spoken()}vietnam"),
    ("overlap", "planted", "--kinds", "dead,positional"),
    ("ngrams", "planted"),
    ("positions", "planted"),
    ("delta", "planted"),
    ("sql", "planted", "FROM run"),
    ("sql", "planted", "FROM layers"),
    ("sql", "planted", "FROM prompts"),
    ("sql", "planted", "FROM tokens", "--format", "json"),
    ("sql", "planted", f"SELECT '{spoken()}' AS \"{spoken()}\", ['{spoken()}']"),
    ("sql", "planted", f"EXPLAIN SELECT * FROM tokens WHERE token = '{spoken()}'"),
    ("sql", "planted", f"SELECT {spoken()}"),
    ("export", "planted", "--out", "exported", "--formats", "parquet"),
    ("info", spoken()),
    ("health", "planted", "--site", spoken()),
    ("neurons", "planted", "--class", spoken()),
    ("neurons", "planted", "--filter", spoken()),
    ("neuron", "planted", spoken()),
    ("watch", spoken()),
    ("capture", spoken(), "--prompts", spoken()),
    ("runs", "--store", spoken()),
    (spoken(), "--help"),
    (f"--{spoken()}",),
    ("runs", f"--{spoken()}"),
    ("neurons", "planted", "--top", spoken()),
    ("sql", "planted", "FROM run", "--format", spoken()),
]


@pytest.fixture
def poisoned(store: Path) -> Path:
    poison(store / "planted.duckdb")
    (store / f"{spoken().replace('/', '-')[:60]}.duckdb").write_bytes(b"no run")
    (store / f"{spoken().replace('/', '-')[:60]}.history.jsonl").write_text("{}")
    return store


DEBUG = [
    ("--debug", "info", spoken()),
    ("--debug", "neurons", "planted", "--filter", spoken()),
    ("--debug", "sql", "planted", f"SELECT {spoken()}"),
    ("--debug", f"--{spoken()}"),
]


def test_no_command_obeys(nfinspect: Run, poisoned: Path) -> None:
    said = 0
    for arguments in COMMANDS + DEBUG:
        done = nfinspect(*arguments)
        for stream in (done.stdout, done.stderr):
            assert not UNSAFE.search(stream), (arguments, ascii(UNSAFE.search(stream)), ascii(stream[:500]))
            said += stream.count("␛]0;pwned␇")
        assert not any(line.startswith("PROBLEM forged") for line in done.stdout.splitlines()), arguments
    assert said > 20, "what is hidden is shown"


def test_what_a_pipe_gets_is_data_and_what_a_terminal_gets_is_not(process: Run, poisoned: Path) -> None:
    query = ("sql", "planted", "SELECT text FROM prompts LIMIT 1", "--format", "csv")
    assert "\x1b]0;pwned\x07\x1b[2J\x9b31m" in process(*query).stdout
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "nfinspect", *query],
        stdout=slave,
        stderr=slave,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NFINSPECT_STORE": str(poisoned), "PYTHONIOENCODING": "utf-8"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        shown += more
    assert child.wait(timeout=60) == 0
    os.close(master)
    text = shown.decode().replace("\r\n", "\n")
    assert "pwned" in text
    assert not UNSAFE.search(text), ascii(text)


@pytest.mark.parametrize(
    "write",
    [
        output.line,
        output.note,
        lambda text: output.lines([text]),
        lambda text: output.lines(table([Column(text, text=True), Column("x")], [(text, 1), (text * 9, 2)], 40)),
        lambda text: output.lines(wrapped(text, "  ")),
        lambda text: output.ProgressLine().show(text, 0.0),
        lambda text: output.document({text: [text]}),
        lambda text: print(text),  # noqa: T201 (as a library would)
        lambda text: print(text, file=sys.stderr),  # noqa: T201
        lambda text: sys.stdout.writelines([text]),
        lambda text: logging.StreamHandler().emit(logging.makeLogRecord({"msg": text})),
    ],
)
def test_whoever_writes_is_shown(write: Callable[[str], object], capsys: pytest.CaptureFixture[str]) -> None:
    with output.shown_streams():
        write(HOSTILE)
    shown = "".join(capsys.readouterr())
    assert "pwned" in shown
    assert not UNSAFE.search(shown), ascii(shown)


def test_lines_that_are_drawn_anew_hold_no_movement_but_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    screen = output.Redrawn()
    screen.show([HOSTILE])
    screen.show([HOSTILE * 2])
    shown = capsys.readouterr().out
    for own in ("\x1b[1A\r", "\x1b[K", "\x1b[J"):
        shown = shown.replace(own, "")
    assert "pwned" in shown
    assert not UNSAFE.search(shown), ascii(shown)


def test_a_progress_line_stays_within_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    line = output.ProgressLine()
    line.show("漢" * 100, 0.0)
    line.show("short", 1.0)
    drawn = capsys.readouterr().err.split("\r")
    assert [output.cells(text) for text in drawn] == [0, 38, 38]
