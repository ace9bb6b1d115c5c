"""The list of runs: what it says of each, what it lets be opened, deleted and filtered."""

import datetime as dt

from app_driver import Start
from fake_engine import CREATED, FakeEngine, entry, progress

from nfinspect.tui.widgets.paged_table import PagedTable


async def test_every_run_with_its_facts(start: Start, size: tuple[int, int]) -> None:
    async with start(run=None, size=size) as app:
        demo = next(line for line in app.lines if line.startswith("▌") or " demo " in line)
        for fact in ("demo", "gpt2", "complete", "12.3k", "40.0 MB", "2026-11-20 12:30"):
            assert fact in demo
        assert "unreadable" in next(line for line in app.lines if "broken" in line)
        assert " 43%" in next(line for line in app.lines if "live" in line)
        assert "size created (UTC)▼" in app.text, "the sign of the order stands beside the title that it is of"


async def test_a_running_capture_shows_progress(start: Start) -> None:
    engine = FakeEngine(entry("live", status="capturing", progress=progress(), created_at=CREATED))
    async with start(engine, run=None) as app:
        assert "430 of 1,000 tokens at 10/s, ETA 57 s" in app.text


async def test_a_filter_that_hides_runs_is_seen(start: Start) -> None:
    async with start(run=None) as app:
        await app.press("/")
        await app.type("other")
        await app.press("enter", "j", "enter", "escape")
        assert "only 'other'" in app.lines[0]


async def test_a_filter_that_leaves_no_run_says_how_all_come_back(start: Start) -> None:
    async with start(run=None) as app:
        assert "Enter Open" in app.lines[-1]
        await app.press("/")
        await app.type("nothing of that name")
        await app.press("enter", "j", "enter")
        assert app.status == "there is no row to open" and "Enter Open" not in app.lines[-1]
        assert "no run matches the filter: / with nothing shows all" in app.text


async def test_progress_is_followed(start: Start) -> None:
    engine = FakeEngine(entry("live", status="capturing", progress=progress(430)))
    async with start(engine, run=None) as app:
        engine.entries = (entry("live", status="capturing", progress=progress(990)),)
        await app.press("r")
        assert " 99%" in app.text
        engine.entries = (entry("live"),)
        await app.press("r")
        assert "complete" in app.text


async def test_an_unreadable_run_says_why(start: Start) -> None:
    engine = FakeEngine(entry("broken", problem="broken.duckdb is not a run file"))
    async with start(engine, run=None) as app:
        await app.press("enter")
        assert app.status == "broken.duckdb is not a run file"
        assert app.app.is_running


async def test_a_run_that_fails_to_open_is_one_line(start: Start) -> None:
    async with start(FakeEngine(entry("broken")), run=None) as app:
        await app.press("enter")
        assert app.status == "broken.duckdb is not a run file, or is damaged"
        assert app.crumbs == "nfinspect"


async def test_an_empty_store_says_what_to_type(start: Start, size: tuple[int, int]) -> None:
    engine = FakeEngine()
    engine.entries = ()
    async with start(engine, run=None, size=size) as app:
        assert "nfinspect demo" in app.text
        assert "nfinspect capture gpt2" in app.text
        engine.entries = (entry("fresh"),)
        await app.press("r")
        assert "fresh" in app.text
        assert "nfinspect demo" not in app.text


async def test_deleting_asks_first(start: Start) -> None:
    engine = FakeEngine(entry("first"), entry("second", created_at=CREATED - dt.timedelta(days=1)))
    async with start(engine, run=None) as app:
        await app.press("d")
        assert "Delete the run first (40.0 MB)?" in app.text
        await app.press("escape")
        assert engine.deleted == []
        await app.press("d", "y")
        assert engine.deleted == ["first"]
        assert app.status == "deleted first"
        assert [row.name for row in app.pane.query_one(PagedTable)._pages[0]] == ["second"]


async def test_what_is_being_written_is_refused_before_the_question(start: Start) -> None:
    engine = FakeEngine(entry("live", status="capturing", progress=progress()))
    async with start(engine, run=None) as app:
        await app.press("d")
        assert app.status == "live is being captured: p shows it, and x there cancels it; then d deletes its run"
        assert "Delete the run" not in app.text and engine.deleted == []
        engine.entries = (entry("sgd", kind="history", status="training", progress=progress()),)
        await app.press("r", "d")
        assert app.status == "the training sgd goes on: end it, then d deletes its history"


async def test_deleting_an_open_run_closes_it(start: Start) -> None:
    engine = FakeEngine(entry("demo"))
    async with start(engine) as app:
        assert app.crumbs == "nfinspect > demo"
        await app.press("escape", "d", "y")
        assert ("close",) in engine.session.calls
        await app.press("left_square_bracket")
        assert app.crumbs == "nfinspect"


async def test_filter_and_order(start: Start) -> None:
    async with start(run=None) as app:
        await app.press("slash")
        await app.type("mamba")
        await app.press("enter")
        table = app.pane.query_one(PagedTable)
        assert [row.name for row in table._pages[0]] == ["other"]
        await app.press("slash", "backspace", "enter", "s")
        assert table.sorted_by == ("name", False)
        assert [row.name for row in table._pages[0]] == ["broken", "demo", "live", "other"]
        await app.press("I")
        assert [row.name for row in table._pages[0]] == ["other", "live", "demo", "broken"]
