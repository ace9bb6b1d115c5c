"""The lab's generations kept as runs: the command, the keys, and that the run is what was on screen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from app_driver import LARGE, Driven, Start
from test_lab_pane import GPT2, LabEngine, capture, document, look, retyped

import nfinspect as nf
from nfinspect.backend.client import Backend
from nfinspect.backend.directory import living
from nfinspect.backend.protocol import JobState
from nfinspect.tui.capture_form import keep_prompts
from nfinspect.tui.captures import Captures, JobAt, Seen
from nfinspect.tui.lab import Setup, kept_command, kept_prompt, python, setup_of, typed_change
from nfinspect.tui.lab_job import Experiment, Written
from nfinspect.tui.output import prompts_folder


def test_the_capture_is_read_back_as_it_was_meant(tmp_path: Path) -> None:
    from nfinspect.cli.capture import capture

    setup = Setup(
        "night", "m", "float32", "each", True, prompt="a\nb",
        changes=(typed_change("add L1/N2=3"), typed_change("zero @x"), typed_change("direction a-b@resid:L2=4")),
        new_tokens=7, temperature=0.123456789, seed=20260115, start=2, controls=0,
    )  # fmt: skip
    path, content = kept_prompt(setup, tmp_path)
    assert json.loads(content) == {"prompts": ["a\nb"]} and path.parent == tmp_path
    assert kept_prompt(setup, tmp_path) == (path, content) != kept_prompt(replace(setup, prompt="a"), tmp_path)
    command = kept_command(setup, "x y", path, ("mlp", "resid"), [0, 2])
    found = capture.make_context("capture", list(command[1:])).params
    named = ("model", "prompts", "generate", "add", "zero", "direction", "temperature", "seed", "start", "dtype", "bos",
             "chat", "sites", "layers", "name")  # fmt: skip
    assert [found[name] for name in named] == [
        "m", (f"lab={path}",), 7, ("L1/N2=3",), ("@x",), ("night:a-b@resid:L2=4",), 0.123456789, 20260115, 2, "float32",
        "each", True, "mlp,resid", "0,2", "x y",
    ]  # fmt: skip
    plain = kept_command(replace(setup, changes=()), "x", path, ("mlp",), None)
    assert "--from" not in plain and "--layers" not in plain, "without edits there is nothing to begin"
    assert capture.make_context("capture", list(plain[1:])).params["keep"] == "all"
    statistics = kept_command(setup, "x", path, ("mlp",), None, "stats")
    assert capture.make_context("capture", list(statistics[1:])).params["keep"] == "stats"


async def test_a_run_of_statistics_alone_is_kept_as_one(start: Start) -> None:
    """As of a mixture of experts, whose neurons have nothing else: a capture of all their values is refused."""
    engine = LabEngine()
    captures = engine.captures = KeepingCaptures()  # type: ignore[assignment]
    engine.session.info = replace(engine.session.info, settings={**engine.session.info.settings, "keep": "stats"})
    async with start(engine) as app:
        await shown(app, engine)
        await app.press("K", "enter")
        (command,) = captures.begun
        assert command[command.index("--keep") + 1] == "stats"


def test_a_lab_of_an_edited_run_begins_with_its_edits() -> None:
    """They are those of the settings, and typed again they are the same."""
    one = {"kind": "zero", "site": "mlp", "layer": 0, "neurons": [1, 2], "amount": None, "direction": None}
    settings: dict[str, Any] = {
        "edits": [
            one,
            {**one, "kind": "clamp", "neurons": [5], "amount": 60.0},
            {**one, "kind": "clamp", "site": "resid", "layer": 2, "neurons": [7], "amount": 60.0},
            {**one, "kind": "clamp", "neurons": [9], "amount": 60.0},
            {**one, "kind": "direction", "neurons": [], "amount": -2.5, "direction": "night:a-b@resid:L1=-2.5"},
        ],
        "edits_from": 3,
    }
    info = SimpleNamespace(model="m", kind="capture", dtype="float32", settings=settings)
    setup = replace(setup_of("edited", cast(Any, info)), prompt="a")
    assert [change.text for change in setup.changes] == [
        "zero L0/N1,L0/N2", "clamp L0/N5,resid:L2/N7=60", "clamp L0/N9=60", "direction night:a-b@resid:L1=-2.5"
    ]  # fmt: skip
    assert setup.start == 3 and tuple(typed_change(change.text) for change in setup.changes) == setup.changes
    words = kept_command(setup, "again", Path("p.json"), ("mlp",), None)
    assert words[words.index("--direction") + 1] == "night:a-b@resid:L1=-2.5"
    assert words[words.index("--from") + 1] == "3"
    assert "direction=['night:a-b@resid:L1=-2.5']" in python(setup, Path("store"))
    for strange in (7, [7], [{}], [{**one, "kind": "grow"}], [{**one, "layer": "x"}]):
        info.settings = {"edits": strange, "edits_from": 3}
        assert setup_of("edited", cast(Any, info)).changes == ()


class KeepingCaptures:
    """Begins what it is told, and goes on as the test says."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, ...]] = []
        self.now = JobState(4, (), "", "running")
        self.watched = 0

    def begin(self, arguments: tuple[str, ...], directory: Path) -> tuple[JobAt, JobState]:
        self.begun.append(arguments)
        return JobAt("b", 4), self.now

    def watch(self, at: JobAt, job: JobState) -> "KeepingCaptures":
        self.watched += 1
        return self

    def look(self) -> Seen:
        return Seen(JobAt("b", 4), self.now)

    def forget(self, watch: object) -> None:
        self.watched -= 1

    def statuses(self) -> tuple[Any, ...]:
        return ()

    def of_run(self, run: str) -> None:
        return None


