"""A run that is being captured: its progress, the pause, and what happens when the capture ends."""

import dataclasses
from pathlib import Path

from app_driver import Driven, Start
from fake_engine import FakeEngine, entry, progress

from nfinspect.tui.session import Session
from nfinspect.tui.widgets.text_panel import TextPanel
from nfinspect_store.reader import RunFile


def capturing(done: int = 430, **changes: object) -> object:
    return entry("night", status="capturing", progress=dataclasses.replace(progress(done), **changes))


async def look(app: Driven) -> None:
    app.pane._look()
    await app.settle()


async def test_enter_shows_how_far_it_is(start: Start, size: tuple[int, int]) -> None:
    async with start(FakeEngine(capturing()), run=None, size=size) as app:
        await app.press("enter")
        assert app.crumbs == "nfinspect > night (capturing)"
        for fact in (
            "43.0%",
            "430 of 1,000",
            "10 tokens/s",
            "57 s, 1 min 00 s so far",
            "5.0 MB",
            "4711 on gpubox",
            "reading",
        ):
            assert fact in app.text
        await app.press("escape")
        assert app.crumbs == "nfinspect"


async def test_it_is_followed_and_drawn_only_when_it_changes(start: Start) -> None:
    engine = FakeEngine(capturing())
    async with start(engine, run=None) as app:
        await app.press("enter")
        drawn = app.pane.query_one(TextPanel)._shown
        await look(app)
        assert app.pane.query_one(TextPanel)._shown is drawn
        engine.entries = (capturing(990),)
        await look(app)
        assert "99.0%" in app.text


async def test_p_pauses_and_goes_on(start: Start) -> None:
    engine = FakeEngine(capturing())
    async with start(engine, run=None) as app:
        await app.press("enter", "p")
        assert "paused" in app.lines[0] and "the capture goes on" in app.status
        engine.entries = (capturing(990),)
        await look(app)
        assert "43.0%" in app.text
        await app.press("p")
        assert "99.0%" in app.text
        assert "paused" not in app.lines[0]


async def test_the_finished_run_opens_by_itself(start: Start) -> None:
    engine = FakeEngine(capturing())
    async with start(engine, run=None) as app:
        await app.press("enter")
        engine.entries = (entry("night"),)
        await look(app)
        assert app.crumbs == "nfinspect > night"
        assert "Health" in app.text
        assert app.status == ""
        await app.press("escape")
        assert app.crumbs == "nfinspect"


async def test_an_interrupted_capture_opens_with_how_to_resume(start: Start) -> None:
    engine = FakeEngine(capturing())
    engine.session.info = dataclasses.replace(engine.session.info, status="interrupted")
    async with start(engine, run=None) as app:
        await app.press("enter")
        engine.entries = (entry("night", status="interrupted"),)
        await look(app)
        assert app.crumbs == "nfinspect > night"
        assert app.status == "night is interrupted: the same capture command with --resume continues it"
        assert "interrupted, not all was captured" in app.text
        await app.press("escape")
        assert engine.session.calls[-1] == ("close",)  # so that `capture --resume` gets at the file
        await app.press("enter")
        assert app.crumbs == "nfinspect > night"


async def test_a_complete_run_stays_open(start: Start) -> None:
    engine = FakeEngine(entry("demo"))
    async with start(engine, run=None) as app:
        await app.press("enter", "escape", "enter")
        assert app.crumbs == "nfinspect > demo"
        assert ("close",) not in engine.session.calls


async def test_a_run_whose_capture_was_killed_is_interrupted(store: Path) -> None:
    run = RunFile.open(store / "planted.duckdb")
    run.info = dataclasses.replace(run.info, status="capturing")  # nobody was left to write that it ended
    session = Session(run)
    assert session.info.status == "interrupted"
    session.close()


async def test_a_capture_that_kept_nothing_says_so(start: Start) -> None:
    engine = FakeEngine(entry("broken", status="capturing", progress=progress()))
    async with start(engine, run=None) as app:
        await app.press("enter")
        engine.entries = (entry("other"),)
        await look(app)
        assert "The capture of broken has ended, and saved no run." in app.text
        assert app.app.is_running


async def test_a_dead_process_is_said_with_how_to_resume(start: Start) -> None:
    engine = FakeEngine(capturing())
    async with start(engine, run=None) as app:
        await app.press("enter")
        engine.entries = (capturing(alive=False),)
        await look(app)
        assert "Process 4711 is gone" in app.text
        assert "--resume" in app.text
        engine.entries = (capturing(500),)  # somebody has resumed it
        await look(app)
        assert "50.0%" in app.text


async def test_a_stalled_capture_is_said(start: Start) -> None:
    engine = FakeEngine(capturing(updated_at=progress().updated_at - 47))
    async with start(engine, run=None) as app:
        await app.press("enter")
        assert "no news for 40 s" in app.text


async def test_it_is_reached_by_name_too(start: Start) -> None:
    engine = FakeEngine(capturing(), entry("demo"))
    async with start(engine) as app:
        await app.press("colon")
        await app.type("runs night")
        await app.press("enter")
        assert app.crumbs == "nfinspect > night (capturing)"
