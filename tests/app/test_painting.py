"""A new pane is painted once, with its first answers, and not at all later than it may be without them."""

import threading
from typing import Any

import pytest
from app_driver import Driven
from fake_engine import FakeEngine, FakeSession

from nfinspect.tui import painting
from nfinspect.tui.app import NfinspectApp
from nfinspect.tui.widgets.paged_table import PAGE


class Recorded(NfinspectApp):
    """Keeps what each paint left on the screen."""

    frames: list[str]

    def _display(self, screen: Any, renderable: Any) -> None:
        super()._display(screen, renderable)
        if renderable is not None:
            self.frames.append("\n".join(strip.text for strip in screen._compositor.render_strips()))


async def frames_of(keys: str, session: FakeSession, of: str) -> list[str]:
    """The paints that a key brings about, as far as they show `of`."""
    app = Recorded(FakeEngine(session=session), "demo")
    app.frames = []
    async with app.run_test(size=(80, 24)) as pilot:
        driven = Driven(app, pilot)
        await driven.settle()
        app.frames.clear()
        await driven.press(*keys)
        await driven.settle()
        while not any(of in frame for frame in app.frames):  # its first paint may be waited for
            await pilot.pause(0.01)
        return [frame for frame in app.frames if of in frame]


@pytest.mark.parametrize(
    ("keys", "crumb", "part"),
    [("n", "› neurons", "L0/N"), ("t", "› trace", "auroc"), ("o", "› overlap", "jacc."), ("w", "› prompt", "value")],
)
async def test_a_new_pane_is_painted_once(keys: str, crumb: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes that its layout gives it, and what its first answers make it ask."""
    monkeypatch.setattr(painting, "HOLD_SECONDS", 30.0)
    frames = await frames_of(keys, FakeSession(), crumb)
    assert [part in frame for frame in frames] == [True]


async def test_rows_out_of_sight_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    app = NfinspectApp(FakeEngine(session=FakeSession()), "demo")
    async with app.run_test(size=(80, 24)) as pilot:
        driven = Driven(app, pilot)
        await driven.settle()
        await driven.press("n")
        table, drawn = driven.pane.table, []
        assert table.total > PAGE
        draw = table.render_line
        monkeypatch.setattr(table, "render_line", lambda y: drawn.append(y) or draw(y))
        table.put_page(PAGE, [table.row_at(0)] * PAGE, table.total)
        table.grow(table.total + 1)
        await driven.settle()
        assert drawn == []
        table.put_page(0, [table.row_at(1)] * PAGE, table.total)
        await driven.settle()
        assert set(drawn) == set(range(table.size.height))


@pytest.mark.parametrize(
    ("keys", "crumb", "answer"), [("n", "› neurons", "L0/N"), ("t", "› trace", "auroc"), ("a", "› analyses", "ngrams")]
)
async def test_a_new_pane_is_painted_with_its_answers(
    keys: str, crumb: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "HOLD_SECONDS", 30.0)
    frames = await frames_of(keys, FakeSession(), crumb)
    assert all(answer in frame for frame in frames), frames[0]


async def test_a_pane_that_has_to_wait_is_painted_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = threading.Event()

    class Slow(FakeSession):
        def neurons(self, *of: Any) -> Any:
            answering.wait(60)
            return super().neurons(*of)

    app = Recorded(FakeEngine(session=Slow()), "demo")
    app.frames = []
    async with app.run_test(size=(80, 24)) as pilot:
        driven = Driven(app, pilot)
        await driven.settle()
        app.frames.clear()
        driven._send("n")
        while not any("› neurons" in frame for frame in app.frames):
            await pilot.pause(0.01)
        assert not answering.is_set() and "L0/N" not in app.frames[-1]
        answering.set()
        await driven.settle()
        while "L0/N" not in app.frames[-1]:
            await pilot.pause(0.01)
