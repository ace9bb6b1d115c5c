"""Marks, notes and sets in the app: kept in the store's file, seen wherever neurons are listed."""

from pathlib import Path

import pytest
from app_driver import SMALL, Start
from terminal import Terminal

from nfinspect_store.addresses import Address
from nfinspect_store.marks import MARKED, Subject
from nfinspect_store.marks_file import FILE, MarksFile, changed

OWNER = "run:id"
"""Of the fake engine's runs."""


async def test_marks_outlive_the_session(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "space", "j", "space")
    assert list(MarksFile(tmp_path).read().members(MARKED, OWNER, "mlp")) == [(0, 0), (0, 2)]
    async with start() as app:
        await app.press("n")
        assert "2 marked" in app.text and app.text.count("●") == 2
        await app.press("space")
        assert "1 marked" in app.text
    assert list(MarksFile(tmp_path).read().members(MARKED, OWNER, "mlp")) == [(0, 2)]


async def test_what_another_process_marks_is_seen(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "space")
        one = changed(Subject("id", "demo", "gpt2"), MARKED, [Address(0, 5, "mlp")], added=True)
        MarksFile(tmp_path).write([one])
        await app.press("O")
        assert "L0/N0" in app.text and "L0/N5" in app.text and app.crumbs.endswith("2 marked")


async def test_a_set_is_named_listed_filtered_and_cleared(start: Start, tmp_path: Path) -> None:
    async with start(size=SMALL) as app:
        await app.press("n", "space", "space", "O", "m")
        await app.type("hot")
        await app.press("enter")
        assert "@hot holds 2 neurons" in app.status
        await app.press("d", "y")
        assert app.crumbs.endswith("0 marked") and "nothing marked" in app.text
        await app.press("colon")
        await app.type("@hot")
        await app.press("enter")
        assert app.crumbs.endswith("@hot") and "L0/N1" in app.text
        await app.press("y")
        assert (tmp_path / "state/nfinspect/clipboard.txt").read_text() == "L0/N0\nL0/N1"
        await app.press("e", "enter")
        assert (tmp_path / "demo-hot.txt").read_text() == "L0/N0\nL0/N1\n"
        await app.press("j", "space")
        assert "L0/N1" not in app.text
        await app.press("colon")
        await app.type("marks")
        await app.press("enter", "v")
        assert "@hot" in app.text
        await app.press("escape", "colon")
        await app.type("@no such")
        await app.press("enter")
        assert "a set is named by" in app.status
        await app.press("colon")
        await app.type("@cold")
        await app.press("enter")
        assert app.status == "no set @cold: this run has @hot"


async def test_one_neuron_is_one_and_the_line_names_its_set(start: Start, tmp_path: Path) -> None:
    async with start(size=SMALL) as app:
        await app.press("n", "space", "O")
        assert "@marked 1 neuron of mlp" in app.text and "of 1 marked neuron in the top 10" in app.text
        assert "$ nfinspect marks --run demo --set marked" in app.text
        await app.press("m")
        await app.type("h")
        await app.press("enter")
        assert app.status == "@h holds 1 neuron: :@h lists it, filters and commands take @h"
        assert " notes " in app.text and "#h" in app.text


async def test_notes_and_tags_are_written_and_seen_in_lists(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "enter", "N")
        await app.type("tulips \x1b[31m")
        await app.press("enter", "#")
        await app.type("flower, red")
        await app.press("enter")
        assert "#flower #red  tulips" in app.text
        await app.press("#", "end", *["backspace"] * 4, "enter", "escape")
        assert "#flower  tulips" in app.text and "notes" in app.text
        assert app.text.count("tulips") == 1
    found = MarksFile(tmp_path).read()
    assert found.tags(OWNER, "mlp", (0, 0)) == ("flower",) and "tulips" in found.note(OWNER, "mlp", (0, 0))


async def test_a_strangers_file_costs_the_keeping_only(start: Start, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("my own list\n")
    async with start() as app:
        await app.press("n", "space", "space")
        assert "of this session only" in app.status or "2 marked" in app.status
        await app.press("O")
        assert "L0/N1" in app.text and "of this session only" in " ".join(app.text.split())
        assert "found another file" in " ".join(app.text.split())
    assert (tmp_path / FILE).read_text() == "my own list\n"


async def test_keys_act_on_all_marked(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "y")
        assert (tmp_path / "state/nfinspect/clipboard.txt").read_text() == "L0/N0"
        await app.press("space", "space", "y")
        assert (tmp_path / "state/nfinspect/clipboard.txt").read_text() == "L0/N0\nL0/N1"
        await app.press("e")
        assert "demo-marked.csv" in app.text


@pytest.mark.slow
def test_marks_of_a_real_terminal(store: Path) -> None:
    """At 80x24: marked, named, quit at once, there again."""
    terminal = Terminal(store, "planted")
    try:
        terminal.wait_for("Health")
        terminal.settle()
        terminal.send("n")
        terminal.wait_for("neurons by max")
        terminal.settle()
        terminal.send("  O")
        terminal.wait_for("2 marked")
        terminal.send("mhot\r")
        terminal.wait_for("@hot holds 2 neurons")
        terminal.send("q")
        assert terminal.process.wait(timeout=10) == 0
    finally:
        terminal.close()
    terminal = Terminal(store, "planted")
    try:
        terminal.wait_for("Health")
        terminal.settle()
        terminal.send(":@hot\r")
        terminal.wait_for("v @hot 2 neurons of mlp")
        terminal.send("n")
        terminal.wait_for("2 marked")
        terminal.settle()
        terminal.send("/@hot\r")
        terminal.wait_for("2 neurons by max")
    finally:
        terminal.close()
