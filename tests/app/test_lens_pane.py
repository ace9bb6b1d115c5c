"""The pane of the logit lens: which prompt, what each layer answers, and where its keys lead."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analysed_run import LAYERS, MODEL, PROMPTS, token_ids, values, write_study
from app_driver import Driven, Start
from fake_engine import HOSTILE, FakeEngine, FakeSession
from test_making_analyses import ended, go

from nfinspect.analyses.lens import SPEC, Lens
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect.tui.engine import Engine
from nfinspect.tui.plot_lines import plot_lines
from nfinspect_store.results import keep_result, list_results, model_results, run_results

SAMPLE = Path(__file__).parents[2] / "samples" / "gpt2-relu"
TOKENS = ["The", " red", HOSTILE]


def token(text: str | None, probability: float) -> dict[str, Any]:
    return {"token_id": 1, "token": text, "probability": probability}


def document(prompt: str, layers: int = 3, tokens: list[str] = TOKENS) -> dict[str, Any]:
    """The answer's probability is (layer + 1) / (layers + 1), its rank counts down to 1."""
    return {
        "model": MODEL, "prompt": prompt, "tokens": len(tokens), "answer": token(" tulip", 0.75),
        "prompt_tokens": tokens,
        "layers": [
            {"layer": i, "entropy": 2.5 - i, "answer_rank": layers - i, "answer_log_prob": math.log((i + 1) / 4),
             "top": [token(" tulip", (i + 1) / 4), token(None, 0.125)],
             "positions": [token(f" {i}a{place}", (place + 1) / 4) for place in range(len(tokens))]}
            for i in range(layers)
        ],
    }  # fmt: skip


