"""Two runs neuron by neuron in the app: what the command tells, sorted, filtered, opened, and refused."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_driver import SIZES, Start
from numpy.typing import NDArray
from test_making_analyses import go

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.tui.engine import Engine
from nfinspect.tui.panes import diff
from nfinspect.tui.places import place
from nfinspect_store.types import Layer

PROMPTS, LENGTH, NEURONS = 10, 40, 12


def write(store: Path, name: str, dead: tuple[int, ...], rare: tuple[int, ...] = (), neurons: int = NEURONS,
          first: int = 0, sites: tuple[str, ...] = ("mlp",)) -> None:  # fmt: skip
    """Every neuron fires on half of the tokens, `rare` ones on a tenth, dead ones on none; texts begin with `first`."""
    store.mkdir(exist_ok=True)

    def values(prompt: int, layer: Layer) -> NDArray[np.float32]:
        found = np.random.default_rng((prompt, 1)).random((LENGTH, neurons)).astype(np.float32) + 0.5
        found[::2] = 0
        found[np.ix_(np.arange(LENGTH) % 10 != 1, list(rare))] = 0
        found[:, list(dead)] = 0
        return found

    ids = range(first, first + LENGTH)
    prompts = [ArrayPrompt("one", "text", list(ids), [f" {x}" for x in ids], LENGTH) for _ in range(PROMPTS)]
    layers = [Layer(i, site, 0, f"h.0.{site}", neurons, "relu", "positive") for i, site in enumerate(sites)]
    write_run(store / f"{name}.duckdb", layers=layers, prompts=prompts, values=values)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    write(path, "before", dead=(0, 1), sites=("mlp", "attn"))
    write(path, "after", dead=(1, 2, 3), rare=(4,), sites=("mlp", "attn"))
    write(path, "narrow", dead=(), neurons=7)
    write(path, "elsewhere", dead=(1,), first=90)
    return path


def shown(app: object) -> list[tuple[str, str]]:
    table = app.pane.table  # type: ignore[attr-defined]
    return [(table.row_at(i).address, table.row_at(i).change) for i in range(table.total)]


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "200x50"])
async def test_who_died_woke_and_moved(start: Start, store: Path, size: tuple[int, int]) -> None:
    async with start(Engine(store), None, size=size) as app:
        await go(app, "diff before after")
        assert shown(app) == [("L0/N0", "woke"), ("L0/N2", "died"), ("L0/N3", "died"), ("L0/N4", "moved")]
        words = " ".join(app.text.split())
        told = "A before (400 tokens), B after (400 tokens) at mlp: 12 neurons, 2 died, 1 woke, 1 moved"
        assert told in words and "before: only 400 tokens: a neuron that is dead on all of them may" in words
        line = next(line for line in app.lines if "L0/N4" in line)
        assert "50.0%" in line and "10.0%" in line
        assert "›" not in next(line for line in app.lines if "class in A" in line), "every column is on screen"
        await app.press("slash")
        await app.type("change=died")
        await app.press("enter")
        assert shown(app) == [("L0/N2", "died"), ("L0/N3", "died")]
        assert "2 of 4 where change=died" in " ".join(app.text.split())
        await app.press("I", "s")
        await app.press("escape", "slash", "backspace", "enter")
        await app.press("full_stop")
        assert shown(app)[0] == ("L0/N0", "woke"), "sorted by the first column"
        await app.press("j", "enter")
        assert app.crumbs.endswith("diff before after > L0/N2")
        await app.press("escape")
        assert "nfinspect diff before after --top 0" in app.lines[-2]
        await app.press("enter")
        assert app.pane.session.name == "after" and "L0/N2 dead" in app.text
        await app.press("J")
        assert app.crumbs.endswith("L0/N3"), "J goes along the list"


async def test_around_site_copy_and_export(start: Start, store: Path, tmp_path: Path) -> None:
    async with start(Engine(store), None) as app:
        await go(app, "diff before,after")
        await app.press("X")
        assert app.crumbs.endswith("diff after before") and ("L0/N2", "woke") in shown(app)
        await app.press("S")
        assert "at attn: 12 neurons" in " ".join(app.text.split())
        await app.press("enter")
        assert app.crumbs.endswith("attn:L0/N0")
        await app.press("escape", "y")
        copied = (tmp_path / "state/nfinspect/clipboard.txt").read_text().splitlines()
        assert copied[0].startswith("neuron\tchange\tclass_a") and copied[1].startswith("L0/N0\tdied\tnormal\tdead")
        await app.press("e", "enter")
        assert app.status == f"wrote diff-after-before.json: {len(shown(app))} rows"
        document = json.loads((tmp_path / "diff-after-before.json").read_text())
        assert (document["a"], document["died"], document["woke"]) == ("after", 1, 2)
        every = len(document["neurons"])
        await app.press("slash")
        await app.type("change=died")
        await app.press("enter", "e")
        await app.type("died.json")
        await app.press("enter")
        assert app.status == f"wrote died.json: 1 of {every} rows where change=died"
        document = json.loads((tmp_path / "died.json").read_text())
        assert [row["neuron"] for row in document["neurons"]] == [0] and document["woke"] == 2


async def test_what_cannot_be_compared_says_why(start: Start, store: Path) -> None:
    async with start(Engine(store), None) as app:
        await go(app, "diff before narrow")
        assert "before has 12 neurons, narrow has 7" in " ".join(app.text.split())
        assert "T compares them" not in app.text
        await app.press("T", "y", "e")
        assert shown(app) == [] and "nothing to export" in app.status
        await go(app, "diff before elsewhere")
        assert "read other texts" in app.text and "(T compares them all the same)" in " ".join(app.text.split())
        await app.press("T")
        assert shown(app) == [("L0/N0", "woke")]
        assert "read other texts and are of two models" in " ".join(app.text.split())
        await go(app, "diff before absent")
        assert "absent cannot be opened" in app.text
        await go(app, "diff before before")
        assert "expected two different runs, as in diff A B" in app.status


async def test_the_site_that_both_have_is_one_key_away(start: Start, store: Path) -> None:
    write(store, "attention", dead=(0,), sites=("attn",))
    async with start(Engine(store), None) as app:
        await go(app, "diff before attention")
        words = " ".join(app.text.split())
        assert "attention has no site mlp, only attn; both have attn: choose it with S" in words and "--" not in words
        await app.press("S")
        assert shown(app) == [("L0/N1", "woke")] and app.lines[0].rstrip().endswith("attn")
        assert "nfinspect diff before attention --top 0 --site attn" in app.lines[-2]
        await app.press("S")
        assert app.status == "the runs have no other site in common"


async def test_a_run_that_is_closed_meanwhile_is_opened_again(
    start: Start, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, go_on = diff.open_runs, threading.Event()

    def slowly(*given: Any) -> Any:
        go_on.wait(60)
        return opened(*given)

    async with start(Engine(store), "before") as app:
        monkeypatch.setattr(diff, "open_runs", slowly)
        try:
            app.app.into(place("diff", "before", "after"))
            while not any(work.group == "opened" for work in app.pane.asked):
                await app.pilot.pause(0.002)
            app.app.sessions.pop("before").close()
        finally:
            go_on.set()
        await app.settle()
        assert len(shown(app)) == 4 and {"before", "after"} <= set(app.app.sessions)


async def test_from_two_marked_runs_and_from_an_open_one(start: Start, store: Path) -> None:
    async with start(Engine(store), None) as app:
        table = app.pane.table
        for name in ("before", "after"):
            table.move_to(next(i for i in range(table.total) if table.row_at(i).name == name))
            await app.press("space")
        await app.press("O", "d")
        assert app.crumbs.split(" > ")[-1] in ("diff before after", "diff after before")
        assert len(shown(app)) == 4
    async with start(Engine(store), "before") as app:
        await go(app, "diff after")
        assert app.crumbs.endswith("diff before after")


async def test_neurons_are_marked_in_the_second_run_and_filtered_by_their_set(start: Start, store: Path) -> None:
    async with start(Engine(store), None) as app:
        await go(app, "diff before after")
        await app.press("space", "space")
        assert app.status == "2 marked in after; O lists them"
        assert sum("●" in line for line in app.lines) == 2
        await app.press("slash")
        await app.type("@marked and change=died")
        await app.press("enter")
        assert shown(app) == [("L0/N2", "died")]
        await app.press("slash")
        await app.type("@nobody")
        await app.press("enter")
        assert app.status == "no set @nobody: this run has @marked"
        await app.press("O")
        assert app.crumbs.endswith("2 marked") and "L0/N0" in app.text and "L0/N2" in app.text
