"""The monitor as a callback of Lightning, which is not a dependency of this project."""

import importlib
from typing import Any

from nfinspect.training.record import status_of
from nfinspect.training.watching import Watching
from nfinspect_store.errors import NotInstalled

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def lightning_callback(monitor: Watching) -> Any:
    """A callback of the Lightning that is installed. Raises NotInstalled."""
    return type("MonitorCallback", (_Hooks, _base()), {})(monitor)


def _base() -> type:
    for package in PACKAGES:
        try:
            found: type = importlib.import_module(package).Callback
        except ImportError:
            continue
        return found
    raise NotInstalled(
        f"expected Lightning ({' or '.join(PACKAGES)}), found neither: pip install lightning, or call monitor.step() "
        "in your own loop"
    )


class _Hooks:
    """Lightning calls these."""

    def __init__(self, monitor: Watching) -> None:
        super().__init__()
        self.monitor = monitor
        self._step = 0
        self._losses: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step, self._losses = int(trainer.global_step), []
        if not self.monitor.active:
            self.monitor.start(pl_module, step=self._step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._losses.append(outputs.get("loss") if isinstance(outputs, dict) else outputs)
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step, losses, self._losses = int(trainer.global_step), self._losses, []
        # If Lightning calls the optimizer itself, it divides each batch's loss by the number of accumulated batches.
        known = all(loss is not None for loss in losses) and (pl_module.automatic_optimization or len(losses) == 1)
        self.monitor.step(self._step, sum(losses) if known else None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.monitor.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.monitor.finish(status_of(exception))
