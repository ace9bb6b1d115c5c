"""Having an analysis made from the app: the command, its progress, its end, and cancelling it."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analysed_run import LAYERS, write_study
from app_driver import Driven, Start
from fake_engine import HOSTILE, FakeEngine, FakeJob, FakeSession

from nfinspect.tui.commands import by_backend
from nfinspect.tui.engine import Engine
from nfinspect.tui.jobs import Job, end_all
from nfinspect_store.results import list_results, run_results

DOCUMENT = {
    "address": "L0/N3", "site": "mlp", "layer": 0, "neuron": 3, "model": "gpt2", "vocabulary": 50257, "std": 0.5,
    "promoted": [{"token_id": 1, "token": HOSTILE, "effect": 1.25}, {"token_id": 2, "token": " red", "effect": 0.5}],
    "suppressed": [{"token_id": 3, "token": None, "effect": -0.75}],
}  # fmt: skip


async def go(app: Driven, place: str) -> None:
    await app.press("colon")
    await app.type(place)
    await app.press("enter")


async def ended(app: Driven, seconds: float = 60) -> None:
    """Until no command is under way."""
    until = time.monotonic() + seconds
    while app.app.board._jobs:
        assert time.monotonic() < until, app.text
        await asyncio.sleep(0.05)
        app.app.board.look()
    await app.settle()


def look(app: Driven) -> Any:
    app.app.board.look()
    return app.settle()


async def test_the_tokens_of_a_neuron_are_those_of_its_site(start: Start) -> None:
    """Nothing marked there, and no place opened from there, is of another site."""
    async with start(FakeEngine()) as app:
        await go(app, "logits L0/N3")
        await app.press("S")
        assert app.pane.site == "mlp" and app.lines[0].rstrip().endswith("demo · mlp")


@pytest.mark.parametrize("idle", [True, False])
async def test_a_backend_that_holds_the_model_is_asked(
    start: Start, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    """Another process would load the model again. What is shown and logged needs no backend."""
    engine, asked = FakeEngine(), []

    def holds(*model: str) -> bool:
        asked.append(model)
        return idle

    monkeypatch.setattr(engine.captures, "holds", holds)
    info = engine.session.info
    async with start(engine) as app:
        await go(app, "logits L0/N3")
        await app.press("r")
        assert engine.started[0][:2] == (("logits", "--backend") if idle else ("logits", info.model))
        assert asked == [(info.model, info.dtype, info.device)]
        assert "--backend" not in app.text and not any("--backend" in e.text for e in app.app.journal.entries)


def test_a_command_that_says_how_its_model_is_loaded_runs_alone() -> None:
    session: Any = FakeSession()
    model = session.info.model

    def holds(name: str, dtype: str, device: str) -> bool:
        return name == model

    def by(*words: str) -> tuple[str, ...]:
        return by_backend(words, session, holds)

    assert by("walk", "demo") == ("walk", "--backend", "demo")
    assert by("attention", model, "--prompts", "p") == ("attention", "--backend", model, "--prompts", "p")
    alone = [
        ("ngrams", "demo"),
        ("logits", "other", "L0/N3"),
        ("logits", model, "L0/N3", "--dtype", "float16"),
        ("ablate", model, "--device=cpu"),
        ("walk", "demo", "--model", "m"),
        ("logits", "--backend", model),
        ("logits",),
    ]
    for words in alone:
        assert by(*words) == words


async def test_the_command_of_an_analysis_with_its_own_site_is_about_the_site_on_screen(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await go(app, "sinks")
        assert app.pane.site == "resid"
        assert "nfinspect sinks demo --store" in app.text
        await app.press("S")
        assert app.pane.site == "mlp"
        assert "nfinspect sinks demo --site mlp --store" in app.text


async def test_progress_end_and_the_way_to_the_result(start: Start) -> None:
    engine = FakeEngine()
    engine.job = FakeJob(json.dumps(DOCUMENT))
    async with start(engine) as app:
        await go(app, "L0/N3")
        await app.press("p")
        assert app.crumbs.endswith("L0/N3 > logits L0/N3")
        assert "This needs the model's weights" in app.text
        await app.press("r")
        assert engine.started == [
            ("logits", "gpt2", "mlp:L0/N3", "--top", "50", "--json", "--from", "demo", "--store", "/store")
        ]
        assert "x Cancel" in app.text
        engine.job.say(f"loading {HOSTILE} 3/12 (25%)")
        await look(app)
        assert "computing, 3 s: loading" in app.text and "3/12 (25%)" in app.text and "\x1b" not in app.text
        await app.press("r")
        assert "being computed already" in app.status and len(engine.started) == 1
        engine.job.end()
        await ended(app)
        assert "std of the effect over 50,257 tokens" in app.text
        assert "+1.2500" in app.text and "-0.7500" in app.text and "␛[31mred" in app.text
        assert "what one unit of its value adds" in app.text
        assert "x Cancel" not in app.text
        await app.press("enter")
        assert app.crumbs.endswith("logits L0/N3 > L0/N3")


async def test_a_neuron_of_another_site_is_not_shown_as_the_one_asked_for(start: Start) -> None:
    """L0/N3 of a run of resid alone is a coordinate of the stream; the model's L0/N3 is a neuron of its MLP."""
    engine = FakeEngine()
    engine.session = FakeSession(sites=("resid",), default_site="resid")
    engine.job = FakeJob(json.dumps(DOCUMENT))
    async with start(engine) as app:
        await go(app, "L0/N3")
        await app.press("p", "r")
        assert engine.started[0][:3] == ("logits", "gpt2", "resid:L0/N3")
        engine.job.end()
        await ended(app)
        assert "the command was about mlp:L0/N3, not resid:L0/N3" in app.text and "+1.2500" not in app.text


