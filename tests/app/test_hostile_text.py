"""Text of models, files and users reaches the screen as visible characters, on every pane."""

import re

from app_driver import Start
from fake_engine import HOSTILE, FakeEngine, FakeSession, entry

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]")

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
        assert "␛[31mred␛[0m [/red] \\u202eabc\\u200b␇ 漢" in app.text


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
