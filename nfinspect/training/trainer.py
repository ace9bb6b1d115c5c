"""The monitor as a callback of transformers' Trainer. Imported only on request."""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nfinspect.training.errors import NotReadable
from nfinspect.training.watching import Watching


class MonitorCallback(TrainerCallback):
    """Starts and ends the monitor with the training. Steps are those of the optimizer.

    A reading has its step's own loss only if the Trainer reports it, that is, if it logs that step and the one before
    (`logging_steps=1`).
    """

    def __init__(self, monitor: Watching) -> None:
        self.monitor = monitor
        self._waiting: int | None = None
        self._logged = 0

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
                f"expected a training on one GPU per process, found DataParallel over {args.n_gpu}: its copies of the "
                "model run in parallel; start it with torchrun, or set CUDA_VISIBLE_DEVICES"
            )
        if not self.monitor.active:
            self.monitor.start(model, step=state.global_step)
        self._waiting, self._logged = None, state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self._end_step(None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self._waiting = state.global_step
        # The Trainer reports a loss only in its log, as a mean over the steps since the last log.
        if not (control.should_log and state.global_step == self._logged + 1):
            self._end_step(None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        if not logs or not {"loss", "learning_rate"} <= logs.keys():
            return  # not the Trainer's own log of the training loss
        loss: float | None = float(logs["loss"])
        if loss == 0 and args.logging_nan_inf_filter:
            loss = None  # 0 is what the filter replaces NaN and infinity with
        self._logged = state.global_step
        self._end_step(loss)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self._end_step(None)
        self.monitor.finish()

    def _end_step(self, loss: float | None) -> None:
        step, self._waiting = self._waiting, None
        if step is not None:
            self.monitor.step(step, loss)
