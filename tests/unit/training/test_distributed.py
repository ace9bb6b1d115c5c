"""Two processes train one network: rank 0 watches and writes, the other does nothing, and the weights are the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nfinspect.analysis.history import read_history

RANK = """
import os, sys
import torch
from torch import nn
import nfinspect as nf

rank, folder, watch = int(os.environ["RANK"]), sys.argv[1], sys.argv[2] == "watched"
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{sys.argv[2]}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
model = nn.parallel.DistributedDataParallel(model)
torch.manual_seed(rank + 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
monitor = nf.FiringMonitor(model, every=4, run="ddp", store=folder, gradients=True)
if watch:
    monitor.start()
for _ in range(12):
    values = torch.randn(16, 8)
    nn.functional.cross_entropy(model(values), (values[:, 0] > 0).long()).backward()
    optimizer.step()
    optimizer.zero_grad()
    if watch:
        monitor.step()
        assert monitor.active == (rank == 0)
monitor.finish()
assert len(monitor.history) == (4 if watch and rank == 0 else 0)
torch.save(model.module.state_dict(), f"{folder}/{sys.argv[2]}-{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_rank_0_writes_and_the_weights_are_the_same(tmp_path: Path) -> None:
    for kind in ("bare", "watched"):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(tmp_path), kind],
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        for child in ranks:
            _, said = child.communicate(timeout=120)
            assert child.returncode == 0, said[-2000:]
    states = {path.stem: torch.load(path) for path in tmp_path.glob("*.pt")}
    assert len(states) == 4
    for state in states.values():
        assert all(torch.equal(state[name], states["bare-0"][name]) for name in state)
    history = read_history(tmp_path / "ddp.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 4, 8, 12] and history.status == "complete"
    assert {layer.tokens for reading in history.readings for layer in reading.layers} == {16}  # its own share
