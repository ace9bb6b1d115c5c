"""A run that is being captured: its progress, the pause, and what happens when the capture ends."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_driver import SETTLED, Driven, Start
from fake_engine import FakeCaptures, FakeEngine, entry, progress

from nfinspect.backend import client
from nfinspect.backend.directory import NotAnswering
from nfinspect.backend.protocol import JobState, Status
from nfinspect.tui.captures import Captures, JobAt, Seen
from nfinspect.tui.cells import content
from nfinspect.tui.columns.live import job_lines
from nfinspect.tui.glyphs import ASCII
from nfinspect.tui.session import Session
from nfinspect.tui.widgets.text_panel import TextPanel
from nfinspect_store.errors import RunBusy
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


async def test_the_edits_of_its_model_are_shown_in_the_list_and_here(start: Start, size: tuple[int, int]) -> None:
    edits = "clamp L1/N5=60; from token 1"
    run = dataclasses.replace(capturing(edits=edits), edits=edits)  # type: ignore[type-var]
    async with start(FakeEngine(run), run=None, size=size) as app:
        assert "edited gpt2" in app.text and f"edited: {edits}" in app.text
        await app.press("enter")
        assert edits in app.text


def test_the_edits_of_a_job_are_shown_as_they_were_typed() -> None:
    words = (
        "capture",
        "m",
        "--zero",
        "L0/N1,L0/N2",
        "--generate",
        "3",
        "--scale=@hot=0.5",
        "--from",
        "2",
        "--run",
        "r",
    )
    for arguments, shown in ((words, "zero L0/N1,L0/N2; scale @hot=0.5; from token 2"), (words[:2], None)):
        seen = Seen(JobAt("b", 4), JobState(4, arguments, "", "running"))
        text = content(*job_lines(seen, 76, ASCII)).plain
        assert "edits" not in text if shown is None else f"edits     {shown}\n" in text


def test_the_jobs_that_wait_are_named_by_their_runs() -> None:
    here = JobState(2, ("capture", "m"), "", "waiting")
    ahead = JobState(1, ("generate", "--run=night"), "", "running")
    behind = (JobState(3, ("capture", "m", "--run", "day"), "", "waiting"), JobState(4, ("text",), "", "waiting"))
    status = Status("b", "m", "cpu", "float32", "ready", 1, 0.0, 0.0, 0.0, 0, 0, ahead, (here, *behind))
    text = content(*job_lines(Seen(JobAt("b", 2), here, status), 76, ASCII)).plain
    assert "before it 1: generate night\n" in text
    assert "waiting   2: capture day, text\n" in text


def test_a_job_of_which_nothing_is_known_is_drawn() -> None:
    seen = Seen(AT, JobState(1, (), "", "waiting", version=-1), silent="the backend gpt2 is stopped")
    assert "the backend gpt2 is stopped" in content(*job_lines(seen, 76, ASCII)).plain


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


AT = JobAt("gpt2", 1)
RUNNING = JobState(1, ("capture", "gpt2"), ".", "running")


class HeldBackend:
    """Its answer comes when it is closed, as that of a socket does, or as soon as it is asked if it is closed."""

    def __init__(self) -> None:
        self.asked, self.closed = threading.Event(), threading.Event()

    def wait(self, job: JobState) -> JobState:
        self.asked.set()
        assert self.closed.wait(60)
        raise client.Lost("the backend gpt2 has ended or was killed (out of memory?)")

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("connecting", [False, True])
def test_a_look_that_is_closed_tells_of_no_killed_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, connecting: bool
) -> None:
    backend, captures = HeldBackend(), Captures(tmp_path)
    watch = captures.watch(AT, RUNNING)

    def connect(*given: object) -> HeldBackend:
        if connecting:
            captures.forget(watch)
        return backend

    monkeypatch.setattr(client.Backend, "connect", connect)
    seen: list[Seen] = []
    worker = threading.Thread(target=lambda: seen.append(watch.look()))
    worker.start()
    assert backend.asked.wait(60)
    captures.forget(watch)
    worker.join(60)
    assert backend.closed.is_set(), "no connection is left"
    assert seen == [Seen(AT, RUNNING)] and not seen[0].over


class HeldWatch:
    def __init__(self, answer: Seen) -> None:
        self.go_on, self._answer = threading.Event(), answer

    def look(self) -> Seen:
        assert self.go_on.wait(60)
        return self._answer


class LiveCaptures:
    """Of one job. `begin` waits until the test lets it go on."""

    def __init__(self, *answers: Seen) -> None:
        self.watches = [HeldWatch(answer) for answer in answers]
        self.made: list[HeldWatch] = []
        self.go_on, self.begun = threading.Event(), 0

    def watch(self, at: JobAt, job: JobState | None = None) -> HeldWatch:
        self.made.append(self.watches[len(self.made)])
        return self.made[-1]

    def forget(self, watch: HeldWatch) -> None:
        pass

    def begin(self, arguments: tuple[str, ...], directory: Path) -> tuple[JobAt, JobState]:
        self.begun += 1
        assert self.go_on.wait(60)
        raise client.Lost("no backend here")

    def statuses(self) -> tuple[Any, ...]:
        return ()

    def close(self) -> None:
        for held in (*self.watches, self):
            held.go_on.set()


def live_engine(*answers: Seen) -> FakeEngine:
    engine = FakeEngine()
    engine.captures = LiveCaptures(*answers)
    return engine


async def until(app: Driven, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLED
    while not true():
        assert time.monotonic() < deadline, app.text
        await app.pilot.pause(0.002)


async def test_an_answer_to_an_earlier_look_is_dropped(start: Start) -> None:
    lost = Seen(AT, RUNNING, lost="the backend gpt2 was killed")
    engine = live_engine(lost, Seen(AT, RUNNING))
    async with start(engine, run=None) as app:
        try:
            app.app.follow("", AT, RUNNING)
            await until(app, lambda: app.crumbs.endswith("(capturing)") and bool(engine.captures.made))
            live = app.pane
            (asked,) = live.asked
            live.left()
            live.entered()
            engine.captures.watches[0].go_on.set()
            await until(app, lambda: asked not in live.asked)
            assert live._seen is None and "was killed" not in app.text and not live.check_action("resume", ())
        finally:
            engine.captures.close()


class SilentCaptures(FakeCaptures):
    """Of a backend that lives, and answers nothing for as long as the test wants."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def of_run(self, run: str) -> None:
        assert self.go_on.wait(60)
        raise NotAnswering("the backend gpt2 (process 4711) is stopped: kill -CONT 4711 lets it go on")


