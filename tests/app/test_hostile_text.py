"""Text of models, files and users reaches the screen as visible characters, on every pane."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from app_driver import Start
from fake_engine import HOSTILE, FakeEngine, FakeSession, entry, progress
from hostile import HOSTILE as WORST
from hostile import UNSAFE, poison, spoken
from terminal import Terminal
from textual import events

from nfinspect.tui.cells import Cell, content, shown, shown_cell
from nfinspect.tui.engine import Engine
from nfinspect.tui.glyphs import ASCII, UNICODE

CONCEPTS = ("[/red]tu\x1b[31mlip", "viet\u202enam", "zero\u200bwidth", "baseline")


def hostile_engine() -> FakeEngine:
    session = FakeSession(concepts=CONCEPTS, token=HOSTILE)
    return FakeEngine(entry("demo", model=HOSTILE), entry("[bold]x" + HOSTILE), session=session)


PLACES = (
    ("runs", ""),
    ("delete", "d"),
    ("layers", "escape enter"),
    ("help", "question_mark"),
    ("palette", "escape ctrl+p"),
    ("neurons", "escape n"),
    ("neuron", "enter"),
    ("prompt", "enter"),
    ("trace", "t"),
    ("concepts", "c"),
    ("overlap", "escape o"),
    ("sql", "Q"),
)


async def test_nothing_foreign_is_interpreted(start: Start, size: tuple[int, int]) -> None:
    async with start(hostile_engine(), run=None, size=size) as app:
        for place, keys in PLACES:
            await app.press(*keys.split())
            for line in app.lines:
                assert not UNSAFE.search(line), (place, line)


async def test_what_is_hidden_is_shown(start: Start) -> None:
    async with start(hostile_engine(), run=None) as app:
        assert "␛[31mred␛[0m" in app.text
        await app.press("enter", "n", "enter", "enter")
        for piece in ("␛[31mred␛[0m [/red]", "\\u202eabc\\u200b␇ 漢"):  # the walk breaks its lines between words
            assert piece in app.text


async def test_error_lines_are_cleaned_as_well(start: Start) -> None:
    async with start(FakeEngine(entry("x", problem=f"cannot read {HOSTILE}")), run=None) as app:
        await app.press("enter")
        assert "␛[31mred␛[0m [/red]" in app.status


async def test_ascii_mode_is_ascii(start: Start, size: tuple[int, int]) -> None:
    async with start(hostile_engine(), run=None, size=size, plain=True) as app:
        for keys in ("", "enter", "n", "enter", "enter", "t", "o", "question_mark", "escape", "ctrl+p"):
            await app.press(*keys.split())
            for line in app.lines:
                assert line.isascii(), (keys, line)


@pytest.fixture
def poisoned(store: Path) -> Path:
    poison(store / "planted.duckdb")
    return store


@pytest.fixture
def poisoned_engine(poisoned: Path) -> Iterator[Engine]:
    with closing(Engine(poisoned)) as engine:
        yield engine


OF_A_RUN = (
    ("layers", ""),
    ("neurons", "n"),
    ("neuron", "enter"),
    ("copied", "y"),
    ("prompt", "enter"),
    ("trace", "t"),
    ("concepts", "c"),
    ("baseline", "escape b"),
    ("marked", "escape escape escape escape n space O"),
    ("overlap", "o"),
    ("its concepts", "c"),
    ("analyses", "escape a"),
    ("ngrams", "enter"),
    ("lens", "colon l e n s enter"),
    ("prompts", "p"),
    ("compare", "escape colon c o m p a r e space p l a n t e d , s t a t s enter"),
    ("help", "question_mark"),
    ("palette", "escape ctrl+p"),
    ("runs", "escape escape escape escape escape escape escape escape"),
    ("delete", "d"),
)


async def test_every_pane_of_a_poisoned_run(start: Start, poisoned_engine: Engine) -> None:
    async with start(poisoned_engine, run="planted") as app:
        for place, keys in OF_A_RUN:
            await app.press(*keys.split())
            for line in app.lines:
                assert not UNSAFE.search(line), (place, ascii(line))
            assert "unexpected" not in app.text, (place, app.text)


QUERIES = (
    "FROM run;",
    "FROM prompts;",
    f"SELECT '{spoken()}' AS \"{spoken()}\", 1;".replace("\n", " "),
    "EXPLAIN FROM tokens;",
    f"SELECT {spoken()};".replace("\n", " "),
)


async def test_results_of_queries(start: Start, poisoned_engine: Engine) -> None:
    async with start(poisoned_engine, run="planted") as app:
        await app.press("Q")
        for query in QUERIES:
            app.pane.editor.text = query
            app.pane.editor.action_run()
            await app.settle()
            for line in app.lines:
                assert not UNSAFE.search(line), (query, ascii(line))


async def test_a_capture_and_a_job_that_lie(start: Start) -> None:
    from dataclasses import replace

    told = replace(progress(), host=WORST, phase=WORST)
    engine = FakeEngine(entry("x", status="capturing", progress=told), session=FakeSession())
    async with start(engine, run=None) as app:
        for keys in ("", "enter"):
            await app.press(*keys.split())
            for line in app.lines:
                assert not UNSAFE.search(line), ascii(line)
            assert "pwned" in app.text
    engine = FakeEngine()
    async with start(engine, run="demo") as app:
        await app.press("a", "enter", "r")
        engine.job.say(WORST)
        app.app.board.look()
        await app.settle()
        assert "pwned" in app.text
        engine.job.end(1, WORST)
        app.app.board.look()
        await app.settle()
        for line in app.lines:
            assert not UNSAFE.search(line), ascii(line)


async def test_what_is_typed_pasted_or_notified(start: Start) -> None:
    """Widgets of Textual's own: the filter is all that stands between them and the terminal."""
    async with start() as app:
        for keys in ("slash", "escape Q", "escape escape ctrl+p"):
            await app.press(*keys.split())
            app.app.post_message(events.Paste(WORST))
            await app.settle()
            for line in app.lines:
                assert not UNSAFE.search(line), (keys, ascii(line))
        await app.press("escape")
        app.app.notify(WORST, title=WORST, markup=False)
        app.app.ask(app.pane, "filter", "/", lambda text: None, WORST)
        await app.settle()
        for line in app.lines:
            assert not UNSAFE.search(line), ascii(line)


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["", "ascii"])
def test_tones_stay_with_their_words(glyphs: object) -> None:
    """Making text visible makes it longer: what was toned still is, and nothing else."""
    cell = Cell(f"{WORST}|hit|{WORST}", "", ((len(WORST) + 1, len(WORST) + 4, "hit"),))
    ((start, end, _),) = shown_cell(cell, glyphs).spans
    assert shown_cell(cell, glyphs).text[start:end] == "hit"
    drawn = shown(content(Cell(WORST, "dim"), "\n", Cell("word", "bold"), Cell(WORST)), glyphs)
    assert [drawn.plain[span.start : span.end] for span in drawn.spans if span.style == "bold"] == ["word"]
    assert drawn.plain.count("\n") == 1, "the line breaks of a cell are characters"


SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\\\)|P[^\x1b]*\x1b\\\\|[ -/]*[0-~])")


@pytest.mark.slow
def test_what_a_real_terminal_is_sent(poisoned: Path) -> None:
    terminal = Terminal(poisoned, "planted", size=(120, 40))
    try:
        terminal.wait_for("Health")
        for keys in ("n", "\r", "\r", "t"):  # pyte cannot tell what stands on a screen whose wide characters were cut
            terminal.send(keys)
            terminal.settle(0.8)
        raw = terminal.raw.decode(errors="replace")
        assert "]0;pwned" in raw, "shown"
        assert "\x1b]0;" not in raw
        left = SEQUENCES.sub("", raw.replace("\r\n", "\n"))
        assert not UNSAFE.search(left), ascii(UNSAFE.search(left))
    finally:
        terminal.close()
