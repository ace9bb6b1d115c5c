"""Small networks, and a training of one whose every random number is drawn from a seed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import nfinspect as nf

STEPS = 40


def dropout_mlp() -> nn.Sequential:
    """Three hidden layers of 32 ReLU neurons with a batch norm and dropout between them: 3, 7 and 9 are its ReLUs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32),
        nn.BatchNorm1d(32),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 32),
        nn.Identity(),
        nn.ReLU(inplace=True),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 2),
    )


def monitor(**options: object) -> nf.FiringMonitor:
    """A monitor that reads every fifth step and writes nothing."""
    return nf.FiringMonitor(**{"every": 5, "write": False, **options})  # type: ignore[arg-type]


def train(
    model: nn.Module,
    monitor: nf.FiringMonitor | None = None,
    steps: int = STEPS,
    between: Callable[[int], None] | None = None,
) -> nn.Module:
    """between: called with the number of a step before its forward pass."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    if monitor is not None:
        monitor.start(model)
    for step in range(1, steps + 1):
        if between is not None:
            between(step)
        values = torch.randn(64, 8)
        loss = nn.functional.cross_entropy(model(values), (values[:, 0] > 0).long())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor.step(loss=loss)
    if monitor is not None:
        monitor.finish()
    return model


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether every parameter and buffer is the same to the last bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def hooks_of(model: nn.Module) -> int:
    """How many forward hooks the modules have."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Functional(nn.Module):
    """An MLP whose activations are functions: no module says where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return out
