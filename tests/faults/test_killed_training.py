"""A training that is killed leaves the history up to its last reading."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nfinspect.analysis.history import read_history

TRAINING = """
import sys
import torch
from torch import nn
import nfinspect as nf

model = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2))
monitor = nf.FiringMonitor(model, every=1, run="night", store=sys.argv[1], gradients=True, resume=True)
done = int(sys.argv[2])
monitor.start(step=done)
for step in range(done + 1, done + 100_000):
    model(torch.randn(8, 8)).sum().backward()
    monitor.step(step, loss=float(step))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.21, 0.4])
def test_kill_leaves_a_history_that_goes_on(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "night.history.jsonl"
    done = 0
    for _ in range(2):
        size = path.stat().st_size if path.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path), str(done)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size <= size + 2000:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.01)
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.wait()
        history = read_history(path)
        assert history.status == "interrupted" and len(history.readings) > done
        assert [reading.step for reading in history.readings] == list(range(1, len(history.readings) + 1))
        assert all(reading.loss == reading.step and len(reading.layers) == 2 for reading in history.readings)
        done = len(history.readings)