async def test_while_a_backend_says_nothing_the_file_beside_the_run_is_shown(start: Start) -> None:
    engine = FakeEngine(capturing())
    engine.captures = SilentCaptures()
    async with start(engine, run=None) as app:
        try:
            app.app.open_run("night")
            await until(app, lambda: "430 of 1,000" in app.text)
            assert "4711 on gpubox" in app.text
            await until(app, lambda: app.status.startswith("asking how far the capture of night is"))
        finally:
            engine.captures.go_on.set()
        await app.settle()
        assert app.status == "the backend gpt2 (process 4711) is stopped: kill -CONT 4711 lets it go on"
        assert "430 of 1,000" in app.text
        engine.captures = FakeCaptures()
        await look(app)
        assert app.status == "" and "430 of 1,000" in app.text


async def test_what_is_known_of_a_job_is_shown_before_its_backend_answers(start: Start) -> None:
    engine = live_engine(Seen(AT, RUNNING))
    async with start(engine, run=None) as app:
        try:
            app.app.follow("", AT, dataclasses.replace(RUNNING, done=7, total=70))
            await until(app, lambda: "7 of 70" in app.text)
            await until(app, lambda: app.status.startswith("asking the backend gpt2 how far it is"))
        finally:
            engine.captures.close()


@pytest.mark.parametrize("terminal", [(80, 24), (40, 10)], ids=["80x24", "40x10"])
async def test_why_it_ended_is_in_sight(start: Start, terminal: tuple[int, int]) -> None:
    why = "expected --layers from 0-3, found 40"
    failed = dataclasses.replace(RUNNING, state="failed", line=f"nfinspect: {why}", total=100)
    engine = live_engine(Seen(AT, failed))
    engine.captures.watches[0].go_on.set()
    async with start(engine, run=None, size=terminal) as app:
        app.app.follow("", AT, RUNNING)
        await app.settle()
        assert why in " ".join(app.text.split()) and "r resumes it here" in " ".join(app.text.split())


async def test_opening_says_whom_it_asks(start: Start) -> None:
    engine, go_on = FakeEngine(capturing()), threading.Event()

    def held(run: str) -> None:
        assert go_on.wait(60)
        raise RunBusy("night is being captured")

    engine.open = held  # type: ignore[method-assign]
    async with start(engine, run=None) as app:
        try:
            app._send("enter")
            await until(app, lambda: app.status.startswith("opening night: asking process 4711, which captures it"))
        finally:
            go_on.set()
        await app.settle()
        assert app.crumbs == "nfinspect > night (capturing)"


async def test_r_twice_resumes_once(start: Start) -> None:
    engine = live_engine(Seen(AT, RUNNING, lost="the backend gpt2 was killed"))
    engine.captures.watches[0].go_on.set()
    async with start(engine, run=None) as app:
        try:
            app.app.follow("", AT, RUNNING)
            await app.settle()
            assert "r resumes it here" in app.status and "r Resume" in app.lines[-1]
            live = app.pane
            live.action_resume()
            live.action_resume()
            await until(app, lambda: engine.captures.begun > 0)
            assert live.check_action("resume", ()) is False
        finally:
            engine.captures.close()
        await app.settle()
        assert engine.captures.begun == 1
        assert "no backend here" in app.status and "r Resume" in app.lines[-1], "it can be tried again"
