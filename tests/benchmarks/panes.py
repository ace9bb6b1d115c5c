"""How long each pane of the app takes on a run: from the key to the last change that it brings to the screen, 200 x 50.

The app has no terminal; what it would write there is put together all the same, and thrown away.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))

from app_driver import LARGE, Driven  # noqa: E402  (its folder has just been put on the path)
from textual._compositor import CompositorUpdate  # noqa: E402

from nfinspect.analyses import names  # noqa: E402
from nfinspect.tui.app import NfinspectApp  # noqa: E402
from nfinspect.tui.engine import Engine  # noqa: E402
from nfinspect_store.errors import StoreError  # noqa: E402
from tests.benchmarks.report import figure, table  # noqa: E402

ASKED = 150
"""Milliseconds for any pane."""

QUIET, STUCK = 0.2, 120.0
"""Seconds without work after which a pane is complete, and after which it has failed."""


class Painting(NfinspectApp):
    """Knows when it last painted."""

    painted = 0.0

    def _display(self, screen: Any, renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate):
            renderable.render_segments(self.console)
        super()._display(screen, renderable)
        if renderable is not None:  # there was nothing to paint
            self.painted = time.perf_counter()


@dataclass(frozen=True)
class Step:
    """A pane and the way to it: keys up to it, or a line after `:`, and then the key that opens it."""

    name: str
    key: str
    keys: tuple[str, ...] = ()
    line: str = ""


@dataclass(frozen=True)
class Seen:
    """times: ms of each visit, that passed and of the processor. where, said: the breadcrumbs, and the status line."""

    name: str
    times: tuple[tuple[float, float], ...]
    where: str
    said: str


def steps(other: str | None) -> list[Step]:
    """Of all panes that a finished run has. other: a run to compare it with."""
    to = [
        Step("back to the layers", "escape", ("n",)),
        Step("neurons", "n"),
        Step("neurons, the last page", "G", ("n",)),
        Step("neurons by another column", "full_stop", ("n",)),
        Step("neurons, a class", "c", ("n",)),
        Step("neuron", "enter", ("n", "j")),
        Step("next neuron", "J", ("n", "enter")),
        Step("prompt of a neuron", "enter", ("n", "enter", "j")),
        Step("trace", "t"),
        Step("overlap", "o"),
        Step("overlap of marked neurons", "O", ("n", "space", "j", "space")),
        Step("analyses", "a"),
        Step("SQL: a neuron", "enter", line=f"sql {NEURON}"),
        Step("SQL: a token", "enter", line=f"sql {TOKEN}"),
    ]
    to += [Step(name, "enter", line=name) for name in names() if name not in OF_NEURON]
    to += [Step(name, "enter", line=f"{name} L0/N1") for name in OF_NEURON]
    if other is not None:
        to += [Step("two runs compared", "enter", line=f"compare {{run}},{other}")]
    return to


OF_NEURON = ("logits", "similar")
NEURON = "SELECT token_idx, value FROM activations WHERE layer = 1 AND neuron = 7 ORDER BY token_idx"
TOKEN = "SELECT layer, neuron, value FROM activations WHERE token_idx = 1000 ORDER BY value DESC"


async def painted(app: Driven, key: str) -> tuple[float, float]:
    """ms from the key to the last change on the screen, and ms of the processor until nothing is left to do."""
    shown: Any = app.app
    start, used, busy = time.perf_counter(), time.process_time(), 0.0
    app._send(key)
    while time.perf_counter() < max(shown.painted, start, busy) + QUIET:
        await asyncio.sleep(QUIET / 10)  # looking more often would take the app's time
        if app.at_work():
            busy = time.perf_counter()
        if time.perf_counter() > start + STUCK:
            raise StoreError(f"expected an answer to {key} in {STUCK:.0f} s, found the app still at work:\n{app.text}")
    return (shown.painted - start) * 1e3, (time.process_time() - used) * 1e3


async def visited(app: Driven, step: Step, run: str) -> tuple[float, float]:
    """From the layers of the run to the pane."""
    app.app.to_layers(app.app.sessions[run])
    await app.settle()
    for key in step.keys:
        await app.press(key)
    if step.line:
        await app.press("colon")
        await app.type(step.line.format(run=run))
    return await painted(app, step.key)


async def visit(store: Path, run: str, chosen: Sequence[Step], rounds: int) -> list[Seen]:
    """The chosen panes of the run, several times each."""
    app = Painting(Engine(store), None)
    found = []
    async with app.run_test(size=LARGE) as pilot:
        driven = Driven(app, pilot)
        await driven.settle()
        await driven.press("slash", *run, "enter")
        opened = await painted(driven, "enter")
        if run not in app.sessions:
            raise StoreError(f"expected {run} to open, found: {driven.status}")
        found.append(Seen("the run, its layers", (opened,), driven.crumbs, driven.status))
        for step in chosen:
            times = tuple([await visited(driven, step, run) for _ in range(rounds)])
            found.append(Seen(step.name, times, driven.crumbs, driven.status))
        app.exit(0)
    app.engine.close()
    return found


@contextmanager
def own_home() -> Iterator[None]:
    """Neither reads nor writes the user's keys and history."""
    kept = {name: os.environ.get(name) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(dict.fromkeys(kept, folder))
        try:
            yield
        finally:
            for name, value in kept.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def timed(store: Path, run: str, other: str | None, rounds: int) -> str:
    """The table of all panes."""
    rows = []
    with own_home():
        all_seen = asyncio.run(visit(store, run, steps(other), rounds))
    for seen in all_seen:
        passed, used = zip(*seen.times, strict=True)
        again = passed[1:]
        rows.append(
            [
                seen.name,
                figure(passed[0]),
                figure(statistics.median(again)) if again else None,
                figure(max(again)) if again else None,
                figure(statistics.median(used)),
                seen.where.removeprefix(f"nfinspect > {run}").removeprefix(" > "),
                seen.said,
            ]
        )
    heads = ["pane", "first visit, ms", f"median of the next, ms (goal {ASKED})", "worst, ms", "processor, ms"]
    return table([*heads, "where", "it says"], [[cell or None for cell in row] for row in rows])
