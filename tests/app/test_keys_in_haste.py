"""Keys that come faster than what they are for: none is lost, none crashes, and what was lost on the way is asked for
again."""

import asyncio
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from app_driver import Driven, Start
from fake_engine import FakeEngine, FakeJob, FakeSession
from textual.command import CommandList
from textual.widgets import Input, OptionList

from nfinspect.analysis.token_neurons import AtToken, TokenNeuron
from nfinspect.tui.app import BUSY_SECONDS
from nfinspect.tui.dialogs import Confirm
from nfinspect.tui.panes.base import Work
from nfinspect.tui.prompt_line import PromptLine
from nfinspect.tui.requests import NeuronQuery
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect_store.errors import StoreError

MOVING = ("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "enter", "tab", "shift+tab", "backspace")
CONTROL = ("escape", "ctrl+c", "ctrl+d", "ctrl+u", "ctrl+r", "ctrl+p", "ctrl+q", "f1", "space")
KEYS = (*MOVING, *CONTROL, *"jkgGhlJKntoaQeyzbcCdiprRsSxwOILTq0123456.,/:[]<>+-?")
OPENINGS = (
    "ctrl+p",
    "question_mark",
    "colon",
    "slash",
    "n",
    "n enter",
    "n enter enter",
    "n s",
    "n L",
    "t",
    "t c",
    "t b",
    "o",
    "o c",
    "a",
    "a enter",
    "Q",
    "Q ctrl+r",
    "escape",
    "escape d",
    "escape space O",
)


async def burst(app: Driven, keys: str) -> None:
    """All of them at once, as over a slow link."""
    for key in keys.split():
        app._send(key)
    await app.settle()


async def ended(app: Driven, key: str) -> None:
    """The key ends the app."""
    app._send(key)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if app.app._exit:
            return
    raise AssertionError(f"{key} did not end the app")


async def mash(start: Start, rng: random.Random, bursts: int) -> None:
    """Bursts of a way to some place and keys that come before it is there. A failure names what was sent."""
    left = bursts
    while left > 0:
        size = rng.choice(((80, 24), (200, 50), (40, 12), (20, 5), (3, 2), (1, 1)))
        sent: list[str] = []
        async with start(FakeEngine(), run=rng.choice(("demo", None)), size=size) as app:
            while left > 0 and not app.app._exit:
                left -= 1
                sent.append(f"{rng.choice(OPENINGS)} {' '.join(rng.choices(KEYS, k=rng.randint(1, 6)))}")
                for key in sent[-1].split():
                    app._send(key)
                for _ in range(200):
                    await asyncio.sleep(0.005)
                    if app.app._exit or not app.at_work():
                        break
                assert app.app._exception is None, (size, sent)
                assert app.app._exit or "unexpected" not in app.status, (size, sent, app.status)
                if rng.random() < 0.1:
                    await app.pilot.resize_terminal(*rng.choice(((1, 1), (20, 5), (80, 24), (200, 50))))


SOAK = int(os.environ.get("NFINSPECT_SOAK_BURSTS", "0"))


@pytest.mark.parametrize("seed", range(SOAK // 100) if SOAK else [0, 1])
async def test_mashed_keys_break_nothing(start: Start, seed: int) -> None:
    """`make soak` sends more of them."""
    await mash(start, random.Random(seed), 100 if SOAK else 20)


@pytest.mark.parametrize("key", ["pagedown", "pageup", "home", "end", "down", "up", "enter"])
async def test_the_palette_takes_keys_before_it_has_lines(start: Start, key: str) -> None:
    async with start() as app:
        await burst(app, f"ctrl+p {key} {key}")
        await burst(app, "escape ctrl+p pagedown pagedown pageup")
        assert app.app.is_running


class SlowSession(FakeSession):
    """Every neuron takes until the gate is opened."""

    gate = threading.Event()

    def neuron(self, address: Any, options: Any = None) -> Any:
        self.gate.wait(5)
        return super().neuron(address, options)


class SlowEngine(FakeEngine):
    """Runs take until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def open(self, run: str) -> FakeSession:
        self.gate.wait(5)
        return super().open(run)


@pytest.mark.parametrize(
    ("keys", "place"), [("n j enter", "neurons > L0/N1"), (": s q l enter", "demo > sql"), ("j j j enter", "L3")]
)
async def test_keys_typed_while_a_run_is_opened_are_for_the_run(start: Start, keys: str, place: str) -> None:
    engine = SlowEngine()
    async with start(engine, run=None) as app:
        await app.press("/", *"demo", "enter")
        for key in ("enter", *keys.split()):
            app._send(key)
            await asyncio.sleep(0.01)
        assert app.crumbs == "nfinspect"
        engine.gate.set()
        await app.settle()
        assert place in app.crumbs or place in app.text.splitlines()[0], app.text


async def test_escape_while_a_run_is_opened_stays_in_the_list(start: Start) -> None:
    engine = SlowEngine()
    async with start(engine, run=None) as app:
        await app.press("/", *"demo", "enter")
        for key in ("enter", "n", "escape"):
            app._send(key)
            await asyncio.sleep(0.05)
        assert app.status == "cancelled"
        engine.gate.set()
        await app.settle()
        assert app.crumbs == "nfinspect" and ("close",) in engine.session.calls and not app.app.sessions
        await app.press("enter")
        assert app.crumbs.startswith("nfinspect > demo")


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ("J J J J J J J", 8),
        ("J J J K", 3),
        ("J K J J K J J", 4),
        ("K K K J J", 3),  # there is nothing before the first: two further from it
    ],
)
async def test_every_step_counts_however_slow_the_store_is(start: Start, keys: str, row: int) -> None:
    session = SlowSession()
    session.gate.set()
    async with start(FakeEngine(session=session)) as app:
        await app.press("n", "enter")
        session.gate.clear()
        for key in keys.split():
            app._send(key)
            await asyncio.sleep(0.01)
        session.gate.set()
        await app.settle()
        assert app.text.splitlines()[0].strip().endswith(f"{row:,} of 120,000 · demo · mlp")
        read = [call for call in session.calls if call[0] == "neuron"]
        assert len(read) <= 6, "those that are passed by are not all read"


async def test_moves_and_enter_before_the_rows_have_come(start: Start) -> None:
    class Waiting(FakeSession):
        gate = threading.Event()

        def neurons(self, query: NeuronQuery, offset: int, limit: int) -> Any:
            self.gate.wait(5)
            return super().neurons(query, offset, limit)

    session = Waiting()
    async with start(FakeEngine(session=session)) as app:
        for key in ("n", "j", "j", "j", "k", "enter"):
            app._send(key)
            await asyncio.sleep(0.01)
        session.gate.set()
        await app.settle()
        assert app.crumbs.endswith("L0/N2")


class Failing(FakeSession):
    """Pages that cannot be had, for a while."""

    bad = True

    def neurons(self, query: NeuronQuery, offset: int, limit: int) -> Any:
        page = super().neurons(query, offset, limit)
        if self.bad and offset >= self.from_row:
            raise StoreError(f"the disk is away at {offset}")
        return page

    from_row = 200


@pytest.mark.parametrize("from_row", [0, 400])
async def test_a_page_that_failed_says_so_in_place_and_is_asked_for_again(start: Start, from_row: int) -> None:
    session = Failing()
    session.from_row = from_row
    async with start(FakeEngine(session=session)) as app:
        await app.press("n")
        table = app.pane.query_one(PagedTable)
        if from_row:
            table.move_to(450)
            await app.settle()
        assert app.text.count("the disk is away") > 1, "in the rows, and in the status line"
        asked = len(session.calls)
        await app.settle()
        assert len(session.calls) == asked, "nothing asks by itself"
        await app.press("k")
        assert len(session.calls) > asked
        assert "the disk is away" in app.text
        session.bad = False
        await app.press("k")
        assert "the disk is away" not in app.text.rpartition("\n")[0].replace(app.status, "")
        assert table.current is not None


async def test_quitting_asks_while_something_is_made(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("a", "enter", "r", "escape", "escape")
        for keys in (("q",), ("ctrl+q", "ctrl+q")):
            await app.press(*keys)
            assert "Quit, and give up ngrams of demo?" in app.text
            await app.press("n")
            assert not app.app._exit
        await app.press("colon", *"quit", "enter")
        assert isinstance(app.app.screen, Confirm)
        await app.press("n")
        engine.job.end(0)
        app.app.board.look()
        await app.settle()
        await ended(app, "q")


async def test_yes_quits_and_cancels(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("a", "enter", "r", "q")
        await ended(app, "y")
        app.app.close_runs()
        assert engine.job.state().cancelled


async def test_quitting_during_an_export_asks(start: Start, tmp_path: Path) -> None:
    session = SlowSession()
    session.gate.set()
    async with start(FakeEngine(session=session)) as app:
        await app.press("n")
        gate = threading.Event()
        wrote = lambda: (gate.wait(5), "wrote x")[1]  # noqa: E731
        app.pane.load("export", wrote, app.pane.exported, busy="exporting", lasting=True)
        await asyncio.sleep(0.05)
        app._send("q")
        await asyncio.sleep(0.2)
        assert isinstance(app.app.screen, Confirm)
        gate.set()
        await app.settle()
        assert "wrote x" in app.status


async def test_ctrl_c_cancels_what_the_place_makes_or_asks_about_what_goes_on_elsewhere(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("a", "enter", "r", "ctrl+c")
        assert engine.job.state().cancelled
        engine.job.end(130)
        app.app.board.look()
        await app.settle()
        engine.job = FakeJob()
        await app.press("r", "escape", "ctrl+c")
        assert "Cancel ngrams of demo?" in app.text and not engine.job.state().cancelled
        await app.press("y")
        assert engine.job.state().cancelled and app.app.is_running


async def test_ctrl_c_gives_up_what_a_place_waits_for(start: Start) -> None:
    class Slow(FakeSession):
        gate = threading.Event()

        def trace(self, request: Any) -> Any:
            self.gate.wait(5)
            return super().trace(request)

    session = Slow()
    async with start(FakeEngine(session=session)) as app:
        app._send("t")
        await asyncio.sleep(0.2)
        app._send("ctrl+c")
        await asyncio.sleep(0.2)
        assert app.status == "cancelled" and session.interrupted.is_set()
        session.gate.set()
        await app.settle()
        assert app.pane._trace is None, "an answer to what is no longer asked"
        await app.press("r")
        assert app.pane._trace is not None


async def test_a_line_is_for_the_place_that_asked_for_it(start: Start) -> None:
    async with start() as app:
        await app.press("n")
        taken: list[str] = []
        app.app.ask(app.pane, "filter", "/", taken.append, "max>4")
        app.app.to_layers(app.pane.session)  # the place changes while the line is on its way
        app.app.call_later(app.app.query_one(PromptLine)._then, "max>4")
        await app.settle()
        assert not taken
        assert app.crumbs.endswith("demo") and "unexpected" not in app.status


async def test_two_selections_at_once_are_one(start: Start) -> None:
    """Before the first is answered, whatever the machine does meanwhile."""
    async with start() as app:
        await app.press("ctrl+p")
        await app.settle()
        palette = app.app.screen
        await app.press("down")
        for _ in range(2):
            palette._action_command_list("select")  # type: ignore[attr-defined]
        await app.settle()
        assert len(app.app.screen_stack) >= 1 and app.app.screen is not palette


async def test_an_enter_on_its_way_when_the_palette_has_closed_is_dropped(start: Start) -> None:
    async with start() as app:
        screens, ran = len(app.app.screen_stack), []
        await app.press("ctrl+p", "down")
        palette = app.app.screen
        commands, line = palette.query_one(CommandList), palette.query_one(Input)
        assert commands.highlighted is not None
        option = commands.get_option_at_index(commands.highlighted)
        option.hit.command = lambda: ran.append(1)  # type: ignore[attr-defined]
        palette.post_message(OptionList.OptionSelected(commands, option, commands.highlighted))
        palette.post_message(Input.Submitted(line, ""))
        palette.post_message(OptionList.OptionSelected(commands, option, commands.highlighted))
        await app.settle()
        assert len(app.app.screen_stack) == screens and ran == [1]
        await app.press("ctrl+p", "escape")
        assert len(app.app.screen_stack) == screens


async def test_what_is_marked_at_a_token_is_its_own_neuron(start: Start) -> None:
    """Space comes before the list of the token does: the list on screen is that of the token before."""

    class Slow(FakeSession):
        gate = threading.Event()

        def ask_walk(self, question: Any, *args: Any, **kwargs: Any) -> Any:
            if question.__name__ != "at":
                return super().ask_walk(question, *args, **kwargs)
            site, token, rank = args[:3]
            if token:
                self.gate.wait(5)
            neurons = tuple(TokenNeuron(site, 3, 10 * token + i, 9.0 - i, 5.0, 99.9, None) for i in range(4))
            return AtToken(token, rank, neurons, (), 4, False)

    session = Slow()
    async with start(FakeEngine(session=session)) as app:
        await app.press("w")
        marks = app.app.marks
        app._send("l")
        app._send("space")
        await asyncio.sleep(0.3)
        assert not marks.members(session, "mlp")
        session.gate.set()
        await app.settle()
        assert list(marks.members(session, "mlp")) == [(3, 10)] and app.status.startswith("1 marked")
        await app.press("tab", "j")
        app.pane._ask()  # as when the percentiles come
        await app.settle()
        assert app.pane.table.cursor == 2, "the cursor stays where it is"


async def test_what_a_key_has_said_is_not_wiped_by_what_is_worked_on(start: Start) -> None:
    async with start() as app:
        await app.press("n", "space")
        assert app.status.startswith("1 marked")
        work = Work("found", lambda found: None, app.pane.say_failed, busy="reading")
        app.app.busy(app.pane, work)
        await asyncio.sleep(BUSY_SECONDS + 0.1)
        assert app.status.startswith("1 marked")
        app.app.done(app.pane, work)
        assert app.status.startswith("1 marked")
