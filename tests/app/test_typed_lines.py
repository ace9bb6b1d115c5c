"""Lines after `:` and `/`: completed by Tab, remembered across sessions, own words."""

import json
from pathlib import Path

import pytest
from app_driver import Start
from terminal import Terminal

from nfinspect.tui.aliases import aliases_file, expanded_alias, read_aliases
from nfinspect.tui.completing import Known, complete_filter, complete_target
from nfinspect.tui.engine import Engine
from nfinspect.tui.navigate import TAKEN, WORDS
from nfinspect.tui.prompt_line import PromptInput
from nfinspect.tui.typed_history import KEPT, append_history, history_file, read_history

THERE = Known(
    runs=("before", "after", "beta"),
    trainings=("train",),
    concepts=("tulip", "vietnam", "vienna"),
    sets=("hot",),
    layers=(("mlp", 0), ("mlp", 1), ("mlp", 10), ("resid", 0)),
    default_site="mlp",
    aliases=("vv",),
)


@pytest.mark.parametrize(
    ("typed", "word", "offered"),
    [
        ("tr", "tr", ["trace", "train"]),
        ("trace vi", "vi", ["vietnam", "vienna"]),
        ("trace ", "", ["tulip", "vietnam", "vienna"]),
        ("sat", "sat", ["saturated"]),
        ("@", "@", ["@hot"]),
        ("v", "v", ["vv"]),
        ("bef", "bef", ["before"]),
        ("L1", "L1", ["L1/N"]),
        ("L", "L", [*(word for word in WORDS if word.startswith("l")), "L0", "L1", "L10"]),
        ("resid:", "resid:", ["resid:L0"]),
        ("resid:L0", "resid:L0", ["resid:L0/N"]),
        ("runs be", "be", ["before", "beta"]),
        ("diff before be", "be", ["beta"]),
        ("compare after,b", "b", ["before", "beta"]),
        ("watch ", "", ["train"]),
        ("sql SEL", "", []),
        ("L1/N3", "L1/N3", []),
    ],
)
def test_what_is_offered_after_a_colon(typed: str, word: str, offered: list[str]) -> None:
    found, names = complete_target(typed, THERE)
    assert (found, sorted(names, key=str.lower)) == (word, sorted(offered, key=str.lower))


def test_what_is_offered_in_a_filter() -> None:
    columns, sets = ("max", "mean", "mean_abs"), ("marked",)
    assert complete_filter("me", columns, sets) == ("me", ["mean", "mean_abs"])
    assert complete_filter("max>4 a", columns, sets) == ("a", ["and"])
    assert complete_filter("max>4 and @", columns, sets) == ("@", ["@marked"])


async def test_tab_goes_through_the_completions(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted") as app:
        await app.press("colon")
        line = app.app.screen.query_one(PromptInput)
        await app.type("trace ")
        await app.press("tab")
        first = line.value
        assert first in {"trace tulip", "trace vietnam", "trace baseline"}
        assert "(1 of 3)" in app.text
        await app.press("tab", "tab", "tab")
        assert line.value == first
        await app.press("shift+tab")
        assert line.value != first
        await app.press("ctrl+u")
        await app.type("ngr")
        await app.press("tab")
        assert line.value == "ngrams"
        assert "(1 of " not in app.text, "one completion needs no list"
        await app.press("enter")
        assert app.crumbs.endswith("ngrams")
    engine.close()


async def test_tab_stays_in_the_line(start: Start) -> None:
    """Where there is nothing to complete the line keeps the keys: what is typed next must not reach the pane."""
    async with start() as app:
        await app.press("n", "slash")
        await app.type("zzz")
        await app.press("tab")
        await app.type("q")
        assert app.app.screen.query_one(PromptInput).value == "zzzq"


async def test_what_was_typed_is_there_in_the_next_session(start: Start, store: Path) -> None:
    for step in ("first", "second"):
        engine = Engine(store)
        async with start(engine, "planted") as app:
            await app.press("colon")
            if step == "first":
                await app.type("trace tulip")
                await app.press("enter")
            else:
                await app.press("up", "enter")
            assert app.crumbs.endswith("trace tulip")
        engine.close()
    assert history_file("goto").stat().st_mode & 0o777 == 0o600


def test_a_long_history_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "goto-history.jsonl"
    for number in range(2 * KEPT + 1):
        append_history(path, f"L{number}")
    assert read_history(path) == [f"L{n}" for n in range(KEPT + 1, 2 * KEPT + 1)]
    assert len(path.read_text().splitlines()) == KEPT


async def test_an_alias_goes_where_it_says(start: Start, store: Path) -> None:
    aliases_file().parent.mkdir(parents=True)
    aliases_file().write_text(json.dumps({"vv": "trace vietnam", "dead": "trace tulip", "t": "trace"}))
    engine = Engine(store)
    async with start(engine, "planted") as app:
        assert "'dead' is no alias" in app.status
        for typed, crumb in (("vv", "trace vietnam"), ("t tulip", "trace tulip"), ("dead", "dead neurons")):
            await app.press("colon")
            await app.type(typed)
            await app.press("enter")
            assert app.crumbs.endswith(crumb)
    engine.close()


@pytest.mark.parametrize(
    ("text", "line"),
    [("{", "is not JSON"), ("[]", "expected {"), ('{"a": 1}', "expected {"), ('{"a b": "runs"}', "'a b' is no alias")],
)
def test_a_file_of_aliases_that_cannot_be_used(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "aliases.json").write_text(text)
    found, said = read_aliases(tmp_path / "aliases.json", TAKEN)
    assert found == {}
    assert said is not None
    assert line in said
    assert expanded_alias("a b", {"a": "trace"}) == "trace b"


def test_completion_in_a_terminal(store: Path) -> None:
    terminal = Terminal(store, "planted")
    try:
        terminal.wait_for("Health")
        terminal.send(":tra\t vi\t\r")
        terminal.wait_for("trace vietnam")
        terminal.wait_for("L0/N")
    finally:
        terminal.close()


async def test_up_and_down_lose_nothing_that_was_typed(start: Start) -> None:
    async with start() as app:
        await app.press("n", "slash")
        await app.type("max>4 and me")
        line = app.app.screen.query_one(PromptInput)
        await app.press("up")
        assert line.value == "max>4 and me", "there is no earlier line"
        await app.press("enter", "slash", "ctrl+u")
        await app.type("draft")
        await app.press("up")
        assert line.value == "max>4 and me"
        await app.press("down")
        assert line.value == "draft"


async def test_an_answer_does_not_take_the_place_of_a_line_that_is_typed(start: Start) -> None:
    async with start() as app:
        await app.press("n", "colon")
        await app.type("tra")
        app.app.ask(app.pane, "command", "nfinspect", lambda text: None, "ngrams demo")
        await app.settle()
        assert app.app.screen.query_one(PromptInput).value == "tra"
        await app.press("escape", "j")
        assert app.pane.table.cursor == 1


async def test_a_run_is_opened_by_its_name(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, None) as app:
        await app.press("colon")
        await app.type("stats")
        await app.press("enter")
        assert app.crumbs == "nfinspect > stats"
        await app.press("colon")
        await app.type("sta")
        await app.press("enter")
        assert "a run's name" in app.status and "found 'sta'" in app.status
    engine.close()
