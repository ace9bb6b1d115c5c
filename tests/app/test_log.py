"""The log: for each screen the command that answers the same, and SQL that gives the same rows."""

import json
import shlex
from pathlib import Path

from app_driver import SMALL, Start
from terminal import Terminal

from nfinspect.cli import main
from nfinspect.tui.engine import Engine
from nfinspect.tui.journal import Journal, log_lines
from nfinspect_store.statements import Statement


async def test_every_screen_says_its_command(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted") as app:
        assert "$ nfinspect health planted" in app.text
        for keys, said in (
            (":dead\r", "$ nfinspect neurons planted --class dead --sort max"),
            ("I", "$ nfinspect neurons planted --class dead --sort max --asc"),
            ("\r", "$ nfinspect neuron planted L0/N"),
            (":trace tulip\r", "$ nfinspect trace planted --concept tulip --baseline baseline"),
            (":overlap\r", "$ nfinspect overlap planted --concepts "),
            (":ngrams\r", "$ nfinspect ngrams planted"),
            (":analyses\r", "$ nfinspect info planted --results"),
            (":marks\r", "$ nfinspect marks --run planted --set marked"),
            (":runs\r", "$ nfinspect runs"),
        ):
            await app.type(keys.replace("\r", ""))
            if keys.endswith("\r"):
                await app.press("enter")
            assert said in app.lines[-2], keys
    engine.close()


async def test_a_log_is_repeated_without_a_terminal(start: Start, store: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    engine = Engine(store)
    async with start(engine, "planted", size=(120, 40)) as app:
        await app.type(":dead")
        await app.press("enter")
        await app.type(":trace tulip")
        await app.press("enter", "at")
        assert app.crumbs.endswith("log")
        entries = app.app.journal.entries
        assert [e.text for e in entries if e.kind == "shown"] == [
            f"nfinspect {words} --store {shlex.quote(str(store))}"
            for words in (
                "runs",
                "health planted",
                "neurons planted --class dead --sort max",
                "trace planted --concept tulip --baseline baseline --tokens generated --top 10 --rank difference",
            )
        ]
        pages = [e for e in entries if e.kind == "sql" and e.place == "dead neurons" and "OFFSET 0" in e.text]
        await app.press("c")
        assert "SQL" not in app.text.replace("SQL commands", "")
        await app.press("e")
        await app.press("enter")
        assert "wrote" in app.status
    engine.close()
    capsys.readouterr()
    assert main(["sql", "planted", pages[0].text, "--json", "--store", str(store)]) == 0
    assert [row["class"] for row in json.loads(capsys.readouterr().out)] == ["dead"] * 3
    assert main(["replay", "nfinspect-log.sh", "--store", str(store)]) == 0
    repeated = capsys.readouterr().out
    for words in ("health planted", "neurons planted --class dead", "trace planted --concept tulip"):
        assert main([*words.split(), "--store", str(store)]) == 0
        assert capsys.readouterr().out in repeated


def test_what_a_line_cannot_say_is_a_comment(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.asked("list\x1b[2J", "run", [Statement("SELECT ?", whole=False), Statement("SELECT 'a b'")])
    journal.shown("x", ("neurons", "a\nrm -rf"))
    journal.shown("x", ("neurons", "a\nrm -rf"))
    lines = log_lines(journal.entries)
    assert [line for line in lines if not line.startswith("#")] == [
        shlex.join(["nfinspect", "sql", "run", "SELECT 'a b'", "--store", str(tmp_path)])
    ]
    assert all(line.isprintable() for line in lines)
    assert journal.count == 3
    journal.ran("x", ("ngrams", "run"))
    journal.shown("x", ("ngrams", "run"))
    assert journal.count == 4


def test_the_log_in_a_terminal(store: Path) -> None:
    terminal = Terminal(store, "planted", size=SMALL)
    try:
        terminal.wait_for("Health")
        terminal.wait_for("$ nfinspect health planted")
        terminal.send(":dead\r")
        terminal.wait_for("L0/N0")
        terminal.send("@")
        terminal.wait_for("neurons planted --class dead")
        terminal.send("c")
        terminal.wait_for("commands only")
        terminal.send("\x1b")
        terminal.wait_for("$ nfinspect neurons planted --class dead --sort max")
        terminal.send("?")
        terminal.wait_for("the same")
    finally:
        terminal.close()