def keep(store: Path, prompt: str, **changes: Any) -> None:
    settings = {"model": MODEL, "prompt": prompt, "positions": True, "top": 5}
    keep_result(model_results(store, MODEL), "lens", settings, {**document(prompt), **changes}, run_id=None)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A run of 2 layers, and two prompts' lenses of its model's 3 layers."""
    store = tmp_path / "store"
    write_study(store)
    keep(store, "An earlier prompt")
    keep(store, "The red tulip")
    return store


def rows(app: Driven) -> list[list[str]]:
    box = app.pane.table.content_region
    return [line[2:].split() for line in app.lines[box.y + 1 : box.y + box.height][: app.pane.table.total]]


async def test_the_layers_answers(start: Start, kept: Path, size: tuple[int, int]) -> None:
    engine = Engine(kept)
    try:
        async with start(engine, "study", size=size) as app:
            await go(app, "lens")
            assert '"The red tulip": " tulip" 75.0% after 3 tokens' in app.text, "the newest kept one"
            shown = rows(app)
            assert [row[:4] for row in shown] == [
                ["L0", "3", "25.0%", "2.500"],
                ["L1", "2", "50.0%", "1.500"],
                ["L2", "1", "75.0%", "0.500"],
            ]
            assert shown[0][4:] == ['"', 'tulip"', "25%", "–", "12%"]
            assert 'probability that each layer gives to the model\'s answer " tulip", %' in app.text
            assert (
                "75.0┤" in app.text
                and "█" in app.text
                and any(line.split() == ["L0", "L1", "L2"] for line in app.lines)
            )
            await app.press("c")
            assert "entropy of what each layer would answer" in app.text
            await app.press("d")
            assert '1 " red"' in app.text and "␛[31mred" in app.text and "\x1b" not in app.text
            assert rows(app)[1][:4] == ["L1", '"', '1a0"', "25%"]
            await app.press("slash")
            await app.type("2a1")
            await app.press("enter")
            assert [row[0] for row in rows(app)] == ["L2"]
    finally:
        engine.close()


async def test_keys_lead_to_earlier_lenses_and_to_the_layers_neurons(start: Start, kept: Path) -> None:
    engine = Engine(kept)
    try:
        async with start(engine, "study") as app:
            await go(app, "lens An earlier prompt")
            assert '"An earlier prompt"' in app.text and "2 of 2" in app.text
            await app.press(">")
            assert '"The red tulip"' in app.text and "1 of 2" in app.text
            await app.press("j", "enter")
            assert app.crumbs.endswith("lens > neurons of L1")
            await app.press("escape", "G", "enter")
            assert app.status == "this run holds no neurons of L2 at mlp", (
                "the model has more layers than were captured"
            )
            await app.press("y")
            assert "sent" in app.status
            await app.press("i")
            await app.type("Something new")
            await app.press("enter")
            assert "No lens of this prompt is kept" in app.text
            assert "--lens 'Something new' --positions" in " ".join(app.text.split())
            await app.press("<")
            assert '"The red tulip"' in app.text, "back to what is kept"
            await app.press("question_mark")
            assert "lens.prompt" in app.app.screen._text.plain
            assert "analysis.mark" not in app.app.screen._text.plain, "rows are layers: there is nothing to mark"
    finally:
        engine.close()


async def test_another_versions_lens_says_so(start: Start, kept: Path) -> None:
    keep(kept, "The red tulip", prompt_tokens=["The"])
    engine = Engine(kept)
    try:
        async with start(engine, "study") as app:
            await go(app, "lens")
            assert "of another version of nfinspect: r recomputes it" in app.status
    finally:
        engine.close()


async def test_a_prompt_of_the_run_or_a_typed_one_is_asked_about(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "lens")
        assert "No lens is kept yet" in app.text and "'The red tulip'" in app.text
        await app.press("p")
        assert "0 tulip: The red tulip" in app.text and "1 hanoi: Hanoi ␛[31mred" in app.text
        await app.press("down", "enter", "r")
        prompt = f"Hanoi {HOSTILE}\nis"
        assert engine.started == [
            ("logits", "gpt2", "--lens", prompt, "--positions", "--from", "demo", "--store", "/store")
        ]
        assert "\x1b" not in app.text
        await app.press("x")
        assert engine.job.state().cancelled
        engine.job.end(130, "cancelled: nothing was saved")
        await ended(app)
        await app.press("i")
        await app.type("It's 5")
        await app.press("enter", "R", "enter")
        assert engine.started[1][:5] == ("logits", "gpt2", "--lens", "It's 5", "--positions")


async def test_a_run_without_texts_asks_for_one(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "texts", lambda self, most: ())
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "lens")
        await app.press("p")
        assert "has no text of its prompts" in app.status
        await app.press("r")
        assert not engine.started, "TEXT has to be put in"
        await app.type("'Tulips are'")
        await app.press("enter")
        assert engine.started[0][:5] == ("logits", "gpt2", "--lens", "Tulips are", "--positions")


@pytest.mark.slow
async def test_the_real_command_makes_and_keeps_it(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    prompts = [ArrayPrompt("tulip", "The red tulip", token_ids(i).tolist(), ["x"] * 32, 32) for i in range(PROMPTS)]
    info = replace(array_info("sample", 0), model=str(SAMPLE))
    write_run(store / "sample.duckdb", layers=LAYERS, prompts=prompts, values=values, info=info)
    engine = Engine(store)
    try:
        async with start(engine, "sample") as app:
            await go(app, "lens")
            await app.press("r")
            await ended(app)
            (result,) = list_results(run_results(store / "sample.duckdb"))
            assert (result.kind, result.settings["prompt"]) == ("lens", "The red tulip")
            assert "".join(result.document["prompt_tokens"]) == "The red tulip"
            shown = rows(app)
            assert [row[0] for row in shown] == ["L0", "L1", "L2", "L3"] and shown[-1][1] == "1"
            assert json.dumps(result.document["answer"]["token"])[1:-1].strip() in app.text
    finally:
        engine.close()


def test_the_map_shows_the_row_and_the_last_tokens() -> None:
    found = Lens(document("x", layers=40, tokens=[f" {i}" for i in range(300)]))
    caption, *lines = plot_lines(SPEC.drawings[-1].plot, found, found.layers[5], 60, 10, True)
    assert "after each token 244-299" in caption
    assert len(lines) == 9 and all(len(line) <= 60 for line in lines)
    assert sum(line.startswith("L5 >") for line in lines) == 1
    small = Lens(document("x"))
    _, top, *_ = plot_lines(SPEC.drawings[-1].plot, small, None, 60, 10, True)
    assert top == "L2 " + "::::::" + "++++++" + "******"


async def test_a_number_is_a_prompt_of_the_run(start: Start) -> None:
    engine = FakeEngine()
    text = engine.session.first_text
    async with start(engine) as app:
        for typed, prompt in (("lens 3", text(3)), ("lens 99 bottles", "99 bottles"), ("lens 9999", "9999")):
            await go(app, typed)
            assert app.pane._prompt == prompt
        await go(app, "lab 5")
        assert app.pane._setup.prompt == text(5)
        await app.press("escape", "w")
        walked = app.pane._prompt.prompt_idx
        await go(app, "lens")
        assert app.pane._first == walked and app.pane._prompt == text(walked)
