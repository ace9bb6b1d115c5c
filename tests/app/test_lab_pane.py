"""The lab: what it asks, the Python and the command that do the same, and a real backend in a real terminal."""

import contextlib
import io
import json
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nfinspect_samples
import pytest
from app_driver import LARGE, Driven, Start
from fake_engine import FakeEngine, FakeSession
from terminal import Terminal

import nfinspect as nf
from nfinspect.backend.client import Backend, Lost
from nfinspect.backend.directory import living
from nfinspect.backend.protocol import JobState, Token
from nfinspect.backend.written import KEPT
from nfinspect.backend.written import Written as Held
from nfinspect.cli import main
from nfinspect.tui.cells import content
from nfinspect.tui.engine import Engine
from nfinspect.tui.glyphs import ASCII, UNICODE
from nfinspect.tui.lab import NUMBERS as FIELDS
from nfinspect.tui.lab import (
    Change,
    Setup,
    command,
    prompt_line,
    python,
    typed_change,
    typed_number,
    typed_prompt,
)
from nfinspect.tui.lab_job import Experiment, Written
from nfinspect.tui.lab_lines import difference, next_tokens, verdict, whole_text
from nfinspect.tui.output import state_dir
from nfinspect_store.errors import RequestError

GPT2 = str(nfinspect_samples.path("gpt2-relu"))
PROMPTS = Path(__file__).parents[2] / "samples/prompts"
NUMBERS = {one.field: one for one in FIELDS}