async def test_a_command_that_fails_is_one_line(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "ngrams")
        await app.press("r")
        engine.job.end(1, f"expected 'gpt2' here, found {HOSTILE}")
        await look(app)
        assert "! expected 'gpt2' here, found" in app.text and "\x1b" not in app.text
        await app.press("2")
        assert "! expected" not in app.text


async def test_cancelling_goes_to_the_command(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "positions")
        await app.press("r", "x")
        assert engine.job.state().cancelled
        assert "cancelling" in app.text
        engine.job.end(130, "cancelled: nothing was saved")
        await look(app)
        assert app.status == "cancelled: nothing was saved"
        assert "r computes it" in app.text


async def test_a_command_goes_on_when_its_pane_is_left(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "delta")
        await app.press("r", "escape", "a")
        assert "computing" in app.text
        engine.job.end()
        await look(app)
        assert "delta of demo is done" in app.status
        assert "computing" not in app.text


async def test_what_only_the_user_knows_is_asked_for(start: Start) -> None:
    session = FakeSession()
    session.info = replace(session.info, model="")
    engine = FakeEngine(session=session)
    async with start(engine) as app:
        await go(app, "ablate")
        await app.press("r")
        assert not engine.started, "the run names no model: MODEL has to be put in"
        await app.type("./mine")
        await app.press("enter")
        assert engine.started[0][:5] == ("ablate", "./mine", "--from", "demo", "--class")


@pytest.mark.slow
async def test_a_model_is_remembered_once_it_has_done_what_was_asked(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        for model, status in (("./other", 1), ("./moved", 0)):
            engine.job = FakeJob()
            await go(app, "attention")
            await app.press("R", *["backspace"] * 200)
            await app.type(f"attention {model} --from demo")
            await app.press("enter")
            await go(app, "ablate")
            engine.job.end(status, "expected the weights that demo was captured from")
            await look(app)
            await go(app, "ablate")
            assert f"nfinspect ablate {'gpt2' if status else model} --from demo" in " ".join(app.text.split())


async def test_why_a_command_failed_is_said_where_it_was_asked_for(start: Start) -> None:
    """Although the user was elsewhere when it did."""
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "ngrams")
        await app.press("r")
        await go(app, "L0/N3")
        engine.job.end(1, "no space left for the result")
        await look(app)
        assert app.status == "ngrams of demo: no space left for the result"
        await app.press("j")
        await go(app, "ngrams")
        assert "! no space left for the result" in app.text and app.status == "no space left for the result"
        await go(app, "L0/N3")
        await go(app, "ngrams")
        assert "! no space left" in app.text
        await app.press("2")
        assert "no space left" not in app.text


async def test_the_command_can_be_edited_and_is_of_its_analysis(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "ngrams")
        await app.press("R", "home")
        await app.type("x")
        await app.press("enter")
        assert "expected the command ngrams" in app.status and not engine.started
        await app.press("R")
        line = app.app.focused
        assert line.value.startswith("xngrams demo"), "an error does not lose what was typed"
        assert line.cursor_position == len(line.value) and line.selection.is_empty, "typing does not wipe it"
        await app.press("home", "delete", "end")
        await app.type(" --layers 0")
        await app.press("enter")
        assert engine.started == [("ngrams", "demo", "--n", "1", "--store", "/store", "--layers", "0")]


async def test_marked_neurons_are_what_an_ablation_cuts_out(start: Start) -> None:
    session = FakeSession()
    engine = FakeEngine(session=session)
    async with start(engine) as app:
        await go(app, "neurons")
        await app.press("space", "space")
        await go(app, "ablate")
        assert "--neurons /store/demo.results/marked.txt" in " ".join(app.text.split())
        await app.press("r")
        assert session.calls[-1] == ("write_inputs", ("L0/N0", "L0/N1"))


