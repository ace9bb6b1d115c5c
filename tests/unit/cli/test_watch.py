"""`nfinspect watch`: a history as it stands, and a training followed from another process."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Run

from nfinspect.analysis.history import Alert, LayerReading, Reading
from nfinspect_store.history import HistoryWriter, new_history_path

TRAINING = """
import sys, time
import torch
from torch import nn
import nfinspect as nf

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
with nf.FiringMonitor(model, every=2, run="night", store=sys.argv[1]) as monitor:
    for step in range(1, int(sys.argv[2]) + 1):
        if step == 4:
            with torch.no_grad():
                model[2].bias[:20] = -1e4
        values = torch.randn(64, 8)
        loss = nn.functional.cross_entropy(model(values), (values[:, 0] > 0).long())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step(loss=loss)
        time.sleep(float(sys.argv[3]))
"""


def train(store: Path, steps: int, seconds: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(store), str(steps), str(seconds)], stderr=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", str(folder), "12", "0"])
        exec(TRAINING, {})
    return folder / "night.history.jsonl"


@pytest.fixture
def history(trained: Path, store: Path) -> None:
    shutil.copy2(trained, store / trained.name)


@pytest.mark.usefixtures("history")
def test_json_has_readings_and_alerts(nfinspect: Run) -> None:
    done = nfinspect("watch", "night", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["name"] == "night" and found["status"] == "complete" and found["layers"] == ["1", "3"]
    assert [reading["step"] for reading in found["readings"]] == [1, 2, 4, 6, 8, 10, 12]
    first = found["readings"][0]
    assert set(first) == {
        "step", "time", "loss", "epoch", "health_score", "missing_percentage", "problematic_layers", "layers"
    }  # fmt: skip
    assert {"layer", "layer_name", "activation_rate", "dead_neurons", "died", "gradient_rms"} <= set(first["layers"][0])
    dying = next(alert for alert in found["alerts"] if alert["kind"] == "dying")
    assert (dying["step"], dying["layer_name"], dying["neurons"]) == (4, "3", list(range(20)))
    assert dying["died_at"].count(4) >= 18 and len(dying["died_at"]) == 20  # one or two had died by themselves


@pytest.mark.usefixtures("history")
def test_people_see_charts_and_the_newest_alerts(nfinspect: Run) -> None:
    done = nfinspect("watch", "night", COLUMNS="80", LINES="30")
    lines = done.stdout.splitlines()
    assert lines[0] == "night: Sequential, complete" and lines[1].startswith("step 12, loss ")
    assert "o score  x dead share of 64 neurons" in done.stdout and "activation rate by layer" in done.stdout
    # An nn.Sequential calls its modules 1 and 3, which would pass for the layers' numbers.
    assert "a module 1  b module 3" in done.stdout
    assert "module 3 is dying" in done.stdout and "\x1b" not in done.stdout
    assert max(map(len, lines)) <= 80


def test_alerts_are_shown_whole_or_with_a_sign(store: Path, nfinspect: Run) -> None:
    reading = Reading(1, "2026-11-20T12:30:00", 0.5, 0.8, 0.0, 0, (LayerReading(0, "fc1", 10),))
    long = "gradient exploding in layer fc1: " + "far too large " * 30
    writer = HistoryWriter(new_history_path(store, "night"), "Net")
    writer.add("run", {"run_id": "x", "model": "Net", "created_at": "2026-11-20T12:30:00", "every": 1, "first_step": 1})
    writer.add("reading", reading.to_json())
    writer.add("alert", Alert(1, "exploding", "warning", long).to_json())
    assert nfinspect("watch", "night", COLUMNS="80", LINES="24").stdout.splitlines()[-1] == "  …"
    writer.add("alert", Alert(2, "dying", "warning", "the last one").to_json())
    writer.close()
    shown = nfinspect("watch", "night", COLUMNS="80", LINES="24").stdout.splitlines()
    assert shown[-2:] == ["2 alerts, the newest first", "  Warning: step 2: the last one"]


@pytest.mark.usefixtures("history")
def test_histories_are_listed_and_deleted_with_the_runs(nfinspect: Run, store: Path) -> None:
    listed = {run["name"]: run for run in json.loads(nfinspect("runs", "--json").stdout)}
    assert listed["night"]["kind"] == "history" and listed["planted"]["kind"] == "run"
    assert "night" in nfinspect("runs").stdout
    assert nfinspect("delete", "night", "--yes").stderr.startswith("deleted night")
    assert not list(store.glob("night*")) and (store / "planted.duckdb").exists()


def test_a_name_that_is_not_there(nfinspect: Run) -> None:
    done = nfinspect("watch", "nothing")
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "no training history 'nothing'" in done.stderr


def listed_step(process: Run) -> int:
    """The step at which `runs` shows the training."""
    listed = {run["name"]: run for run in json.loads(process("runs", "--json").stdout)}
    assert listed["night"]["status"] == "capturing"
    step: int = listed["night"]["progress"]["tokens_done"]
    return step


@pytest.mark.slow
def test_a_training_is_followed_from_another_process(process: Run, store: Path) -> None:
    child = train(store, 10_000, 0.02)
    try:
        deadline = time.monotonic() + 60
        while not (store / "night.history.jsonl").exists():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        first = json.loads(process("watch", "night", "--json").stdout)
        second = json.loads(process("watch", "night", "--json").stdout)
        assert first["status"] == second["status"] == "capturing"
        assert 0 < len(first["readings"]) < len(second["readings"])
        assert second["readings"][: len(first["readings"])] == first["readings"]
        deadline = time.monotonic() + 60
        while listed_step(process) < second["readings"][-1]["step"]:  # the heartbeat is up to a second old
            assert time.monotonic() < deadline and child.poll() is None
        refused = process("delete", "night", "--yes")
        assert refused.returncode == 1 and "end the training first" in refused.stderr
    finally:
        child.kill()
        child.wait()
    ended = json.loads(process("watch", "night", "--json").stdout)
    assert ended["status"] == "interrupted" and ended["readings"][: len(second["readings"])] == second["readings"]
