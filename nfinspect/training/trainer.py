"""The monitor as a callback of transformers' Trainer. Imported on request only."""

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nfinspect.training.errors import NotReadable

if TYPE_CHECKING:
    from nfinspect.training.monitor import FiringMonitor


class MonitorCallback(TrainerCallback):
    """Starts the monitor with the training and ends it with it. Steps are those of the optimizer."""

    def __init__(self, monitor: "FiringMonitor") -> None:
        self.monitor = monitor
        self._loss: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise NotReadable(
                f"expected a training on one GPU a process, found DataParallel over {args.n_gpu}: its copies of the "
                "model run beside each other; start it with torchrun, or set CUDA_VISIBLE_DEVICES"
            )
        if not self.monitor.active:
            self.monitor.start(model, step=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self.monitor.step(state.global_step, self._loss)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self.monitor.finish()