async def test_a_command_reads_as_the_capture_did(start: Start) -> None:
    """An ablation the run's own windows, whatever files they are from; a lens with what stood before the prompts."""
    session = FakeSession()
    settings = {"files": ["prompts.csv", __file__], "context": 64, "max_tokens": 6000, "bos": "none"}
    session.info = replace(session.info, settings=settings)
    engine = FakeEngine(session=session)
    async with start(engine) as app:
        await go(app, "ablate")
        await app.press("r")
        assert engine.started.pop() == ("ablate", "gpt2", "--from", "demo", "--class", "dead", "--store", "/store")
        engine.job = FakeJob()
        await go(app, "lens")
        await app.press("r")
        assert engine.started.pop()[4:] == ("--positions", "--bos", "none", "--from", "demo", "--store", "/store")


async def test_deleting_a_run_ends_its_commands(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await go(app, "ngrams")
        await app.press("r")
        app.app.forget_run("demo")
        assert engine.job.state().cancelled
        await app.settle()


async def test_every_analysis_is_in_the_palette(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("ctrl+p")
        await app.type("analysis attention")
        await app.press("enter")
        assert app.crumbs.endswith("demo > attention")


@pytest.mark.slow
async def test_a_real_command_makes_and_keeps_the_result(start: Start, tmp_path: Path) -> None:
    path = write_study(tmp_path / "store")
    engine = Engine(path.parent)
    try:
        async with start(engine, "study") as app:
            await go(app, "delta")
            assert "No result is kept" in app.text
            await app.press("r")
            await ended(app)
            assert "2 delta-sensitive of 24 neurons" in app.text
            assert [result.kind for result in list_results(run_results(path))] == ["delta"]
            assert app.pane.has_result, "r would make it again"
            await go(app, "kinds")
            await app.press("R", "ctrl+u")
            await app.type("overlap study --kinds dead,positional --store " + str(path.parent))
            await app.press("enter")
            await ended(app)
            kinds = {result.kind for result in list_results(run_results(path))}
            assert kinds == {"delta", "positions"}, "the analysis that was missing is made and kept"
            assert "dead 1, positional 1, delta 2;" in " ".join(app.text.split())
    finally:
        engine.close()


async def test_a_run_without_values_says_why(start: Start, store: Path) -> None:
    engine = Engine(store)
    try:
        async with start(engine, "stats") as app:
            await go(app, "ngrams")
            assert "statistics only (--keep stats)" in " ".join(app.text.split())
            await app.press("r")
            assert not app.app.board._jobs
            assert not list(run_results(store / "stats.duckdb").glob("*"))
    finally:
        engine.close()


def waited(until: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW = """
import sys, time
from nfinspect.analysis import ngrams as analysis
real = analysis.fired_chunks
def slow(run, layer):
    for chunk in real(run, layer):
        yield chunk
        time.sleep(60)
analysis.fired_chunks = slow
from nfinspect.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "heeds", [pytest.param(True, id="interrupted"), pytest.param(False, id="killed", marks=pytest.mark.slow)]
)
def test_a_cancelled_command_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    """A real process in the middle of its work, by SIGINT, or by SIGKILL where it does not heed that."""
    path = write_study(tmp_path / "store")
    script = tmp_path / ("slow.py" if heeds else "deaf.py")
    script.write_text(SLOW if heeds else "import signal; signal.signal(2, signal.SIG_IGN)\n" + SLOW)
    monkeypatch.setattr("nfinspect.tui.jobs.COMMAND", ("-P", str(script)))
    monkeypatch.setattr("nfinspect.tui.jobs.PATIENCE", 20 if heeds else 0.3)
    job = Job(("ngrams", "study", "--store", str(path.parent), "--recompute"))
    waited(lambda: f"/{sum(layer.neurons for layer in LAYERS)}" in job.state().line)
    job.cancel()
    waited(lambda: job.state().status is not None)
    assert job.state().line == "cancelled: nothing was saved"
    assert job.state().status == (130 if heeds else -9)
    assert not list(path.parent.rglob("*.results/*"))


def test_no_command_outlives_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal, sys, time\nsignal.signal(2, signal.SIG_IGN)\nprint('here', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr("nfinspect.tui.jobs.COMMAND", ("-P", str(script)))
    monkeypatch.setattr("nfinspect.tui.jobs.FAREWELL", 0.3)
    job = Job(())
    waited(lambda: job.state().line == "here")
    end_all([job])
    with pytest.raises(ProcessLookupError):
        os.killpg(job._process.pid, 0)
