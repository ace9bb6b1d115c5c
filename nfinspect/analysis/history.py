"""What a training monitor saw, step by step: readings of layers and alerts, as its history file holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from nfinspect.json_values import Document
from nfinspect_store.history import SUFFIX, HistoryFile

Kept = TypeVar("Kept", bound="LayerReading | Reading | Alert")


@dataclass(frozen=True)
class LayerReading(Document):
    """One layer at one step. Counts are of neurons; rates and scores run from 0 to 1, None where undefined.

    tokens: on how many tokens (or samples; in a convolution, positions) its classes rest. died, revived: neurons whose
    state changed with this reading. gradient_rms: root mean square of the loss's gradient with respect to the layer's
    values. finite: whether all its values were; if not, its classes and figures are None.
    """

    layer: int
    layer_name: str
    neurons: int
    tokens: int = 0
    activation_rate: float | None = None
    health_score: float | None = None
    firing_pattern: str | None = None
    dead_neurons: int | None = None
    saturated_neurons: int | None = None
    sporadic_neurons: int | None = None
    missing_neurons: int | None = None
    weak_neurons: int | None = None
    mean: float | None = None
    std: float | None = None
    gradient_rms: float | None = None
    died: tuple[int, ...] = ()
    revived: tuple[int, ...] = ()
    finite: bool = True

    @property
    def dead_share(self) -> float | None:
        return None if self.dead_neurons is None else self.dead_neurons / self.neurons

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "LayerReading":
        return _kept(cls, {**content, "died": tuple(content["died"]), "revived": tuple(content["revived"])})


@dataclass(frozen=True)
class Reading(Document):
    """All layers at one step. missing_percentage: 0-100. time: UTC. Scores are None where a layer was not finite.

    epoch: for what FiringMonitor.check_epoch read, on data of its own; None for a reading of the training's forward
    passes.
    """

    step: int
    time: str
    loss: float | None
    health_score: float | None
    missing_percentage: float | None
    problematic_layers: int | None
    layers: tuple[LayerReading, ...]
    epoch: int | None = None

    @property
    def dead_share(self) -> float | None:
        """Share of all neurons that are dead, 0 to 1."""
        dead = [layer.dead_neurons for layer in self.layers if layer.dead_neurons is not None]
        return sum(dead) / sum(x.neurons for x in self.layers) if len(dead) == len(self.layers) and dead else None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Reading":
        known = {f.name: content.get(f.name) for f in fields(cls)}
        return _kept(cls, {**known, "layers": tuple(map(LayerReading.from_json, content["layers"]))})


@dataclass(frozen=True)
class Alert(Document):
    """Something to look at. kind: health | slow fall | missing | problematic | dying | saturation | nan | vanishing |
    exploding | silent; level: warning | critical.

    neurons: those that it is about, if any; died_at: the step at which each of them died.
    """

    step: int
    kind: str
    level: str
    text: str
    layer: int | None = None
    layer_name: str | None = None
    neurons: tuple[int, ...] = ()
    died_at: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.level.capitalize()}: step {self.step}: {self.text}"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Alert":
        return _kept(cls, {**content, "neurons": tuple(content["neurons"]), "died_at": tuple(content["died_at"])})


@dataclass(frozen=True)
class History:
    """What was seen of a training so far. info: the model and the settings, from the first line.

    readings: of its steps, or of its epochs if no step was read; epochs: those of check_epoch, in either case.
    """

    name: str
    path: Path
    info: Mapping[str, Any]
    status: str
    readings: tuple[Reading, ...]
    alerts: tuple[Alert, ...]
    layers: tuple[str, ...] = field(default=())
    epochs: tuple[Reading, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "status": self.status,
            **{k: self.info.get(k) for k in ("run_id", "model", "created_at", "every", "settings")},
            "layers": list(self.layers),
            "readings": [reading.to_json() for reading in self.readings],
            "epochs": [reading.to_json() for reading in self.epochs],
            "alerts": [alert.to_json() for alert in self.alerts],
        }


class LiveHistory:
    """A history that may still grow: `update` reads the new lines."""

    def __init__(self, path: Path) -> None:
        self._file = HistoryFile(path)
        self._info: dict[str, Any] = {}
        self._readings: dict[int, Reading] = {}
        self._epochs: dict[int, Reading] = {}
        self._alerts: list[Alert] = []
        self._end: str | None = None

    def update(self) -> bool:
        """Read the new lines; whether there were any. Raises RunNotFound, NotARun."""
        came = False
        for kind, content in self._file.new_lines():
            came = True
            try:
                self._take(kind, content)
            except (KeyError, TypeError, ValueError):
                continue  # a line that another version wrote
        return came

    def _take(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "run":
            self._info, self._end = content, None
            since = int(content.get("first_step", 0))
            # A resumed training starts from its checkpoint: what was read after that belongs to an abandoned attempt.
            self._readings = {step: reading for step, reading in self._readings.items() if step < since}
            self._alerts = [alert for alert in self._alerts if alert.step < since]
        elif kind == "reading":
            reading = Reading.from_json(content)
            if reading.epoch is None:
                self._readings[reading.step] = reading
            else:
                self._epochs[reading.epoch] = reading
        elif kind == "alert":
            self._alerts.append(Alert.from_json(content))
        elif kind == "end":
            self._end = str(content["status"])

    @property
    def history(self) -> History:
        status = self._end or ("capturing" if self._file.is_written() else "interrupted")
        path = self._file.path
        epochs = tuple(self._epochs.values())
        readings = tuple(self._readings.values()) or epochs
        return History(
            name=path.name.removesuffix(SUFFIX),
            path=path,
            info=self._info,
            status=status,
            readings=readings,
            alerts=tuple(self._alerts),
            layers=tuple(layer.layer_name for layer in readings[-1].layers) if readings else (),
            epochs=epochs,
        )


def read_history(path: Path) -> History:
    """A history as its file has it now. Raises RunNotFound, NotARun."""
    live = LiveHistory(path)
    live.update()
    return live.history


def _kept(cls: type[Kept], content: Mapping[str, Any]) -> Kept:
    """A record from the fields that this version knows. Raises TypeError where a value is of another type."""
    kinds = _kinds(cast(Any, cls))  # mypy thinks that a class in a variable is not hashable
    held = {name: content[name] for name in kinds if name in content}
    for name, value in held.items():
        allowed, inside = kinds[name]
        if type(value) not in allowed or (inside and any(type(one) is not inside for one in value)):
            raise TypeError(f"expected {name} of another type, found {value!r}")
    return cls(**held)


@cache
def _kinds(cls: type) -> Mapping[str, tuple[frozenset[type], type | None]]:
    """For each field the types that it may have, and for a tuple the type of its items; a float may be a whole number.

    Computed once for each class: a long training has a hundred thousand records.
    """
    found: dict[str, tuple[frozenset[type], type | None]] = {}
    hints = get_type_hints(cls)
    for name, kind in ((one.name, hints[one.name]) for one in fields(cls)):
        if get_origin(kind) is tuple:
            found[name] = frozenset({tuple}), get_args(kind)[0]
        else:
            types = frozenset(get_args(kind) or (kind,))
            found[name] = (types | {int} if float in types else types), None
    return found
