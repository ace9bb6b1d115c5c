"""What a monitor writes: whole, by one process, with the right end, and gone on with by a resumed training."""

import asyncio
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import dropout_mlp, hooks_of, monitor, train
from torch import nn

import nfinspect as nf
from nfinspect.analysis.history import Alert, read_history
from nfinspect_store.errors import RunBusy, RunExists


def test_two_monitors_do_not_write_one_history(tmp_path: Path) -> None:
    again = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path, resume=True)
    first = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path)
    first.start()
    with pytest.raises(RunBusy, match="another monitor"):
        again.start()
    first.finish()
    again.start()
    again.finish()
    other = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path)
    for _ in range(2):  # the first refusal does not make it the second's own
        with pytest.raises(RunExists):
            other.start()


def test_the_file_holds_what_the_monitor_saw(tmp_path: Path) -> None:
    watched = monitor(write=True, run="night", store=tmp_path, gradients=True)
    train(dropout_mlp(), watched)
    history = read_history(tmp_path / "night.history.jsonl")
    assert history.readings == tuple(watched.history) and history.alerts == tuple(watched.alerts)
    assert (history.name, history.status, history.layers) == ("night", "complete", ("3", "7", "9"))
    assert history.info["every"] == 5 and history.info["model"] == "Sequential" and history.info["history_version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["night.history.jsonl"]
    with pytest.raises(RunExists, match="another run name, or resume it"):
        monitor(write=True, run="night", store=tmp_path).start(dropout_mlp())


def test_a_pickled_monitor_goes_on_where_it_was(tmp_path: Path) -> None:
    watched = monitor(write=True, run="night", store=tmp_path)
    model = dropout_mlp()
    watched.start(model)
    model(torch.randn(64, 8)).sum().backward()
    watched.step()
    kept = pickle.dumps(watched)  # in the middle, as a checkpoint does
    watched.finish("interrupted")
    again = pickle.loads(kept)
    assert not again.active and again.history == watched.history
    train(dropout_mlp(), again, steps=9)
    history = read_history(tmp_path / "night.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 2, 5, 10]
    assert history.status == "complete" and history.readings == tuple(again.history)


def test_a_resumed_training_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    train(dropout_mlp(), monitor(write=True, run="night", store=tmp_path), steps=20)
    again = monitor(write=True, run="night", store=tmp_path, resume=True)
    model = dropout_mlp()
    again.start(model, step=12)
    model(torch.randn(64, 8)).sum().backward()
    again.step(13)
    again.finish()
    assert [r.step for r in read_history(tmp_path / "night.history.jsonl").readings] == [1, 5, 10, 13]


def test_an_error_in_the_loop_ends_the_history_as_failed(tmp_path: Path) -> None:
    model = dropout_mlp()
    for error, status in ((ValueError, "failed"), (KeyboardInterrupt, "interrupted")):
        with pytest.raises(error), monitor(model=model, write=True, run=status, store=tmp_path):
            raise error
        assert read_history(tmp_path / f"{status}.history.jsonl").status == status
        assert hooks_of(model) == 0


def test_an_epoch_is_checked_apart_from_the_training() -> None:
    """The founding notes' way of use."""
    watched, data = nf.FiringMonitor(), torch.randn(100, 8)
    model = dropout_mlp()
    assert watched.check_epoch(model, data, 1) is None
    with torch.no_grad():
        model[8].bias[:20] = -1e4
    warning = watched.check_epoch(model, data, 2)
    assert warning is not None and warning.startswith("Warning: step 2: health fell from")
    assert [reading.step for reading in watched.history] == [1, 2] and model.training


@pytest.mark.parametrize(
    "error, status",
    [
        (SystemExit(), "complete"),
        (SystemExit(0), "complete"),
        (SystemExit(3), "failed"),
        (SystemExit("no data"), "failed"),
        (GeneratorExit(), "interrupted"),
        (asyncio.CancelledError(), "interrupted"),
    ],
)
def test_how_a_training_that_is_left_has_ended(error: BaseException, status: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), monitor(model=dropout_mlp(), write=True, run="r", store=tmp_path):
        raise error
    assert read_history(tmp_path / "r.history.jsonl").status == status


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_end_its_parents_history(tmp_path: Path) -> None:
    model = dropout_mlp()
    watched = monitor(model=model, write=True, run="r", store=tmp_path, every=1)
    watched.start()
    pid = os.fork()
    if not pid:
        watched.alerts.append(Alert(1, "nan", "critical", "of the child"))
        watched._announce(watched.alerts[:])
        watched.finish("failed")
        os._exit(0 if not watched.active else 1)
    assert os.waitpid(pid, 0)[1] == 0
    during = read_history(tmp_path / "r.history.jsonl")
    assert during.status == "capturing" and during.alerts == ()  # the heartbeat is there, too
    model(torch.randn(64, 8)).sum().backward()
    watched.step()
    watched.finish()
    after = read_history(tmp_path / "r.history.jsonl")
    assert after.status == "complete" and after.readings == tuple(watched.history) and len(after.readings) == 1


def test_a_start_that_the_disk_refuses_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk."""
    code = f"""
import resource, signal
import nfinspect as nf
from networks import dropout_mlp
from nfinspect_store.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    nf.FiringMonitor(dropout_mlp(), run="r", store={str(tmp_path)!r}).start()
except StorageFull:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr[-1000:]
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_another_process_has_just_made_is_not_written_to(tmp_path: Path, monkeypatch: Any) -> None:
    watched = monitor(model=dropout_mlp(), write=True, run="r", store=tmp_path)
    path = tmp_path / "r.history.jsonl"
    path.touch()
    monkeypatch.setattr(Path, "exists", lambda self: False)  # it was not there when this one looked
    with pytest.raises(RunExists):
        watched.start()
    assert path.read_bytes() == b""


def test_an_epoch_does_not_replace_the_reading_of_a_step(tmp_path: Path) -> None:
    model, data = dropout_mlp(), torch.randn(100, 8)
    with monitor(model=model, write=True, run="r", store=tmp_path, every=2) as watched:
        for epoch in (1, 2):
            for _ in range(2):
                model(torch.randn(64, 8)).sum().backward()
                watched.step()
            watched.check_epoch(model, data, epoch)
    assert [(r.step, r.epoch, r.layers[0].tokens) for r in watched.history] == [
        (1, None, 64), (2, None, 64), (2, 1, 100), (4, None, 64), (4, 2, 100)
    ]  # fmt: skip
    history = read_history(tmp_path / "r.history.jsonl")
    assert history.readings == tuple(r for r in watched.history if r.epoch is None)
    assert history.epochs == tuple(r for r in watched.history if r.epoch is not None)

    again = monitor(model=model, write=True, run="e", store=tmp_path)  # nothing but epochs: they are what is shown
    again.start()
    for epoch in (1, 2):
        again.check_epoch(model, data, epoch)
    again.finish()
    history = read_history(tmp_path / "e.history.jsonl")
    assert [r.step for r in history.readings] == [1, 2] and history.epochs == history.readings == tuple(again.history)


def test_epochs_are_compared_with_epochs() -> None:
    """The training's batches are far from what the epochs read: that is no fall of the health."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    with monitor(model=model, every=1) as watched:
        for epoch in (1, 2, 3):
            model(1e-4 * torch.randn(64, 8)).sum().backward()
            watched.step()
            assert watched.check_epoch(model, torch.randn(100, 8), epoch) is None
    scores = {reading.epoch: reading.health_score for reading in watched.history}
    assert scores[None] is not None and scores[1] is not None and scores[None] < 0.9 * scores[1]
    assert not [alert for alert in watched.alerts if alert.kind in ("health", "slow fall")]
