"""The part of a monitor that a trainer's callback uses."""

from typing import Any, Protocol

from torch import Tensor, nn


class Watching(Protocol):
    """nfinspect.FiringMonitor, as seen by a callback."""

    @property
    def active(self) -> bool: ...
    def start(self, model: nn.Module | None = None, *, step: int | None = None) -> None: ...
    def step(self, step: int | None = None, loss: float | Tensor | None = None) -> Any: ...
    def finish(self, status: str = "complete") -> None: ...