def prompts_in(path: Path) -> Any:
    return json.loads(path.read_text())["prompts"]


async def shown(app: Driven, engine: LabEngine) -> None:
    """A generation with edits is on screen."""
    await app.press("colon")
    await app.type("lab Go")
    await app.press("enter", "c")
    await retyped(app, "clamp L0/N1=8")
    await app.press("r")
    experiment = engine.experiments[-1]
    experiment.now = Written(replace(experiment.now.job, state="done"), (), False, document([" to"], [" red"], 1))
    await look(app)


async def test_what_is_on_screen_is_kept_and_opened(start: Start, size: tuple[int, int]) -> None:
    engine = LabEngine()
    captures = engine.captures = KeepingCaptures()  # type: ignore[assignment]
    async with start(engine, size=size) as app:
        await app.press("x", "K")
        assert not captures.begun and "keep as run" not in app.text and "K Keep" not in app.lines[-1]
        await app.press("escape")
        await shown(app, engine)
        await app.press("j", "d", "K")  # the setup has changed: kept is what is on screen
        assert "demo-edited" in app.lines[-2]
        await app.press("enter")
        (command,) = captures.begun
        assert command[:2] == ("capture", "gpt2") and command[-4:] == ("--run", "demo-edited", "--store", "/store")
        assert (
            command[command.index("--clamp") + 1] == "L0/N1=8" and command[command.index("--sites") + 1] == "mlp,resid"
        )
        prompts = Path(command[command.index("--prompts") + 1].removeprefix("lab="))
        assert prompts.parent == prompts_folder() and prompts_in(prompts) == ["Go"]
        assert any("kept as" in line and "demo-edited  (capturing" in line for line in app.lines)
        captures.now = replace(captures.now, state="done", status=0)
        await look(app)
        assert "kept as demo-edited" in app.status and captures.watched == 0
        assert any("demo-edited  (Enter opens it)" in line for line in app.lines)
        assert any("capture" in one.text and "--clamp" in one.text for one in app.app.journal.entries)
        await app.press("enter")
        assert app.crumbs == "nfinspect > demo-edited"


async def test_what_could_not_be_kept_says_why_and_is_asked_again(start: Start) -> None:
    engine = LabEngine()
    captures = engine.captures = KeepingCaptures()  # type: ignore[assignment]
    async with start(engine, size=LARGE) as app:
        await shown(app, engine)
        await app.press("K")
        await retyped(app, "other")
        captures.now = replace(captures.now, state="failed", status=1, line="nfinspect: other exists already")
        await look(app)
        assert app.status == "other exists already"
        assert any("kept as" in line and "not other: other exists already" in line for line in app.lines)
        await app.press("K")
        assert "demo-edited" in app.lines[-2]
        await app.press("escape", "r")
        assert not any("kept as" in line for line in app.lines), "another generation is written"


# with real backends


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("kept")
    capture(made, "--run", "night")
    yield made
    for entry in living(made)[0]:
        with Backend.connect(made, entry.id) as backend:
            backend.stop()


def came_of(store: Path, setup: Setup) -> Any:
    experiment = Experiment(store, setup)
    experiment.begin()
    try:
        while not (seen := experiment.look()).job.ended:
            pass
    finally:
        experiment.close()
    assert seen.document is not None, seen.job.line
    return seen.document


def kept(store: Path, setup: Setup, run: str) -> nf.Run:
    path, content = kept_prompt(setup, prompts_folder())
    keep_prompts(path, content)
    captures = Captures(store)
    command = (*kept_command(setup, run, path, ("mlp", "resid"), None), "--store", str(store))
    watch = captures.watch(*captures.begin(command, Path.cwd()))
    try:
        while not (seen := watch.look()).over:
            pass
    finally:
        captures.close()
    assert seen.job.state == "done", seen.lost or seen.job.line
    return nf.open_run(store / f"{run}.duckdb")


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("edits", [("clamp L2/N3,L2/N4=30", "direction tulip-baseline@resid:L2=2"), ()])
def test_the_run_has_the_very_text_that_the_lab_shows(store: Path, edits: tuple[str, ...], temperature: float) -> None:
    setup = Setup(
        "night", GPT2, "float32", prompt='A "tulip"\nis', changes=tuple(map(typed_change, edits)), new_tokens=24,
        temperature=temperature, seed=5, start=2, controls=0,
    )  # fmt: skip
    found = came_of(store, setup)
    side = found["edited"] if edits else found["original"]
    with kept(store, setup, f"kept-{len(edits)}-{temperature}") as run:
        tokens = run.prompt_tokens(0)
        assert tokens.token_id.tolist() == [token["token_id"] for token in side["tokens"]]
        assert tokens.generated.tolist() == [token["generated"] for token in side["tokens"]]
        assert "".join(tokens.token) == setup.prompt + side["text"]
        assert run.concepts == ("lab",) and run.sites == ("mlp", "resid") and run.info.seed == 5
        for place, token in enumerate(side["tokens"]):  # the values, too, are those that the lab told
            for one in token["strongest"]:
                value = run.neuron(one["layer"], one["neuron"], found["site"])[place]
                assert value == pytest.approx(one["value"], abs=1e-3)
        if edits:
            assert found["comparison"]["first_difference"] is not None
            assert set(run.neuron(2, 3)[2:]) == {30.0} and 30.0 not in run.neuron(2, 3)[:2]
            assert run.edits == ("clamp L2/N3,L2/N4=30; direction night:tulip-baseline@resid:L2=2; from token 2")
        else:
            assert run.edits == ""
