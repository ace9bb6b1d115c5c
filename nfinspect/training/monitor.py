"""The monitor: watches the neurons of a network while it trains, and changes nothing about the training.

    with nf.FiringMonitor(model, every=50, run="night") as monitor:
        for batch in loader:
            loss = …; loss.backward(); optimizer.step(); optimizer.zero_grad()
            monitor.step(loss=loss)

`nfinspect watch night` shows the history from another terminal. The monitor reads the forward passes of the training
itself: it adds no pass, draws no random number and touches no gradient.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from nfinspect.analysis.history import Alert, Reading
from nfinspect.training.analyzer import Input, NeuralFiringAnalyzer
from nfinspect.training.errors import TrainingError
from nfinspect.training.finite import Beginning, FiniteWatch
from nfinspect.training.layer_finder import Layers, find_places, unwrapped
from nfinspect.training.record import Record, status_of
from nfinspect.training.step_reader import StepReader, Windows
from nfinspect.training.watch import SeenLayer, TrainingWatch
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError
from nfinspect_store.history import new_history_path

if TYPE_CHECKING:
    from nfinspect.training.trainer import MonitorCallback

LIVE = ("_model", "_reader", "_finite", "_record")
"""What belongs to this process: a pickled monitor is without it."""

LAST_STEP = 2**62
"""Steps are stored as int64."""

log = logging.getLogger("nfinspect.training")


class FiringMonitor:
    """A context manager around a training loop, with `step` called after each step of the optimizer.

    model: the network, or give it to `start`. every: steps between readings; the first step is always read. run: the
    name of the history in the store (by default from the model and the time); resume: continue an existing history.
    layers: as for NeuralFiringAnalyzer.analyze_pytorch_model. analyzer: its thresholds are used. gradients: also record
    the root mean square of the loss's gradient with respect to each layer's values. window: number of readings that
    classes rest on (with small batches a neuron that fires rarely looks dead in a single one). max_tokens: the most
    tokens of a pass that are read, evenly spread. check_finite: look for NaN and infinity at every 'step' or at every
    'reading'. write: False keeps the history only in memory. on_alert: called with each Alert; alerts also go to the
    logger `nfinspect.training`.

    Under torch.distributed rank 0 watches its own share of each batch and the other ranks do nothing. A pickled monitor
    keeps its settings and its history; `start` continues it.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        every: int = 50,
        run: str | None = None,
        store: str | Path | None = None,
        resume: bool = False,
        layers: Layers = None,
        analyzer: NeuralFiringAnalyzer | None = None,
        gradients: bool = False,
        window: int = 1,
        max_tokens: int = 4096,
        check_finite: str = "step",
        write: bool = True,
        on_alert: Callable[[Alert], object] | None = None,
    ) -> None:
        if not all(_is_count(value) for value in (every, window, max_tokens)):
            raise RequestError(
                f"expected every, window, max_tokens as integers of 1 or more, found {every}, {window}, {max_tokens}"
            )
        if check_finite not in ("step", "reading"):
            raise RequestError(f"expected check_finite 'step' or 'reading', found {check_finite!r}")
        self.analyzer = analyzer or NeuralFiringAnalyzer()
        self.every, self.run, self.on_alert = every, run, on_alert
        self.history: list[Reading] = []
        self.alerts: list[Alert] = []
        self.path: Path | None = None
        self._store, self._resume, self._write, self._layers = store, resume, write, layers
        self._gradients, self._window, self._max_tokens = gradients, window, max_tokens
        self._check_finite = check_finite
        self._step = 0
        self._watch, self._epochs = TrainingWatch(), TrainingWatch()
        self._windows: Windows = {}
        self._not_finite = False
        self._read_once = False
        self._model = model
        self._reader: StepReader | None = None
        self._finite: FiniteWatch | None = None
        self._record: Record | None = None

    @property
    def active(self) -> bool:
        """Whether it watches a training in this process."""
        return self._reader is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(status_of(error))

    def start(self, model: nn.Module | None = None, *, step: int | None = None) -> None:
        """Begin to watch.

        step: steps of the optimizer done before (in a resumed training), by default those that this monitor has seen.
        Raises NoLayers, NotReadable, RunExists, RunBusy, StorageFull, RequestError.
        """
        if self.active:
            raise RequestError("expected a monitor that is not watching, found one that is: finish() first")
        self._model = model if model is not None else self._model
        if self._model is None:
            raise RequestError("expected a model to watch, found none: FiringMonitor(model), or start(model)")
        if rank() != 0:
            return
        inner = unwrapped(self._model)
        places = find_places(inner, self._layers)
        self._step = self._step if step is None else step
        self._read_once = False
        try:
            self._reader = StepReader(
                inner,
                places,
                self.analyzer.options,
                max_tokens=self._max_tokens,
                gradients=self._gradients,
                window=self._window,
                windows=self._windows,
            )
            if self._check_finite == "step":
                self._finite = FiniteWatch(inner, places)
                self._finite.begin_step(self._step + 1)
            self._reader.attach()
            if self._write:  # last, so that a training that cannot be watched leaves no history
                self._open(type(inner).__name__)
        except BaseException:
            self.finish("failed")
            raise

    def step(self, step: int | None = None, loss: float | Tensor | None = None) -> tuple[Alert, ...]:
        """Call it after each step of the optimizer; returns the new alerts.

        step: its number, from 1 on, if it is not the next one. loss: recorded in the history. Raises SilentLayer and
        NotReadable at the first reading, RequestError.
        """
        if step is not None and not ((_is_count(step) or step == 0) and step < LAST_STEP):
            raise RequestError(f"expected a step's number, found {step!r}")
        reading = self._reader is not None and self._reader.active
        loss = _number(loss) if reading and loss is not None else None
        self._step = self._step + 1 if step is None else int(step)
        if self._reader is None:
            return ()
        alerts: list[Alert] = []
        if self._record is not None:
            self._record.beat(self._step)
        if self._finite is not None:
            found = self._finite.take(fetch=reading)
            if found is not None or reading:  # between readings a GPU is not asked, and nothing is known
                alerts += self._not_finite_alert(found)
            self._finite.begin_step(self._step + 1)
        if reading and (self._reader.called or not self._read_once):
            try:
                alerts += self._take_reading(loss)
            except TrainingError:
                self.finish("failed")
                raise
        if not self._reader.active and (self._step + 1) % self.every == 0:
            self._reader.attach()
        self._announce(alerts)
        return tuple(alerts)

    def finish(self, status: str = "complete") -> None:
        """Stop watching: remove the hooks and close the history. May be called again."""
        reader, finite, record = self._reader, self._finite, self._record
        self._reader = self._finite = self._record = None
        if reader is not None:
            reader.detach()
        if finite is not None:
            finite.remove()
        if record is not None:
            record.close(status, self._step)

    def check_epoch(self, model: nn.Module, data: Input, epoch: int) -> str | None:
        """Read a model over some data, in eval mode and separately from the training: a reading for this epoch.

        Its step is the training's, or the epoch if the training's steps are not counted. Epochs are compared with
        epochs, not with readings of the training's own batches. Returns the warning if the health has fallen by more
        than 10 %, else None. Raises what NeuralFiringAnalyzer.analyze_pytorch_model raises.
        """
        if rank() != 0:
            return None
        report = self.analyzer.analyze_pytorch_model(model, data, layers=self._layers)
        step, epoch = self._step or int(epoch), int(epoch)
        seen = [SeenLayer(x.layer_name, x.neurons, x.health, x.classes, x.tokens, step) for x in report.layer_analyses]
        reading, alerts = self._epochs.take(step, None, seen)
        self._add(replace(reading, epoch=epoch))
        self._announce(alerts)
        return next((str(alert) for alert in alerts if alert.kind in ("health", "slow fall")), None)

    def trainer_callback(self) -> "MonitorCallback":
        """A callback for transformers' Trainer: `Trainer(…, callbacks=[monitor.trainer_callback()])`."""
        from nfinspect.training.trainer import MonitorCallback

        return MonitorCallback(self)

    def lightning_callback(self) -> Any:
        """A callback for Lightning's Trainer. Raises NotInstalled."""
        from nfinspect.training.lightning import lightning_callback

        return lightning_callback(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **dict.fromkeys(LIVE)}

    def _open(self, model: str) -> None:
        path = self.path
        resumed = path is not None  # started before, perhaps in another process
        if path is None:
            self.run = self.run or f"{model}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
            path = new_history_path(store_path(self._store), self.run).absolute()
        facts = {
            "every": self.every,
            "first_step": self._step + 1,
            "settings": {
                **vars(self.analyzer.options),
                "window": self._window,
                "max_tokens": self._max_tokens,
                "gradients": self._gradients,
            },
        }
        self._record = Record(path, model, facts, resume=self._resume or resumed)
        self.path = path
        self._record.beat(self._step)

    def _take_reading(self, loss: float | None) -> list[Alert]:
        assert self._reader is not None
        if not self._read_once:
            self._reader.check_called()
        seen = self._reader.seen(self._step)
        if not seen:
            return []  # an empty batch: read the next step
        self._reader.detach()
        self._read_once = True
        alerts = self._take(self._step, loss, seen)
        if self._check_finite == "reading":
            bad = next((layer for layer in seen if layer.health is None), None)
            first = bad is not None and bad is seen[0]
            alerts += self._not_finite_alert(Beginning(self._step, bad.name, first, ()) if bad else None)
        return alerts

    def _take(self, step: int, loss: float | None, seen: list[SeenLayer]) -> list[Alert]:
        reading, alerts = self._watch.take(step, loss, seen)
        self._add(reading)
        return list(alerts)

    def _add(self, reading: Reading) -> None:
        self.history.append(reading)
        self._keep("reading", reading.to_json())

    def _not_finite_alert(self, found: Beginning | None) -> list[Alert]:
        """An alert each time that it begins: from then on it is in every step."""
        began, self._not_finite = found is not None and not self._not_finite, found is not None
        if found is None or not began:
            return []
        number = next((w.layer.layer for (module, _), w in self._windows.items() if module == found.layer), None)
        return [Alert(found.step, "nan", "critical", found.text, number, found.layer)]

    def _announce(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            self.alerts.append(alert)
            self._keep("alert", alert.to_json())
            log.warning("%s", alert)
            if self.on_alert is not None:
                self.on_alert(alert)

    def _keep(self, kind: str, content: dict[str, object]) -> None:
        if self._record is not None:
            self._record.add(kind, content)


def rank() -> int:
    """This process's rank under torch.distributed or torchrun, else 0."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _is_count(value: object) -> bool:
    """Whether it is an integer of 1 or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _number(loss: float | Tensor) -> float | None:
    try:
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RequestError(f"expected the loss as one number, found something else: {error}") from error
    return value if abs(value) < float("inf") else None