def capture(store: Path, *options: str) -> None:
    prompts = ("--prompts", str(PROMPTS / "tulip.json"), "--prompts", str(PROMPTS / "baseline.json"))
    assert main(["capture", GPT2, *prompts, "--sites", "mlp,resid", "--store", str(store), *options]) == 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real run, and one of its statistics alone; the backends that tests leave are ended."""
    made = tmp_path_factory.mktemp("lab")
    capture(made, "--run", "night")
    capture(made, "--run", "stats", "--keep", "stats")
    yield made
    for entry in living(made)[0]:
        with Backend.connect(made, entry.id) as backend:
            backend.stop()


# what is asked


@pytest.mark.parametrize(
    "text",
    ["zero @marked", "scale L3/N17=0.5", "clamp L3/N17,resid:L4/N2=8", "add @hot=-1e3", "direction a-b@resid:L2=4"],
)
def test_an_edit_is_typed_as_it_is_shown(text: str) -> None:
    assert typed_change(text).text == text
    assert typed_change(f"  {text.upper() if text.startswith('clamp') else text} ").kind == text.split()[0]


@pytest.mark.parametrize(
    "text", ["", "zero", "grow L3/N17=2", "scale L3/N17", "scale L3/N17=much", "zero L3", "direction a-b=4", "clamp =4"]
)
def test_a_mistyped_edit_is_one_line(text: str) -> None:
    with pytest.raises(RequestError) as error:
        typed_change(text)
    assert "\n" not in str(error.value)


def test_kinds_turn_and_keep_the_amount() -> None:
    change = typed_change("clamp L3/N17=8")
    turned = [change := change.turned() for _ in range(4)]
    assert [one.text for one in turned] == ["add L3/N17=8", "zero L3/N17", "scale L3/N17=8", "clamp L3/N17=8"]


def test_numbers_and_prompts() -> None:
    assert typed_number(NUMBERS["temperature"], "0.7") == 0.7 and typed_number(NUMBERS["controls"], "0") == 0
    too_large = [("temperature", "inf"), ("temperature", "1e7"), *((one, "9" * 310) for one in NUMBERS)]
    for field, text in (("temperature", "nan"), ("new_tokens", "0"), ("seed", "-1"), ("controls", "7"), ("start", "x"),
                        *too_large):  # fmt: skip
        with pytest.raises(RequestError):
            typed_number(NUMBERS[field], text)
    for prompt in ("a\nb", "C:\\new", "\\", "tab\tand \\n", "漢字"):
        assert typed_prompt(prompt_line(prompt)) == prompt and "\n" not in prompt_line(prompt)
    with pytest.raises(RequestError):
        typed_prompt("a\0")


def test_the_command_is_read_back_as_it_was_meant() -> None:
    from nfinspect.cli.generate import generate

    setup = Setup(
        "night", "m", "float32", prompt="-5 is a\nnumber",
        changes=(typed_change("add L1/N2=3"), typed_change("zero @x")),
        new_tokens=7, temperature=0.123456789, seed=20260115, start=2, controls=0,
    )  # fmt: skip
    found = generate.make_context("generate", list(command(setup)[1:])).params
    assert (found["model"], found["prompt"], found["add"], found["zero"]) == (
        "m", setup.prompt, ("L1/N2=3",), ("@x",),
    )  # fmt: skip
    assert [found[name] for name in ("new_tokens", "temperature", "seed", "start", "controls", "dtype")] == [
        7, 0.123456789, 20260115, 2, 0, "float32",
    ]  # fmt: skip


def test_the_python_says_what_the_command_says(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both in this store: a direction of the run, neurons, sampling."""
    changes = (typed_change("clamp L2/N3,L2/N4=30"), typed_change("direction tulip-baseline@resid:L2=2"))
    setup = Setup("night", GPT2, "float32", prompt='A "tulip"\nis', changes=changes, new_tokens=6, temperature=0.8,
                  controls=0, start=1)  # fmt: skip
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(python(setup, store), names)
    capsys.readouterr()
    assert main([command(setup)[0], "--json", "--store", str(store), *command(setup)[1:]]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["original"]["text"] in said.getvalue() and printed["edited"]["text"] in said.getvalue()
    mine = json.loads(json.dumps(names["found"].to_json()))
    assert mine["model"] == printed["model"]
    assert mine == printed


# what is drawn


def document(
    one: list[str], other: list[str], place: int | None, text: tuple[str, str] | None = None
) -> dict[str, Any]:
    def side(words: list[str], whole: str | None) -> dict[str, Any]:
        tokens = [{"token": word, "generated": i > 0} for i, word in enumerate(["Go", *words])]
        return {"text": "".join(words) if whole is None else whole, "tokens": tokens, "nll": 1.0}

    texts = text or (None, None)
    return {
        "prompt": "Go", "prompt_tokens": 1, "original": side(one, texts[0]), "edited": side(other, texts[1]),
        "notes": [],
        "comparison": {"first_difference": place, "changed_values": 7, "delta_nll": None, "control": {"count": 0}},
        "next": [{"token": f" {i}", "original": 0.5**i, "edited": 0.5 ** (12 - i)} for i in range(1, 12)],
    }  # fmt: skip


@pytest.mark.parametrize("place", ["lab", "lens"])
async def test_what_was_typed_is_told_from_a_prompt_of_the_run(start: Start, place: str) -> None:
    async with start(FakeEngine()) as app:
        for typed, said in (("Vietnam", "the prompt is the text as typed; p takes one of the run"),
                            ("1", "the prompt is number 1 of the run")):  # fmt: skip
            await app.press("colon")
            await app.type(f"{place} {typed}")
            await app.press("enter")
            assert app.status == said


def test_edits_that_changed_nothing_are_told() -> None:
    same, other = document([" to"], [" to"], None), document([" to"], [" red"], 1)

    def told(found: dict[str, Any], changed: int) -> list[str]:
        found["comparison"]["changed_values"] = changed
        return [content(*line).plain for line in verdict(found, UNICODE)]

    nothing = "no value was changed: on all tokens read, the edited neurons had these values already"
    assert told(same, 0) == ["both texts are the same", nothing]
    assert told(same, 1) == ["both texts are the same", "1 value changed on the tokens read"]
    assert told(other, 1234)[1] == "1,234 values changed on the tokens read"


def test_the_first_difference_is_marked_where_it_is() -> None:
    found = document([" to", " rest"], [" to", " red", "!"], 2)
    assert [difference(found, side) for side in ("original", "edited")] == [(3, 8), (3, 7)]
    drawn = whole_text(found, "edited")
    assert drawn.plain == "with edits\nGo to red!"
    assert [drawn.plain[span.start : span.end] for span in drawn.spans if "reverse" in str(span.style)] == [" red"]
    ends = document([" to"], [" to", "!"], 2)
    assert difference(ends, "original") == (0, 0) and difference(ends, "edited") == (3, 4)
    pieces = document(["<E6>", "<BC>"], ["<E6>", "<BD>"], 2, ("漢", "潀"))
    assert difference(pieces, "original") == (0, 1), "a character of several tokens"
    assert difference(document([" a"], [" a"], None), "edited") == (0, 0)


@pytest.mark.parametrize("width", [76, 116, 196])
def test_bars_are_as_long_as_probabilities(width: int) -> None:
    lines = next_tokens(document([" a"], [" b"], 1), width, ASCII).plain.split("\n")
    assert len(lines) == 11 and all(len(line) <= width for line in lines)
    bars = [line.count("#") for line in lines[1:]]
    assert bars[0] == max(bars) and "50.0%" in lines[1]


# the pane


class FakeExperiment:
    """Goes on as the test says."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.now = Written(JobState(1, command(setup), "", "running"))
        self.closed = self.cancelled = False

    def begin(self) -> Written:
        return self.now

    def look(self) -> Written:
        return self.now

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.closed = True


class LabEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.experiments: list[FakeExperiment] = []

    def experiment(self, setup: Setup) -> FakeExperiment:
        self.experiments.append(FakeExperiment(setup))
        return self.experiments[-1]


async def look(app: Driven) -> None:
    app.pane._look()
    await app.settle()


async def retyped(app: Driven, text: str) -> None:
    await app.press("ctrl+u")
    await app.type(text)
    await app.press("enter")


async def test_it_is_set_up_run_cancelled_and_comes_back(start: Start, size: tuple[int, int]) -> None:
    engine = LabEngine()
    async with start(engine, size=size) as app:
        await app.press("n", "space", "space", "x")
        assert app.crumbs == "nfinspect > demo > neurons > lab" or app.crumbs.endswith("lab")
        assert "zero @marked  (2 neurons)" in app.text and "The red tulip" in app.text
        assert "$ nfinspect" not in app.lines[-2], "nothing has come of it yet"
        assert "x Cancel" not in app.lines[-1]
        await app.press("j", "v", "enter")
        await retyped(app, "scale L0/N1=nothing")
        assert "with a number" in app.status and "scale @marked=2" in app.text
        await app.press("enter", "up")
        assert "scale L0/N1=nothing" in app.text, "what was typed is there"
        await app.press("escape", "j", "enter")
        await retyped(app, "12")
        await app.press("i")
        await retyped(app, "Two\\nlines")
        setup = app.pane._setup
        assert (setup.prompt, setup.new_tokens, setup.changes) == ("Two\nlines", 12, (Change("scale", "@marked", "2"),))
        await app.press("Y")
        copied = (state_dir() / "clipboard.txt").read_text()
        assert shlex.split(copied)[1:] == ["generate", setup.model, "--scale", "@marked=2", "--new-tokens", "12",
                                           "--dtype", "float32", "Two\nlines", "--store", "/store"]  # fmt: skip
        await app.press("r")
        (experiment,) = engine.experiments
        written = [Token(i, 0, i, word, i > 0) for i, word in enumerate(("Two\nlines", " and", " \x1b[31m"))]
        written += [replace(written[1], index=3, side="edited", text=" or")]
        experiment.now = replace(experiment.now, tokens=tuple(written))
        await look(app)
        assert "writing, 3 tokens so far; x cancels" in app.text and "\x1b[31m" not in app.text
        assert "with edits" in app.text
        for expected in ("lines and \\x1b[31m", "lines or") if not _escaped(app) else ("lines and", "lines or"):
            assert expected in app.text
        await app.press("x")
        assert experiment.cancelled
        experiment.now = replace(experiment.now, job=replace(experiment.now.job, state="cancelled"))
        await look(app)
        assert "! cancelled" in app.text and experiment.closed
        await app.press("r")
        again = engine.experiments[-1]
        ending = replace(again.now.job, state="cancelled", line="nfinspect: the model could not be loaded: no weights")
        again.now = Written(ending)
        await look(app)
        assert "! cancelled: the model could not be loaded: no weights" in app.text
        await app.press("escape", "x")
        assert app.pane._setup == setup, "it is set up as it was"


async def test_a_neuron_of_a_run_is_edited_at_its_site(start: Start) -> None:
    """Of a run of resid alone `L0/N5` is a coordinate of the stream; `generate --zero L0/N5` edits the MLP."""
    engine = LabEngine()
    engine.session = FakeSession(sites=("resid",), default_site="resid")
    async with start(engine) as app:
        await app.press("colon")
        await app.type("L0/N5")
        await app.press("enter", "x")
        assert app.pane._setup.changes == (Change("zero", "resid:L0/N5"),)


def _escaped(app: Driven) -> bool:
    return "lines and \\x1b[31m" not in app.text


def test_tokens_that_the_backend_no_longer_held_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = Held()
    for place in range(KEPT + 50):
        held.add(Token(0, 0, place, f"w{place}", generated=True))
    running = JobState(1, (), "", "running")

    class OneBackend:
        @classmethod
        def find(cls, store: Path, model: str) -> "OneBackend":
            return cls()

        def submit(self, arguments: object, *, attached: bool) -> JobState:
            return running

        def wait(self, known: JobState) -> JobState:
            return running

        def tokens(self, job: int, start: int) -> object:
            return held.read(start)

    monkeypatch.setattr("nfinspect.tui.lab_job.client.Backend", OneBackend)
    experiment = Experiment(tmp_path, Setup("demo", "m", prompt="w"))
    experiment.begin()
    assert [token.index for token in experiment.look().tokens] == list(range(50, KEPT + 50))
    held.add(Token(0, 0, KEPT + 50, "next", generated=True))
    assert [token.index for token in experiment.look().tokens] == list(range(50, KEPT + 51))


async def test_what_came_of_it(start: Start) -> None:
    engine = LabEngine()
    async with start(engine, size=LARGE) as app:
        await app.press("colon")
        await app.type("lab Go")
        await app.press("enter", "r")
        (experiment,) = engine.experiments
        found = document([" to", " rest"], [" to", " red"], 2)
        experiment.now = Written(replace(experiment.now.job, state="done"), (), False, found)
        await look(app)
        assert 'the texts differ from token 2 on: " rest" / " red"' in app.text
        line = next(line for line in app.lines if "Go to rest" in line)
        assert line.index("Go to red") > 90, "side by side"
        shown = [one for one in app.app.journal.entries if one.kind != "sql"]
        assert app.lines[-2].strip().startswith("$ nfinspect generate") and "generate" in shown[-1].text
        await app.press("d", "j", "j", "enter")
        await retyped(app, "3")
        assert "of an earlier setup" in app.text and "$ nfinspect" not in app.lines[-2]
        assert [one for one in app.app.journal.entries if one.kind != "sql"] == shown


async def test_numbers_are_shown_with_every_digit(start: Start) -> None:
    async with start(LabEngine(), size=LARGE) as app:
        await app.press("x")
        for name, text in (("seed", "20260115"), ("temperature", "0.123456789")):
            app.pane.table.move_to(next(i for i, row in enumerate(app.pane._rows()) if row.name == name))
            await app.press("enter")
            await retyped(app, text)
            assert any(name in line and text in line for line in app.lines)
            await app.press("enter")
            assert text in app.lines[-2], "it is typed on as it is"
            await app.press("escape")


async def test_an_error_is_one_line_and_nothing_is_lost(start: Start) -> None:
    engine = LabEngine()
    async with start(engine) as app:
        await app.press("x", "c")
        await retyped(app, "zero L99/N1")
        await app.press("r")
        experiment = engine.experiments[0]
        failed = replace(experiment.now.job, state="failed", status=1, line="nfinspect: expected L0 to L3, found L99")
        experiment.now = Written(failed)
        await look(app)
        assert "! expected L0 to L3, found L99" in app.text and "zero L99/N1" in app.text
        assert app.text.count("found L99") == 1 and app.status.strip() == "r runs it again"
        await app.press("y")
        assert "zero=['L99/N1']" in (state_dir() / "clipboard.txt").read_text()


# with real backends


@pytest.mark.slow
def test_both_texts_stream_and_a_cancelled_one_is_over(store: Path) -> None:
    setup = Setup("night", GPT2, "float32", prompt="Tulips are", changes=(Change("zero", "L1/N5"),), new_tokens=20,
                  controls=5000)  # fmt: skip
    experiment = Experiment(store, setup)
    experiment.begin()
    try:
        while not (seen := experiment.look()).job.ended and seen.job.phase != "controls":
            pass
        sides = [one.side for one in seen.tokens if one.generated]
        assert sides == ["original"] * 20 + ["edited"] * 20, seen.job.line
        experiment.cancel()
        while not seen.job.ended:
            seen = experiment.look()
        assert seen.job.state == "cancelled" and seen.document is None
    finally:
        experiment.close()


@pytest.mark.slow
def test_a_killed_backend_is_one_line(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, Setup("night", GPT2, prompt="Tulips are", changes=(Change("zero", "L1/N5"),),
                                            controls=5000))  # fmt: skip
    experiment.begin()
    try:
        while experiment.look().job.phase != "controls":
            pass
        os.kill(living(tmp_path)[0][0].pid, signal.SIGKILL)
        with pytest.raises(Lost, match="was killed"):
            while True:
                experiment.look()
    finally:
        experiment.close()


@pytest.mark.slow
async def test_it_begins_with_what_it_was_opened_from(start: Start, store: Path) -> None:
    with contextlib.closing(Engine(store)) as engine:
        async with start(engine, "night") as app:
            (store / "marks.jsonl").unlink(missing_ok=True)
            await app.press("colon")
            await app.type("walk 2")
            await app.press("enter", "colon")
            await app.type("lab")
            await app.press("enter")
            with nf.open_run(store / "night.duckdb") as run:
                (text,) = run.sql("SELECT text FROM prompts WHERE prompt_idx = 2").fetchone()
            assert app.pane._setup.prompt == text and text.split()[0] in app.text
            await app.press("colon")
            await app.type("L1/N4")
            await app.press("enter", "x")
            setup = app.pane._setup
            assert setup.prompt == text and setup.changes == (Change("zero", "mlp:L1/N4"),)
            await app.press("D", "enter", "enter", "enter", "enter")
            assert [change.text for change in app.pane._setup.changes][1].startswith("direction ")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["night", "stats"])
def test_marked_neurons_are_clamped_in_a_backend(store: Path, run: str) -> None:
    (store / "marks.jsonl").unlink(missing_ok=True)  # both runs are of one model, and share what is marked
    terminal = Terminal(store, run)
    try:
        terminal.wait_for("Health")
        terminal.settle()
        terminal.send("n")
        terminal.wait_for("neuron ")
        terminal.settle()
        terminal.send("  ")
        terminal.wait_for("2 marked")
        terminal.send(":lab Tulips are\r")
        terminal.wait_for("zero @marked  (2 neurons)")
        terminal.send("j\r")
        terminal.wait_for("edit zero")
        terminal.send("\x15clamp @marked=60\r")
        terminal.wait_for("clamp @marked=60  (2 neurons)")
        terminal.send("r")
        terminal.wait_for("of this size: mean", 120)
        addresses = nf.open_run(store / f"{run}.duckdb").marked("marked")
        assert len(addresses) == 2
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(GPT2, dtype="float32")
        found = nf.generate(
            model, AutoTokenizer.from_pretrained(GPT2), "Tulips are", clamp=f"{','.join(map(str, addresses))}=60"
        )
        assert found.edited is not None and found.comparison is not None
        place = found.comparison.first_difference
        assert place is not None and f"the texts differ from token {place} on" in terminal.text
        assert f"ΔNLL {found.comparison.delta_nll:+.4g}" in terminal.text
        assert "without edits" in terminal.text and "unexpected" not in terminal.text
    finally:
        terminal.close()
