"""Going places: breadcrumbs, history, go-to, help, palette, remapped keys."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_driver import Start
from fake_engine import FakeEngine, FakeSession
from textual.binding import Binding

from nfinspect.tui import trail
from nfinspect.tui.app import BUSY_SECONDS, NfinspectApp
from nfinspect.tui.bindings import binding_ids
from nfinspect.tui.help import HelpScreen
from nfinspect.tui.jobs import LONGEST
from nfinspect.tui.navigate import ANALYSES, WORDS, parse_target
from nfinspect.tui.panes.base import Pane, Work
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect_store.errors import RequestError


async def test_enter_in_and_esc_out(start: Start) -> None:
    async with start() as app:
        await app.press("enter", "enter")
        assert app.crumbs == "nfinspect > demo > neurons of L0 > L0/N0"
        await app.press("escape", "escape", "escape", "escape")
        assert app.crumbs == "nfinspect"


async def test_back_and_forward_find_the_place_as_it_was(start: Start) -> None:
    async with start() as app:
        await app.press("n", "j", "j", "escape", "left_square_bracket")
        assert app.crumbs.endswith("neurons")
        assert app.pane.table.cursor == 2
        await app.press("right_square_bracket")
        assert app.crumbs == "nfinspect > demo"
        await app.press("right_square_bracket")
        assert app.status == "no later place"


@pytest.mark.parametrize(
    ("typed", "crumbs"),
    [
        ("L3/N7", "nfinspect > demo > L3/N7"),
        ("resid:L1/N4", "nfinspect > demo > resid:L1/N4"),
        ("L2", "nfinspect > demo > neurons of L2"),
        ("dead", "nfinspect > demo > dead neurons"),
        ("trace hanoi", "nfinspect > demo > trace hanoi"),
        ("overlap", "nfinspect > demo > overlap"),
        ("sql", "nfinspect > demo > sql"),
        ("layers", "nfinspect > demo"),
        ("runs", "nfinspect"),
    ],
)
async def test_go_to(start: Start, typed: str, crumbs: str) -> None:
    async with start() as app:
        await app.press("n", "colon")
        await app.type(typed)
        await app.press("enter")
        assert app.crumbs == crumbs


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("L9/N1", "no layer L9 at mlp: this run has L0 to L3"),
        ("L1/N40000", "no neuron N40000 in L1: it has N0 to N39999"),
        ("attn:L1/N0", "no site 'attn': this run has mlp, resid"),
        ("L1/Nx", "a neuron is written L5/N123 or resid:L11/N447; found 'L1/Nx'"),
        ("trace nobody", "no concept 'nobody': this run has tulip, vietnam, hanoi, baseline"),
        ("[/red]", "a neuron is written L5/N123 or resid:L11/N447; found '[/red]'"),
    ],
)
async def test_a_bad_address_is_a_line(start: Start, typed: str, line: str) -> None:
    async with start() as app:
        await app.press("colon")
        await app.type(typed)
        await app.press("enter")
        assert app.status == line
        assert app.crumbs == "nfinspect > demo"


async def test_go_to_without_a_run(start: Start) -> None:
    async with start(run=None) as app:
        await app.press("colon")
        await app.type("L1/N2")
        await app.press("enter")
        assert app.status.startswith("open a run first")


def test_targets_say_what_is_expected() -> None:
    with pytest.raises(RequestError, match="expected L12/N3071"):
        parse_target("nowhere")


async def test_help_is_made_from_the_bindings(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("n", "question_mark")
        assert isinstance(app.app.screen, HelpScreen)
        text = app.app.screen._text.plain
        for binding in ("neurons.filter", "run.trace", "app.goto", "table.down"):
            assert binding in text
        await app.press("escape")
        assert app.crumbs.endswith("neurons")


async def test_keys_are_remapped_by_id(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "config/nfinspect/keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text(json.dumps({"run.trace": "ctrl+t", "no.such": "x"}))
    async with start() as app:
        assert "no binding has the id 'no.such'" in app.status
        await app.press("t")
        assert app.crumbs == "nfinspect > demo"
        await app.press("ctrl+t")
        assert app.crumbs.endswith("trace tulip")


@pytest.mark.parametrize(
    ("keymap", "told"),
    [
        ({"run.trace": "n"}, "n is both run.trace and run.neurons: it does run.trace"),
        ({"run.trace": "j"}, "j is both run.trace and table.down: it does table.down"),
        ({"neurons.filter": "f", "neurons.layer": "slash,f"}, "f is both neurons.filter and neurons.layer: it does"),
        ({"app.log": "w"}, "w is both app.log and run.walk: it does run.walk"),
        ({"run.trace": "f9", "run.overlap": "t"}, ""),
        ({"neurons.filter": "slash,f", "runs.filter": "f"}, ""),
    ],
)
async def test_a_key_that_is_given_twice_is_told(
    start: Start, tmp_path: Path, keymap: dict[str, str], told: str
) -> None:
    keys = tmp_path / "config/nfinspect/keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text(json.dumps(keymap))
    async with start(run=None) as app:
        assert told in app.status and bool(told) == bool(app.status)


@pytest.mark.parametrize(
    ("keys", "told", "works"),
    [
        ("ctrl+shfit+q", "run.trace: there is no key 'ctrl+shfit+q'", "t"),
        ("foo", "run.trace: there is no key 'foo'", "t"),
        ("shift+ctrl+f9", "run.trace: there is no key 'shift+ctrl+f9'", "t"),
        ("Esc, f9", "run.trace: there is no key 'Esc'", "f9"),
        ("solidus", "run.trace: there is no key 'solidus'", "t"),
        ("f9,%", "", "percent_sign"),
    ],
)
async def test_a_key_that_there_is_not_is_told(start: Start, tmp_path: Path, keys: str, told: str, works: str) -> None:
    file = tmp_path / "config/nfinspect/keys.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"run.trace": keys}))
    async with start() as app:
        assert told in app.status and bool(told) == bool(app.status)
        await app.press(works)
        assert app.crumbs.endswith("trace tulip")


def test_every_key_of_the_app_is_one(tmp_path: Path) -> None:
    from nfinspect.tui.app import NfinspectApp
    from nfinspect.tui.bindings import known_bindings
    from nfinspect.tui.keymap import is_key

    places = known_bindings(NfinspectApp).places
    classes = {base for place in places for cls in place for base in cls.__mro__}
    listed = [binding for cls in classes for binding in cls.__dict__.get("BINDINGS", ())]
    keys = {key for binding in listed if hasattr(binding, "id") for key in binding.key.split(",")}
    assert {"slash", "ctrl+r", "f2", "G"} < keys
    assert [key for key in keys if not is_key(key)] == []


async def test_the_key_does_what_is_told_of_it(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "config/nfinspect/keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text(json.dumps({"run.trace": "n"}))
    async with start() as app:
        await app.press("n")
        assert app.crumbs.endswith("trace tulip")


async def test_a_broken_keys_file_is_a_line(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "config/nfinspect/keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text("{")
    async with start(run=None) as app:
        assert "is not JSON" in app.status


def test_every_binding_has_an_id_and_no_terminal_trap() -> None:
    from textual.binding import Binding

    from nfinspect.tui import app, chrome, dialogs
    from nfinspect.tui import help as help_screen
    from nfinspect.tui.panes import choices, layers, neuron, neurons, overlap, run_pane, runs, sql, trace
    from nfinspect.tui.widgets import paged_table, sql_editor, text_panel

    traps = {f"ctrl+{c}" for c in "abshijm"}
    modules = (
        app,
        chrome,
        dialogs,
        help_screen,
        choices,
        layers,
        neuron,
        neurons,
        run_pane,
        overlap,
        runs,
        sql,
        trace,
    )
    seen = 0
    for module in (*modules, paged_table, sql_editor, text_panel):
        for thing in vars(module).values():
            if isinstance(thing, type) and thing.__module__ == module.__name__:
                for binding in thing.__dict__.get("BINDINGS", ()):
                    assert isinstance(binding, Binding)
                    assert binding.id, binding
                    assert not traps & {key.strip() for key in binding.key.split(",")}, binding
                    seen += 1
    assert seen > 80


async def test_the_palette_lists_what_can_be_done_here(start: Start) -> None:
    async with start() as app:
        names = [c.title for c in app.app.get_system_commands(app.app.screen)]
        assert {"Neurons", "Trace", "Overlap", "SQL", "Help", "Quit"} <= set(names)
        await app.press("ctrl+p")
        assert "find a command" in app.text
        await app.type("overl")
        await app.press("enter")
        assert app.crumbs.endswith("overlap")


async def test_panes_that_no_history_holds_are_removed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start(FakeEngine()) as app:
        monkeypatch.setattr(trail, "KEPT", 4)
        for _ in range(4):
            await app.press("o", "escape")
        assert len(app.app.screen.query("OverlapPane")) <= 2


def test_every_binding_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs/keys.md").read_text(encoding="utf-8")
    missing = [name for name in binding_ids(NfinspectApp) if f"`{name}`" not in documented]
    assert not missing


def test_keys_that_mean_something_else_in_one_place_are_listed() -> None:
    """A key of a pane that is also one of the app, or in a pane of a run one of every such pane."""
    binding_ids(NfinspectApp)  # imports every pane

    def own(cls: type[Any]) -> list[Binding]:
        return [one for one in cls.__dict__.get("BINDINGS", ()) if isinstance(one, Binding) and one.id]

    def every(cls: type[Any]) -> Iterator[type[Any]]:
        for below in cls.__subclasses__():
            yield below
            yield from every(below)

    above = {key: (one.id, cls) for cls in (NfinspectApp, RunPane) for one in own(cls) for key in one.key.split(",")}
    found: dict[tuple[str, str], set[str]] = {}
    for pane in every(Pane):
        for one in own(pane) if pane is not RunPane else ():
            for key in one.key.split(","):
                name, of = above.get(key, ("", object))
                if of is NfinspectApp or (of is RunPane and issubclass(pane, RunPane)):
                    found.setdefault((KEYS.get(key, key), name), set()).add(str(one.id))
    page = (Path(__file__).parents[2] / "docs/keys.md").read_text(encoding="utf-8")
    rows = page.partition("## Keys that mean something else in one place")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (.+) \|$", rows, re.MULTILINE)
    assert {(key, name): set(re.findall(r"`([^`]+)`", here)) for key, name, here in told} == found


KEYS = {"escape": "Esc"}
"""As the page writes them."""


async def test_every_place_to_go_to_is_told(start: Start) -> None:
    documented = (Path(__file__).parents[2] / "docs/keys.md").read_text(encoding="utf-8")
    places = documented[documented.index("After `:` you can type") :].partition("##")[0]
    async with start() as app:
        await app.press("question_mark")
        told = app.app.screen._text.plain
    for word in WORDS:
        assert f":{word}" in told, word
        assert word in ANALYSES or re.search(rf"`{word}\b", places), word


async def test_another_run_is_opened_by_name_from_within_one(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("n", "colon")
        await app.type("runs other")
        await app.press("enter")
        assert app.crumbs == "nfinspect > other"


async def test_a_line_goes_when_it_is_no_longer_about_what_is_done(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("colon")
        await app.type("L99")
        await app.press("enter")
        assert app.status.startswith("no layer L99")
        await app.press("j")
        assert app.status == ""


async def test_a_run_that_opens_takes_no_line_away_from_who_types_it(start: Start) -> None:
    class Slow(FakeEngine):
        def open(self, run: str) -> FakeSession:
            ready.wait(5)
            return super().open(run)

    ready = threading.Event()
    async with start(Slow(), None) as app:
        app.app.open_run("demo")
        app._send(":")
        await app.pilot.pause(0.1)
        app._send("d")
        ready.set()
        await app.settle()
        assert app.crumbs == "nfinspect > demo"
        await app.type("ead")
        await app.press("enter")
        assert app.crumbs == "nfinspect > demo > dead neurons"
        await app.press("j")
        assert app.pane.table.cursor == 1, "the table has the keys again"


async def test_a_long_line_keeps_its_end(start: Start) -> None:
    """What to do mostly stands there. One that no screen holds says that there is more."""
    async with start(FakeEngine()) as app:
        line = "expected the weights that the run was captured from, found others in a directory; " * 5 + "pass --model"
        app.app.say(line, "bad")
        await app.settle()
        assert len(line) < LONGEST and "pass --model" in app.text
        app.app.say(line * 4, "bad")
        await app.settle()
        shown = [row for row in app.lines if row.strip()]
        assert any(row.rstrip().endswith("…") for row in shown[-3:]), app.text
        assert "Health" in app.text, "the pane is still there"


@pytest.mark.parametrize("plain", [False, True])
async def test_what_is_worked_on_is_said_until_it_is_done(start: Start, plain: bool) -> None:
    """However it is drawn, and unless something else has been said by then."""
    async with start(FakeEngine(), plain=plain) as app:
        for between, left in ((None, ""), ("3 marked", "3 marked")):
            work = Work("found", lambda found: None, app.pane.say_failed, busy="opening Häuser\t…")
            app.app.busy(app.pane, work)
            await asyncio.sleep(BUSY_SECONDS + 0.1)
            assert app.status.startswith("opening H")
            if between:
                app.app.say(between)
            app.app.done(app.pane, work)
            assert app.status == left


async def test_jumps_sideways_leave_the_breadcrumbs_short(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("n", "1", "t", "o", "a", "n")
        assert app.crumbs == "nfinspect > demo > dead neurons", "it is gone back to, where it was"
        await app.press("enter", "t", "enter")
        assert app.crumbs == "nfinspect > demo > dead neurons > L0/N0 > trace tulip > L3/N100"
        await app.press("n")
        assert app.crumbs == "nfinspect > demo > dead neurons"
        await app.press("n")
        assert app.crumbs == "nfinspect > demo > dead neurons"
        await app.press("left_square_bracket")
        assert app.crumbs.endswith("L0/N0 > trace tulip > L3/N100"), "what was left is in the history"
        for key in "toaQ":
            await app.press(key, "escape")
        assert app.crumbs.startswith("nfinspect > demo > dead neurons")


async def test_help_leads_with_the_keys_of_the_pane(start: Start) -> None:
    async with start(size=(80, 24)) as app:
        await app.press("n", "question_mark")
        told = app.app.screen._text.plain
        words = ("Keys here", "Keys everywhere", "go to", "What is shown", "Dormancy is")
        places = [told.index(word) for word in words]
        assert places == sorted(places)
        assert "neurons.filter" in app.text
        await app.press("G")
        assert "tokens on which a dead neuron" in app.text
