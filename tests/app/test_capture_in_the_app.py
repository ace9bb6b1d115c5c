"""A capture from the app to its run: real backends in real terminals."""

import os
import re
import shlex
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from app_driver import Driven, Start
from capture_steps import (
    MODEL,
    begin,
    browse,
    come_back,
    complete,
    fill_in,
    go_on_to_the_end,
    hang_up,
    opened,
    slow_store,
)
from capture_steps import start as start_it
from fake_engine import FakeEngine, FakeJob, entry

from nfinspect.backend.client import Lost
from nfinspect.backend.directory import living
from nfinspect.backend.protocol import JobState, Status
from nfinspect.tui import capture_form
from nfinspect.tui.capture_form import FIELDS, chosen, completed, words_of
from nfinspect.tui.captures import Captures, JobAt
from nfinspect.tui.output import state_dir
from nfinspect.tui.panes.command import UNDER_WAY
from nfinspect_store.reader import RunFile


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    with slow_store(tmp_path / "store") as made:
        yield made


@pytest.mark.slow
def test_from_an_empty_store_to_a_neuron(store: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night")
        for expected in ("night (capturing)", "tokens/s", "memory", "backend   gpt2-relu on cpu", "phase"):
            assert expected in terminal.text
        terminal.send("p")
        terminal.wait_for("paused")
        terminal.send("p")
        terminal.wait_for("Cancel", 30)
        browse(terminal)
        terminal.send("\r")
        terminal.wait_for("by max")
        terminal.wait_for("capturing")
        go_on_to_the_end(terminal, store)
        terminal.send("\r")
        terminal.wait_for("excess kurtosis")
        assert "unexpected" not in terminal.text
        terminal.send("q")
        assert terminal.process.wait(timeout=20) == 0
    with RunFile.open(store / "night.duckdb") as run:
        assert run.info.status == "complete" and set(run.concepts) == {"tulip", "baseline"}
        assert {(layer.site, layer.layer) for layer in run.layers} == {("mlp", i) for i in range(4)}
    assert living(store)[0], "the backend stays for the next question"


@pytest.mark.slow
def test_a_hang_up_in_the_middle_and_coming_back(store: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night")
        hang_up(terminal)
    assert [entry.job[:1] for entry in living(store)[0]] == [("capture",)]
    with opened(store) as terminal:
        come_back(terminal, "night")
        browse(terminal)
        go_on_to_the_end(terminal, store)


@pytest.mark.slow
def test_a_killed_backend_is_one_line_and_one_key_resumes(store: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night")
        os.kill(living(store)[0][0].pid, signal.SIGKILL)
        terminal.wait_for("was killed", 30)
        terminal.wait_for("r resumes it")
        assert terminal.process.poll() is None
        (store / "slow").unlink()
        terminal.send("r")
        terminal.wait_for("Health", 45)
        assert "not all was captured" not in terminal.text
    complete(store, "night", "tulip", "baseline")


@pytest.mark.slow
def test_a_cancelled_capture_asks_first_and_what_failed_is_told(store: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night")
        terminal.send("x")
        terminal.wait_for("Cancel the capture of night?")
        terminal.send("n")
        (store / "fail").write_text("a fault of the test")
        terminal.wait_for("a fault of the test", 60)
        assert "Cancel the capture" not in terminal.text
        terminal.wait_for("r resumes it")
        terminal.send("r")
        terminal.wait_for("browses what is committed", 60)
        terminal.send("xy")
        terminal.wait_for("cancelled", 60)
        assert terminal.process.poll() is None


def text_of(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")


async def test_the_form_makes_the_command_and_keeps_what_was_typed(start: Start, size: tuple[int, int]) -> None:
    engine = FakeEngine()
    async with start(engine, run=None, size=size) as app:
        await app.press("c")
        assert "^r Estimate, then start" in app.lines[-1]
        await app.type("my-model")
        for keys in ("", "a.json b=c.txt", "What is a tulip?", "", "mlp,resid", "0-3", "5", "stats", "float16", "x y"):
            if keys:
                await app.type(keys)
            await app.press("tab")
        command = app.pane.command()
        assert command[:8] == (
            "capture",
            "my-model",
            "--prompts",
            "a.json",
            "--prompts",
            "b=c.txt",
            "--prompts",
            command[7],
        )
        assert command[8:] == (
            "--sites", "mlp,resid", "--layers", "0-3", "--generate", "5", "--keep", "stats", "--precision", "float16",
            "--run", "x y", "--store", "/store",
        )  # fmt: skip
        shown = re.sub(r"\s+", "", app.text)
        assert "--run'xy'--store/store" in shown
        assert app.app.focused.id == "command"
        await app.press("y")
        assert text_of(state_dir() / "clipboard.txt").startswith("nfinspect capture my-model --prompts a.json")
        await app.press("escape")
        assert app.crumbs == "nfinspect"
        await app.press("c")
        assert app.pane.command() == command

        await app.press("ctrl+r")  # the estimate, in a process of its own
        assert engine.started == [(*command, "--estimate")]
        assert text_of(command[7].removeprefix("typed=")) == "What is a tulip?\n"
        engine.job.end(1, "nfinspect: expected 'my-model' in the local cache")
        app.app.board.look()
        await app.settle()
        assert "expected 'my-model' in the local cache" in app.text
        assert app.pane.command() == command


async def fill_fields(app: Driven) -> None:
    """A new capture with a model and a file of prompts."""
    await app.press("c")
    await app.type("gpt2")
    await app.press("tab")
    await app.type("a.txt")


async def test_a_form_that_lacks_something_says_what(start: Start) -> None:
    async with start(FakeEngine(), run=None) as app:
        await app.press("c", "ctrl+r")
        assert "which model?" in app.text
        await app.type("gpt2")
        await app.press("ctrl+r")
        assert "what is it to read?" in app.text
        await app.press("escape", "colon")
        await app.type("capture mamba")
        await app.press("enter")
        assert app.pane.command()[:2] == ("capture", "mamba")


async def test_a_typed_line_fills_the_fields(start: Start) -> None:
    async with start(FakeEngine(), run=None) as app:
        await app.press("c")
        await app.type("mamba")
        await app.press("tab")
        await app.type("before.txt")
        await app.press("escape", "colon")
        await app.type(
            "capture gpt2 --prompts 'one=a b.json' --prompts c.txt --text=hf:books --layers 0-3 --generate 5 --run n"
        )
        await app.press("enter")
        filled = {name: text for name, text in app.pane.values.items() if text}
        assert filled == {
            "model": "gpt2", "prompts": "'one=a b.json' c.txt", "corpus": "hf:books", "layers": "0-3",
            "new tokens": "5", "run name": "n",
        }  # fmt: skip
        assert app.pane.command() == (
            "capture", "gpt2", "--prompts", "one=a b.json", "--prompts", "c.txt", "--text", "hf:books",
            "--layers", "0-3", "--generate", "5", "--run", "n", "--store", "/store",
        )  # fmt: skip
        await app.press("escape", "colon")
        await app.type("capture mamba")
        await app.press("enter")
        assert app.pane.values["model"] == "mamba" and app.pane.values["corpus"] == "hf:books"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("gpt2 --batch-size 2 --text a.txt", "a new capture has no field for --batch-size 2: it has MODEL, --prompts,"),
        ("gpt2 mamba", "a new capture has no field for mamba"),
        ("gpt2 --text a.txt --text b.txt", "a new capture has no field for --text"),
        ("gpt2 --layers", "--layers needs a value"),
        ("gpt2 --text 'a", "this cannot be read: No closing quotation"),
    ],
)
async def test_words_of_no_field_are_told(start: Start, line: str, told: str) -> None:
    async with start(FakeEngine(), run=None) as app:
        await app.press("colon")
        await app.type(f"capture {line}")
        await app.press("enter")
        assert app.status.startswith(told) and app.crumbs == "nfinspect"


async def test_a_run_name_that_is_taken_is_said_before_anything_is_read(start: Start) -> None:
    async with start(FakeEngine(entry("night")), run=None) as app:
        await fill_fields(app)
        await app.press(*["tab"] * 8)
        await app.type("night")
        await app.press("ctrl+r")
        assert "there is a run night already" in app.text
    assert capture_form.is_taken(["capture", "m", "--run=night"], ["night"])
    assert not capture_form.is_taken(["capture", "m", "--run", "night", "--resume"], ["night"])
    assert not capture_form.is_taken(["capture", "m", "--text", "night"], ["night"])


async def test_what_is_said_of_an_estimate_under_way_goes_with_its_end(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine, run=None) as app:
        await fill_fields(app)
        for status, line, expected in ((1, "nfinspect: no such file", "no such file"), (0, "", "^r starts it")):
            engine.job = FakeJob("time    <1 s")
            await app.press("ctrl+r", "ctrl+r")
            assert app.status == "it is being estimated; ^c cancels"
            engine.job.end(status, line)
            app.app.board.look()
            await app.settle()
            assert app.status == "" and expected in app.text
        assert len(engine.started) == 2


async def estimated(app: Driven, engine: FakeEngine, printed: str = "tokens  20\ntime    <1 s\n") -> None:
    """The estimate of what the form asks for ends."""
    engine.job = FakeJob(printed)
    await app.press("ctrl+r")
    engine.job.end()
    app.app.board.look()
    await app.settle()


async def test_files_that_changed_since_the_estimate_are_told(start: Start, tmp_path: Path) -> None:
    engine, begun = FakeEngine(), []

    def begin(command: tuple[str, ...], directory: Path) -> tuple[JobAt, JobState]:
        begun.append(command)
        raise Lost("no backend here")

    engine.captures.begin = begin  # type: ignore[attr-defined]
    (tmp_path / "a.txt").write_text("one\n")
    async with start(engine, run=None) as app:
        await fill_fields(app)
        await app.press("tab")
        await app.type("What is a tulip?")  # kept in a file of ours, which does not change
        await estimated(app, engine)
        (tmp_path / "a.txt").write_text("one\ntwo\n")
        await app.press("ctrl+r")
        assert "a.txt has changed since the estimate: ^r estimates again" in app.text and not begun
        await estimated(app, engine)
        await app.press("ctrl+r")
        assert "no backend here" in app.text and len(begun) == 1
        await app.press("ctrl+r")
        assert len(begun) == 2, "what was estimated is tried again"


async def test_a_run_that_will_not_fit_is_a_warning(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine, run=None) as app:
        await fill_fields(app)
        await estimated(app, engine, "NOTE    needs 12 GB, 3.4 GB are free in s\ntokens  20\ndisk    12 GB\n")
        told = "^r starts it all the same: needs 12 GB, 3.4 GB are free in s · tokens 20 · disk 12 GB"
        assert told in " ".join(app.text.split())
        await estimated(app, engine)
        await app.type("x")
        await estimated(app, engine)
        assert "^r starts it: tokens 20" in app.text


@pytest.mark.parametrize("terminal", [(80, 24), (40, 10)], ids=["80x24", "40x10"])
async def test_why_a_form_is_refused_is_in_sight(start: Start, terminal: tuple[int, int]) -> None:
    engine = FakeEngine()
    async with start(engine, run=None, size=terminal) as app:
        await app.press("c")
        for keys, told in ((["ctrl+r"], "which model?"), ([*"gpt2", "ctrl+r"], "what is it to read?")):
            await app.press(*keys)
            assert told in app.text
        await app.press(*["tab"] * 9)
        await app.type("demo")
        assert "demo" in app.text, "the field that is typed into is in sight, too"
        await app.press(*["shift+tab"] * 6)
        await app.type("a.txt")
        await app.press("ctrl+r")
        assert "there is a run demo already" in app.text and "a.txt" in app.text
        await app.press("backspace", *["tab"] * 6, *["backspace"] * 4, "ctrl+r")
        engine.job.end(1, "nfinspect: expected 'gpt2' in the local cache")
        app.app.board.look()
        await app.settle()
        assert "expected 'gpt2' in the local cache" in " ".join(app.text.split())


@pytest.mark.parametrize("pane", ["ngrams", "walk"])
async def test_so_does_what_is_said_of_an_analysis_under_way(start: Start, pane: str) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("colon")
        await app.type(pane)
        key = "m" if pane == "walk" else "r"
        await app.press("enter", key, key)
        assert app.status == UNDER_WAY
        engine.job.end(1, "a fault of the test")
        app.app.board.look()
        await app.settle()
        assert app.status == "a fault of the test"


def test_an_estimate_asks_the_idle_backend_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m"
    model.mkdir()
    idle = Status("m", str(model.resolve()), "cpu", "float32", "ready", 1, 0.0, 0.0, 0.0, 0, 0, None, ())
    job = JobState(1, ("capture",), "", "running")
    words = ("capture", "m", "--prompts", "a.txt")
    captures = Captures(tmp_path)
    for found, by in (
        ((idle,), ["--backend"]),
        ((), []),
        ((replace(idle, model="other"),), []),
        ((replace(idle, state="loading"),), []),
        ((replace(idle, job=job),), []),
        ((replace(idle, queue=(job,)),), []),
    ):
        monkeypatch.setattr(captures, "statuses", lambda found=found: found)
        assert captures.estimating(words, tmp_path) == (*words, "--estimate", *by)


async def test_choices_and_completion(start: Start, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text("{}")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    async with start(FakeEngine(), run=None) as app:
        await app.press("c", "ctrl+o")
        assert "mamba" in app.text and "gpt2" in app.text, "the models of the store's runs"
        await app.type("models")
        await app.press("enter")  # a folder leads on to what is in it
        assert "models/tiny/" in app.text
        await app.press("enter")
        assert app.pane.values["model"] == "models/tiny/"
        await app.press("tab")
        await app.type("one=pro")
        await app.press("right")
        assert app.pane.values["prompts"] == "one=prompts.json"


async def test_an_open_quotation_mark_is_told_by_every_key(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine, run=None) as app:
        await fill_fields(app)
        await app.press("ctrl+r")
        assert engine.started, "it is being estimated"
        await app.type(" 'b")
        engine.job.end(0)
        app.app.board.look()
        await app.settle()
        assert "No closing quotation" in app.text
        app.pane.query_one("#command").focus()
        await app.press("y", "e", "ctrl+r")
        assert "No closing quotation" in app.text and not (state_dir() / "clipboard.txt").exists()
        app.pane.query_one("#prompts").focus()
        await app.type("'")
        assert "^r estimates" in app.text, "nothing is said of the command before"


def test_a_pattern_stands_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    for name in ("b.json", "a b.json", "c.txt", "d[1].json"):
        (tmp_path / "prompts" / name).write_text("{}")
    for typed, files in {
        "prompts/*.json": ["prompts/a b.json", "prompts/b.json", "prompts/d[1].json"],
        "tulip=prompts/?.txt": ["tulip=prompts/c.txt"],
        "prompts/d[1].json": ["prompts/d[1].json"],  # the name of a file
        "prompts/*.csv": ["prompts/*.csv"],  # of none: the command says so
        "prompts/c.txt x=~/*": ["prompts/c.txt", "x=~/*"],
    }.items():
        made = capture_form.command({"model": "m", "prompts": typed}, tmp_path, tmp_path)
        assert list(made[3:-2:2]) == files, typed


async def test_the_arrows_lead_out_of_the_typed_prompts(start: Start) -> None:
    async with start(FakeEngine(), run=None) as app:
        await app.press("c", "tab", "tab")
        await app.type("one")
        await app.press("enter")
        await app.type("two")
        typed = app.app.focused
        await app.press("up")
        assert app.app.focused is typed and typed.cursor_location[0] == 0
        await app.press("up")
        assert app.app.focused.id == "prompts"
        await app.press("down", "down", "down")
        assert app.app.focused.id == "corpus"


PROMPTS_FIELD = next(field for field in FIELDS if field.kind == "files")


@pytest.mark.parametrize("name", ["two words.txt", 'it\'s "so".txt', "back\\slash $x.txt", "plain.txt"])
def test_names_of_files_are_typed_as_they_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    for begun in (name[:1], shlex.quote("one=" + name[:6]), "one=" + name[:6].replace("\\", "\\\\").replace("'", "\\'")
                  .replace('"', '\\"').replace(" ", "\\ "), f"'{name[:2]}", f'"one={name[:2]}'):  # fmt: skip
        text = f"'a b.txt' {begun}"
        concept = "one=" if "one=" in begun else ""
        assert words_of(chosen(PROMPTS_FIELD, text, name)) == ["a b.txt", concept + name]
        whole = completed(PROMPTS_FIELD, text)
        assert whole is not None and whole.startswith(text) and words_of(whole) == ["a b.txt", concept + name]


async def test_a_folder_with_a_space_leads_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "my prompts").mkdir()
    (tmp_path / "my prompts" / "a b.txt").write_text("")
    async with start(FakeEngine(), run=None) as app:
        await app.press("c", "tab")
        await app.type("one=my")
        await app.press("ctrl+o", "enter", "enter")
        assert app.pane.values["prompts"] == "'one=my prompts/a b.txt'"
        assert "one=my prompts/a b.txt" in app.pane.command()


async def test_nothing_is_offered_in_another_place(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*given: object) -> list[str]:
        go_on.wait(60)
        return ["gpt2"]

    monkeypatch.setattr(capture_form, "options", slow)
    async with start(FakeEngine(), run=None) as app:
        try:
            await app.press("c")
            app.pane.action_choose()
            await app.app.action_out()
        finally:
            go_on.set()
        await app.settle()
        assert app.crumbs == "nfinspect" and len(app.app.screen_stack) == 1


async def test_text_that_is_no_utf_8_is_copied(start: Start) -> None:
    async with start(FakeEngine(), run=None) as app:
        app.app.copy("caf\udce9.txt")
        await app.settle()
        assert "sent 8 characters" in app.status and text_of(state_dir() / "clipboard.txt") == "caf?.txt"
        assert app.app.clipboard == "caf?.txt"


@pytest.mark.slow
def test_a_backend_killed_while_no_app_runs_is_resumed_after_coming_back(store: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night")
        hang_up(terminal)
    os.kill(living(store)[0][0].pid, signal.SIGKILL)
    (store / "slow").unlink()
    with opened(store) as terminal:
        terminal.wait_for("interrupted")
        terminal.settle(0.2, 2)
        terminal.send("p")
        terminal.wait_for("r resumes it")
        terminal.send("r")
        terminal.wait_for("Health", 45)
        assert "not all was captured" not in terminal.text


@pytest.mark.slow
def test_a_generation_is_seen_as_it_is_written(store: Path) -> None:
    (store / "slow").write_text("0.5")
    with opened(store) as terminal:
        fill_in(terminal)
        terminal.send(f"{MODEL}\r\tThe tulip is\t\t\t0-3\r40\r\t\tn\r")
        terminal.wait_for("--run n")
        start_it(terminal, store)
        terminal.wait_for("strongest at mlp", 60)
        assert "The tulip is" in terminal.text
        (store / "slow").unlink()
        terminal.wait_for("Health", 45)
    with RunFile.open(store / "n.duckdb") as run:
        assert run.concepts == ("typed",) and run.has_generated
