"""A watched training in the app: charts, step by step, layers and alerts, and growing while it is trained."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_driver import Driven, Start
from terminal import Terminal

from nfinspect.analysis.history import Alert, LayerReading, Reading
from nfinspect.tui.cells import TONES
from nfinspect.tui.engine import Engine
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.plots import COLOURS
from nfinspect_store.history import HistoryWriter, list_histories, new_history_path

HOSTILE = "\x1b[31mh[/red]"
FACTS = {"run_id": "x", "model": "Net", "created_at": "2026-11-20T12:30:00", "every": 10, "first_step": 1}


def reading(step: int) -> Reading:
    dead = 0 if step < 50 else 6
    layers = tuple(
        LayerReading(
            i, name, 20, 64, 0.5 - i / 10, 0.9, "dead" if dead else "normal", dead * i, 1, died=(3,) * (step == 50)
        )
        for i, name in enumerate(("fc1", HOSTILE))
    )
    return Reading(step, "2026-11-20T12:30:00", 1 / step, 0.95 if not dead else 0.7, 100 * dead / 40, 0, layers)


def add(writer: HistoryWriter, *steps: int) -> None:
    for step in steps:
        writer.add("reading", reading(step).to_json())


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[HistoryWriter]:
    """A training under way with readings at 1, 10, … 90, of which the one at 50 raised an alert."""
    writer = HistoryWriter(new_history_path(tmp_path, "night"), "Net")
    writer.add("run", FACTS)
    writer.beat(90)
    add(writer, 1, *range(10, 100, 10))
    alert = Alert(50, "dying", "warning", f"layer {HOSTILE} is dying: N3", 1, HOSTILE, (3,), (50,))
    writer.add("alert", alert.to_json())
    yield writer
    writer.close()


async def opened(app: Driven) -> None:
    await app.press("enter")
    assert app.crumbs == "nfinspect > night (training)"


async def look(app: Driven) -> None:
    app.pane._look()
    await app.settle()


async def test_it_opens_from_the_runs_with_its_charts(
    start: Start, writer: HistoryWriter, tmp_path: Path, size: tuple[int, int]
) -> None:
    async with start(Engine(tmp_path), run=None, size=size) as app:
        assert "step 90" in app.text and "training, step 90" in app.text
        await opened(app)
        for fact in ("Net", "training", "10 readings", "1 alert", "step 90", "health 0.7", "dead 15.0%"):
            assert fact in app.text
        assert "o score  x dead share of 40 neurons" in app.text
        assert "activation rate by layer" in app.text and "a fc1  b " in app.text
        assert "\x1b[31m" not in app.text
        await app.press("escape")
        assert app.crumbs == "nfinspect"


async def test_lines_have_colours_and_their_marks(
    start: Start, writer: HistoryWriter, tmp_path: Path, size: tuple[int, int]
) -> None:
    async with start(Engine(tmp_path), run=None, size=size) as app:
        await opened(app)
        shown = app.pane.query_one(ChartBox)._shown
        styles: dict[str, set[str]] = {}
        for span in shown.spans:
            for character in shown.plain[span.start : span.end]:
                styles.setdefault(character, set()).add(str(span.style))
        score, dead, first, second = (TONES[tone] for tone in ("good", "bad", *COLOURS[:2]))
        assert score in styles["o"] and dead in styles["x"], "in the head and in the chart"
        assert first in styles["a"] and second in styles["b"] and second not in styles["a"]
        assert not {score, dead} & (styles["a"] | styles["b"] | styles["│"]) and dead not in styles["o"]
        dots = {style for character in styles if "\u2800" < character <= "\u28ff" for style in styles[character]}
        assert dots >= {score, dead, first, second}
    async with start(Engine(tmp_path), run=None, size=size, plain=True) as app:
        await opened(app)
        shown = app.pane.query_one(ChartBox)._shown
        assert shown.plain.isascii() and {str(span.style) for span in shown.spans} <= {TONES["title"]}


async def test_step_by_step_and_the_newest_is_followed(start: Start, writer: HistoryWriter, tmp_path: Path) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        await opened(app)
        add(writer, 100)
        await look(app)
        assert "step 100" in app.lines[1] + app.lines[2] and app.pane.table.current.step == 100
        assert ":" not in "".join(app.lines[3:14])
        await app.press("k", "k")
        assert app.pane.reading.step == 80 and "step 80" in app.text
        assert ":" in "".join(app.lines[3:14])  # the step is marked
        add(writer, 110)
        await look(app)
        assert app.pane.reading.step == 80 and "11 readings" not in app.text and "12 readings" in app.text
        await app.press("G")
        add(writer, 120)
        await look(app)
        assert app.pane.reading.step == 120


async def test_layers_of_a_reading_and_alerts(start: Start, writer: HistoryWriter, tmp_path: Path) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        await opened(app)
        await app.press("2")
        assert "fc1" in app.text and app.pane.table.total == 2
        assert "layer fc1, 20 neurons on 64 tokens; no neuron died" in app.text
        await app.press("3")
        assert "is dying: N3" in app.text and app.pane.table.total == 1
        assert "Died at step 50: N3" in app.text  # the whole of it, under the charts
        await app.press("enter")
        assert app.pane.reading.step == 50 and app.pane.table.current.step == 50
        assert "is dying" in app.status
        await app.press("enter")  # a reading's layers
        assert app.pane.table.total == 2 and "step 50" in app.text
        assert "layer fc1, 20 neurons on 64 tokens; died since the previous reading: N3" in app.text


async def test_what_died_is_copied_whole_exported_and_counted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = tuple(range(0, 3000, 2))
    layer = LayerReading(0, "fc1", 4000, 6400, 0.5, 0.3, "dead", 1500, 0, died=died)
    writer = HistoryWriter(new_history_path(tmp_path, "night"), "Net")
    writer.add("run", FACTS)
    writer.add("reading", Reading(10, "2026-11-20T12:30:00", 0.5, 0.3, 37.5, 1, (layer,)).to_json())
    writer.close()
    monkeypatch.chdir(tmp_path)
    async with start(Engine(tmp_path), run=None, size=(120, 40)) as app:
        await opened(app)
        copied: list[str] = []
        monkeypatch.setattr(app.app, "copy_to_clipboard", copied.append)
        assert "+1,500 -0" in app.text
        await app.press("y", "2")
        assert "4,000 neurons on 6,400 tokens" in app.text and "… y copies all" in app.text
        await app.press("y")
        names = ", ".join(f"N{neuron}" for neuron in died)
        assert copied[1].endswith(f"died since the previous reading: {names}")
        assert copied[0] == f"step 10\n{copied[1]}"
        await app.press("D")
        assert "columns of night (training)" in app.crumbs
        neurons = next(line for line in app.lines if line.split()[:1] == ["neurons"])
        assert neurons.split()[1:4] == ["1", "0", "4,000"]
        await app.press("escape", "e", "enter")
        assert "night.json" in app.status
    assert json.loads((tmp_path / "night.json").read_text())["readings"][0]["layers"][0]["died"] == list(died)


async def test_layers_of_long_names_are_told_apart(start: Start, tmp_path: Path) -> None:
    """At 80 columns neither the marks of the charts nor the table has room for a path."""
    names = [f"encoder.transformer_blocks_of_the_network.{i}.intermediate_activation" for i in range(14)]
    layers = tuple(LayerReading(i, name, 20, 64, 0.05 * i, 0.9, "normal", 0) for i, name in enumerate(names))
    with_path = HistoryWriter(new_history_path(tmp_path, "night"), "Net")
    with_path.add("run", FACTS)
    with_path.add("reading", Reading(1, "2026-11-20T12:30:00", 0.5, 0.9, 0.0, 0, layers).to_json())
    async with start(Engine(tmp_path), run=None, size=(80, 24)) as app:
        await opened(app)
        assert "activation rate of 5 of 14 layers" in app.text
        drawn = next(line for line in app.lines if " a …" in line).split()
        assert drawn[::2] == ["a", "b", "c", "d", "e"]  # no two lines have the same mark
        assert [name[-2:].strip(".k") for name in drawn[1::2]] == ["0", "3", "6", "10", "13"]
        await app.press("2")
        table = [line.strip("▌ ").split()[0] for line in app.lines if "normal" in line]
        assert len(table) > 2 and [name[-2:] for name in table] == [f".{i}" for i in range(len(table))]
    with_path.close()


async def test_only_changes_are_drawn_and_the_end_is_seen(start: Start, writer: HistoryWriter, tmp_path: Path) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        await opened(app)
        drawn = app.pane.query_one("ChartBox")._shown
        await look(app)
        assert app.pane.query_one("ChartBox")._shown is drawn
        assert app.pane._seconds == 0.5
        writer.add("end", {"status": "complete", "step": 90})
        await look(app)
        assert "complete" in app.text and app.pane._seconds == 3.0


async def test_it_is_reached_by_name_and_a_wrong_name_is_a_line(
    start: Start, writer: HistoryWriter, tmp_path: Path
) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        for typed, crumbs in (("watch night", "nfinspect > night (training)"), ("watch other", "")):
            await app.press("colon")
            await app.type(typed)
            await app.press("enter")
            if crumbs:
                assert app.crumbs == crumbs
            else:
                assert "no training history 'other'" in app.status and app.app.is_running


async def test_a_training_that_begins_later_takes_its_place(start: Start, tmp_path: Path) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        await app.press("colon")
        await app.type("watch later")
        await app.press("enter")
        assert "no training history 'later'" in app.status
        writer = HistoryWriter(new_history_path(tmp_path, "later"), "Net")
        writer.add("run", FACTS)
        add(writer, 1)
        await look(app)
        assert "1 reading" in app.text and not app.status
        writer.close()


async def test_a_history_is_deleted_from_the_list(start: Start, writer: HistoryWriter, tmp_path: Path) -> None:
    async with start(Engine(tmp_path), run=None) as app:
        await app.press("d")
        assert app.status == "the training night goes on: end it, then d deletes its history"
        writer._heartbeat.remove()
        await app.press("r", "d", "y")
        for _ in range(100):  # the question goes before the work begins
            if app.status == "deleted night":
                break
            await asyncio.sleep(0.02)
        assert app.status == "deleted night" and not list_histories(tmp_path)


TRAINING = """
import sys, time
import torch
from torch import nn
import nfinspect as nf

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
with nf.FiringMonitor(model, every=1, run="night", store=sys.argv[1]) as monitor:
    while True:
        model(torch.randn(32, 8)).sum().backward()
        monitor.step()
        time.sleep(0.05)
