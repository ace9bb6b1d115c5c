"""On large screens the free lines below a list show the strongest texts of the neuron under the cursor."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from app_driver import Driven, Start
from fake_engine import FakeEngine, FakeSession
from rich.cells import cell_len

from nfinspect.tui.panes.preview import Preview
from nfinspect.tui.widgets.paged_table import PagedTable

ROOM = (100, 30)


async def until(app: Driven, true: Callable[[], bool]) -> None:
    while not true():
        await app.pilot.pause(0.005)
    await app.settle()


def preview(app: Driven) -> str:
    return str(app.pane.query_one(Preview)._shown.plain)


@pytest.mark.parametrize("key", ["n", "t"])
async def test_the_texts_follow_the_cursor(start: Start, key: str) -> None:
    async with start(size=ROOM) as app:
        await app.press(key)
        first = app.pane.table.current.address
        await until(app, lambda: preview(app).startswith(f"{first} "))
        assert "its strongest texts" in app.text and "⟦ tulip⟧" in app.text
        await app.press("j", "j")
        third = app.pane.table.current.address
        assert third != first
        await until(app, lambda: preview(app).startswith(f"{third} "))
        assert all(cell_len(line) <= ROOM[0] for line in app.lines)


@pytest.mark.parametrize("key", ["n", "t"])
async def test_small_screens_have_the_list_alone(start: Start, key: str) -> None:
    engine = FakeEngine()
    async with start(engine, size=(80, 24)) as app:
        await app.press(key)
        box = app.pane.query_one(Preview)
        assert not box.display and app.pane.query_one(PagedTable).size.height >= 15
        box._ask()
        await app.settle()
        assert not [call for call in engine.session.calls if call[0] == "neuron"], "nothing is read that is not shown"


async def test_a_trace_keeps_all_its_rows_in_sight(start: Start) -> None:
    async with start(size=(200, 50)) as app:
        await app.press("t")
        table, box = app.pane.table, app.pane.query_one(Preview)
        assert table.size.height == table.total + 1
        assert box.size.height + table.size.height >= 40, "nothing is left empty"
        await app.press("+", "+", "z")
        assert not box.display and table.size.height > 40
        await app.press("z")
        assert box.display


class Slow(FakeSession):
    """A neuron takes until the gate is opened."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate, self.asked = threading.Event(), threading.Event()

    def neuron(self, address: Any, options: Any = None) -> Any:
        self.asked.set()
        assert self.gate.wait(60)
        return super().neuron(address, options)


async def test_keys_do_not_wait_for_the_texts(start: Start) -> None:
    session = Slow()
    async with start(FakeEngine(session=session), size=ROOM) as app:
        try:
            app._send("n")  # not `press`, which waits for the texts
            while not session.asked.is_set():
                await app.pilot.pause(0.005)
            table = app.pane.table
            for _ in range(5):
                app._send("j")
            while table.cursor != 5:
                await app.pilot.pause(0.005)
            assert not session.gate.is_set() and preview(app) == ""
        finally:
            session.gate.set()
        await until(app, lambda: preview(app).startswith(f"{table.current.address} "))


async def handled(app: Driven) -> None:
    """Until what keys have begun is on the screen; who reads texts may go on."""
    nodes = [app.app, app.app.screen, *app.app.screen.walk_children()]
    quiet = 0
    while quiet < 5:
        await app.pilot.pause(0.002)
        quiet = quiet + 1 if all(node._message_queue.empty() for node in nodes) else 0


@pytest.mark.parametrize(
    "keys", [("n", "j"), ("n", "I"), ("n", "0", "1"), ("n", "slash", *"max>1", "enter"), ("t", "j"), ("t", "I")]
)
async def test_the_texts_of_another_row_are_never_shown(start: Start, keys: tuple[str, ...]) -> None:
    session = Slow()
    session.gate.set()
    async with start(FakeEngine(session=session), size=ROOM) as app:
        await app.press(keys[0], "j", "j")
        before = app.pane.table.current.address
        await until(app, lambda: preview(app).startswith(f"{before} "))
        session.gate.clear()
        try:
            for key in keys[1:]:
                app._send(key)
            while (row := app.pane.table.current) is None or row.address == before:
                await app.pilot.pause(0.002)
            await handled(app)
            assert not preview(app).strip() and app.pane.table.current.address != before
        finally:
            session.gate.set()
        await until(app, lambda: preview(app).startswith(f"{app.pane.table.current.address} "))
