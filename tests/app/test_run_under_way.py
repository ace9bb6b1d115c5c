"""A run that a backend writes, in the app: real backends, and real commits while the panes are looked at."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from app_driver import Driven, Start
from running_backends import SAMPLES, ended, started, wait_until

from nfinspect.backend.client import Backend
from nfinspect.backend.directory import living
from nfinspect.backend.protocol import JobState
from nfinspect.backend.remote import run_under_way
from nfinspect.tui.engine import Engine
from nfinspect.tui.session import Session
from nfinspect.tui.under_way import SECONDS

MODEL = SAMPLES / "gpt2-relu"
PROMPTS = [str(SAMPLES / "prompts" / f"{name}.json") for name in ("tulip", "baseline")]


@contextmanager
def capturing(store: Path, slow: str, batch: str = "2") -> Iterator[tuple[Backend, JobState]]:
    """A capture in a backend that commits every batch, which takes `slow` seconds; once something is committed."""
    process, backend = started(store, MODEL, "--id", "gpt2")
    try:
        (store / "slow").write_text(slow)
        prompts = [word for file in PROMPTS for word in ("--prompts", file)]
        where = ["--run", "night", "--store", str(store), "--layers", "0-3", "--batch-size", batch]
        job = backend.submit(["capture", str(MODEL), *prompts, *where])
        while not job.done and not job.ended:
            job = backend.wait(job)
        assert not job.ended, job
        wait_until(lambda: Engine(store).open("night"))
        yield backend, job
    finally:
        backend.close()
        ended(process)


async def until(app: Driven, fact: Callable[[], bool]) -> None:
    for _ in range(3000):
        await asyncio.sleep(0.02)
        await app.settle()
        if fact():
            return
    raise AssertionError(app.text)


def shown_tokens(app: Driven) -> int:
    said = next(line for line in app.lines if "shown: " in line)
    return int(said.partition("shown: ")[2].split()[0].strip(",").replace(",", ""))


@pytest.mark.slow
async def test_it_is_browsed_followed_and_changes_over_to_its_file(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with capturing(store, "0.4") as (backend, job):
        engine = Engine(store)
        async with start(engine, run=None) as app:
            await until(app, lambda: "night" in app.text)
            await app.press("enter")
            await until(app, lambda: "under way" in app.text and "shown: " in app.text)
            assert app.crumbs == "nfinspect > night"
            for fact in ("capturing", f"% of {job.total:,} tokens", "/s", "ETA"):
                assert fact in app.text
            session = app.pane.session
            assert session.under_way

            # a commit is on screen without a key, and the cursor stays
            await app.press("j", "j")
            first, seen = shown_tokens(app), app.pane._report
            await until(app, lambda: app.pane._report is not seen and shown_tokens(app) > first)
            assert app.pane.table.cursor == 2 and app.pane.commits_read == session.commits

            backend.act(job.id, "pause")
            await app.press("enter")
            await until(app, lambda: "by max" in app.text)
            assert app.crumbs == "nfinspect > night > neurons of L2"
            await app.press("j", "enter")
            await until(app, lambda: "excess kurtosis" in app.text)
            address = app.crumbs.rpartition(" > ")[2]
            read = app.pane._detail.row.n
            for key, expected in (("t", "auroc"), ("Q", "rows in")):
                await app.press(key)
                if key == "Q":
                    await app.press("ctrl+r")
                await until(app, lambda expected=expected: expected in app.text)
                while not app.crumbs.endswith(address):  # from the editor, Esc leads to the rows first
                    await app.press("escape")

            (store / "slow").unlink()
            backend.act(job.id, "go on")
            while not job.ended:
                job = backend.wait(job)
            assert job.status == 0, job
            await until(app, lambda: not session.under_way and app.pane._detail.row.n == job.total)
            assert app.crumbs.endswith(address) and app.pane._detail.row.n > read
            assert "this is all of it" in app.text and "shown: " not in app.text
            await app.press("escape", "escape")
            assert app.pane.table.cursor == 2
            await until(app, lambda: app.pane.commits_read is None and f"{job.total:,} tokens" in app.text)
            assert "under way" not in app.text
        engine.close()


@pytest.mark.slow
async def test_a_killed_backend_leaves_what_was_committed_on_screen(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with capturing(store, "0.4") as (backend, job):
        engine = Engine(store)
        async with start(engine, run="night") as app:
            await until(app, lambda: "under way" in app.text)
            pid = backend.status().pid
            os.kill(pid, signal.SIGKILL)
            await until(app, lambda: "the capture of night is interrupted" in app.status)
            assert ":live shows it, and r resumes it" in app.status
            assert "interrupted, not all was captured" in app.text and "Health" in app.text
            await app.press("colon")
            await app.type("live")
            await app.press("enter")
            await until(app, lambda: "the backend of night was killed" in app.text)
            (store / "slow").unlink()
            await app.press("r")
            await until(app, lambda: "Health" in app.text and "not all was captured" not in app.text)
            assert app.pane.session.info.status == "complete"
        for entry in living(store)[0]:
            with Backend.connect(store, entry.id) as resumed:
                resumed.stop()
        engine.close()


async def test_sql_and_the_walk_notice_commits(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with capturing(store, "0.4") as (backend, job):
        engine = Engine(store)
        async with start(engine, run="night") as app:
            await until(app, lambda: "shown: " in app.text)
            await app.press("colon")
            await app.type("sql SELECT count(*) FROM tokens")
            await app.press("enter")
            await until(app, lambda: "1 row in" in app.text)
            before = app.pane.table.current
            await until(app, lambda: "the run has grown: ^r reads it again" in app.text)
            assert app.pane.table.current == before, "not unasked"
            for _ in range(3):  # never told of a commit that the rows are of already
                before = app.pane.table.current
                await app.press("ctrl+r")
                await until(app, lambda: not app.pane._busy)
                assert app.pane.table.current > before
                await until(app, lambda: "the run has grown: ^r reads it again" in app.text)
            await app.press("w")
            await until(app, lambda: app.pane._at is not None)
            commits = app.pane.commits_read
            await until(app, lambda: app.pane.commits_read > commits and not app.pane.asked)
            assert app.pane._at is not None and app.pane._prompt is not None
            (store / "slow").unlink()
            backend.act(job.id, "cancel")
        engine.close()


class Observer:
    """Asks the backend for its commits on its own, so that it knows of each when it is made."""

    def __init__(self, path: Path) -> None:
        self.seen: dict[int, float] = {}  # by tokens that are committed, when they were seen first
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(path,))
        self._thread.start()

    def _look(self, path: Path) -> None:
        while not self._over.wait(0.02):
            run = run_under_way(path)
            if run is None:
                return
            with run:
                self.seen.setdefault(run.tokens, time.monotonic())

    def behind(self, tokens: int) -> float:
        """Seconds since the first commit of more tokens than these."""
        later = [at for committed, at in list(self.seen.items()) if committed > tokens]
        return time.monotonic() - min(later) if later else 0.0

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def timed(session: Session, *questions: str) -> list[float]:
    """The seconds that each answer to these questions takes, from now on."""
    took: list[float] = []

    def of(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any) -> Any:
            began = time.monotonic()
            try:
                return ask(*arguments)
            finally:
                took.append(time.monotonic() - began)

        return asked

    for question in questions:
        setattr(session, question, of(getattr(session, question)))
    return took


BEHIND = 2.0
"""Seconds that a pane may be behind a commit, or, where the machine is busy, as long as two questions take and the time
between two looks.
"""


@pytest.mark.slow
async def test_no_pane_is_two_seconds_behind_a_commit(start: Start, tmp_path: Path) -> None:
    """Commits come faster than panes are read. Who watches leaves nothing but the cursor to the user."""
    store = tmp_path / "store"
    with capturing(store, "0.6", batch="1") as (backend, job):
        engine, observer = Engine(store), Observer(store / "night.duckdb")
        try:
            async with start(engine, run="night") as app:
                await until(app, lambda: "shown: " in app.text)
                panes: dict[str, Callable[[Any], int]] = {
                    "layers": lambda pane: pane._report.tokens,
                    "neurons": lambda pane: pane.table.current.n,
                    "neuron": lambda pane: pane._detail.row.n,
                }
                told: dict[str, float] = {}
                took = timed(app.pane.session, "health", "neurons", "neuron")
                for name, tokens in panes.items():
                    if name != "layers":
                        await app.press("enter")
                    shown: set[int] = set()
                    while len(shown) < 4 and app.pane.session.under_way:
                        await asyncio.sleep(0.01)
                        if app.pane.table.current is None or (name == "neuron" and app.pane._detail is None):
                            continue
                        shown.add(tokens(app.pane))
                        told[name] = max(told.get(name, 0.0), observer.behind(tokens(app.pane)))
                assert app.pane.session.under_way, "the capture is longer than what is looked at"
                for name, behind in told.items():
                    assert behind <= max(BEHIND, SECONDS + 2 * max(took)), (name, behind, max(took))
                backend.act(job.id, "cancel")
        finally:
            observer.close()
            engine.close()