"""


def begin_training(store: Path) -> "subprocess.Popen[bytes]":
    """A process that trains and is watched, once its history is there."""
    child = subprocess.Popen([sys.executable, "-c", TRAINING, str(store)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (store / "night.history.jsonl").exists():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    return child


@pytest.mark.slow
async def test_a_training_in_another_process_is_seen_to_grow(start: Start, tmp_path: Path) -> None:
    child = begin_training(tmp_path)
    try:
        async with start(Engine(tmp_path), run=None) as app:
            await app.press("r")
            await opened(app)
            seen = []
            for _ in range(3):  # by the pane's own timer
                await asyncio.sleep(1.2)
                await app.settle()
                seen.append(len(app.pane._history.readings))
            assert seen[0] < seen[1] < seen[2] and app.pane._history.status == "capturing"
            child.kill()
            await asyncio.sleep(1.2)
            await app.settle()
            assert app.pane._history.status == "interrupted" and "interrupted" in app.text
    finally:
        child.kill()
        child.wait()


WATCH = "import sys; from nfinspect.cli import main; sys.exit(main(['watch', sys.argv[2], '--store', sys.argv[1]]))"


@pytest.mark.slow
def test_the_command_draws_anew_and_ends_with_the_training(writer: HistoryWriter, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "night", code=WATCH)
    try:
        terminal.wait_for("step 90")
        terminal.settle(1.0)
        assert terminal.read(1.2) == b""  # nothing has changed, nothing is sent
        add(writer, 100)
        terminal.wait_for("step 100")
        assert terminal.text.count("night: Net, training") == 1  # drawn where it stood
        writer.add("end", {"status": "complete", "step": 100})
        terminal.wait_for("night: Net, complete")
        assert terminal.process.wait(timeout=10) == 0
    finally:
        terminal.close()
