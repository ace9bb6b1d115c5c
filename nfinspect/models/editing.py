"""Edits of neurons and directions while a model reads and writes sequences (methods §18)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.edits import KINDS, Kind

from .devices import to_device
from .errors import WrongSite
from .loaded import LoadedModel
from .replacing import Replace, replaced
from .sites import LayerSite


@dataclass(frozen=True)
class NeuronEdit:
    """A change of neurons of one layer, int64[neurons]. What a value a becomes: zero: 0; scale: a · amount; clamp:
    amount; add: a + amount.
    """

    kind: Kind
    site: LayerSite
    neurons: NDArray[np.int64]
    amount: float = 0.0

    def to_json(self) -> dict[str, Any]:
        amount = None if self.kind == "zero" else self.amount
        return _document(self.kind, self.site, self.neurons.tolist(), amount, None, None)


@dataclass(frozen=True)
class DirectionEdit:
    """A vector that is added, factor times, to all values of a site: float32[neurons]. name: as it was asked for."""

    name: str
    site: LayerSite
    vector: NDArray[np.float32]
    factor: float

    def to_json(self) -> dict[str, Any]:
        return _document("direction", self.site, [], self.factor, self.name, float(np.linalg.norm(self.vector)))


Edit = NeuronEdit | DirectionEdit


def _document(
    kind: str, site: LayerSite, neurons: list[int], amount: float | None, direction: str | None, norm: float | None
) -> dict[str, Any]:
    place = {"kind": kind, "site": site.site, "layer": site.layer}
    return {**place, "neurons": neurons, "amount": amount, "direction": direction, "norm": norm}


class ChangedValues:
    """Counts the values that edits changed, not those that were so before. It waits for no device until it is asked."""

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}

    def add(self, before: Tensor, after: Tensor) -> None:
        same = (before == after) | (before.isnan() & after.isnan())
        count = (~same).sum()
        known = self._counts.get(count.device)
        self._counts[count.device] = count if known is None else known + count

    @property
    def count(self) -> int:
        return sum(int(one) for one in self._counts.values())


@contextmanager
def edited(
    loaded: LoadedModel, edits: Sequence[Edit], start: int = 0, counts: ChangedValues | None = None
) -> Iterator[None]:
    """Inside this context the model reads sequences, each in one pass or step by step, with these edits.

    start: the first position of each sequence whose values are changed. counts: gets what was changed. For
    sequences that are read after others, enter it again: a pass of one token goes on with those
    before. Raises SilentHook and WrongSite as `replaced` does.
    """
    places = _Places(start)
    by_site: dict[LayerSite, list[Edit]] = {}
    for edit in sorted(edits, key=_order):
        by_site.setdefault(edit.site, []).append(edit)
    changes = {site: _changing(site, these, places) for site, these in by_site.items()}
    tell = {} if counts is None else {"tell": counts.add}
    with replaced(loaded, changes, places.begins, **tell):
        yield


class _Places:
    """Which values of the pass under way are changed. A pass of one token is a step, any other reads the whole."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._stop = 0
        self._padding = np.zeros(1, np.int64)  # to the left of each sequence
        self.changed = np.ones((0, 0), np.bool_)  # [batch, tokens]; on the CPU, where asking it waits for nothing
        self._there: dict[torch.device, Tensor] = {}

    def begins(self, shape: tuple[int, int], mask: Tensor | None) -> None:
        batch, tokens = shape
        first = self._stop if tokens == 1 else 0
        if first == 0:
            whole = mask is not None and tuple(mask.shape) == shape
            self._padding = _left(mask).cpu().numpy() if mask is not None and whole else np.zeros(1, np.int64)
        self._stop = first + tokens
        positions = np.arange(first, self._stop)[None] - self._padding[:, None]
        self.changed = np.broadcast_to(positions >= self._start, (batch, tokens))
        self._there = {}

    def on(self, device: torch.device) -> Tensor:
        """`changed` on a device, to which a pass sends it once: bool[batch, tokens]."""
        if device not in self._there:
            self._there[device] = to_device(torch.from_numpy(self.changed.copy()), device)
        return self._there[device]


def _left(mask: Tensor) -> Tensor:
    """How many places each row has before its first token: int64[batch]."""
    return (mask.bool().cumsum(1) == 0).sum(1)


def _order(edit: Edit) -> int:
    return KINDS.index(edit.kind) if isinstance(edit, NeuronEdit) else len(KINDS)


def _changing(site: LayerSite, edits: Sequence[Edit], places: _Places) -> Replace:
    applied = [_applying(edit) for edit in edits]

    def change(whole: Tensor) -> Tensor:
        where = places.changed
        if where.size * site.neurons != whole.numel():
            raise WrongSite(
                f"expected {list(where.shape)} tokens at {site.module} of layer {site.layer}, found "
                f"{list(whole.shape[:-1])}: the model leaves tokens out before this module"
            )
        if not where.any():
            return whole
        changed = whole.clone()
        for apply in applied:
            apply(changed)
        if where.all():
            return changed
        return torch.where(places.on(whole.device).reshape(*whole.shape[:-1], 1), changed, whole)

    return change


def _applying(edit: Edit) -> Callable[[Tensor], None]:
    """Changes values in place: [..., tokens, neurons]. What it needs is moved to their device once."""
    held = torch.as_tensor(edit.vector if isinstance(edit, DirectionEdit) else edit.neurons)

    def apply(part: Tensor) -> None:
        nonlocal held
        if held.device != part.device:
            held = held.to(part.device)
        if isinstance(edit, DirectionEdit):
            part += edit.factor * held.to(part.dtype)
        elif edit.kind in ("zero", "clamp"):  # index_fill_: a number that is assigned would be sent to the device first
            part.index_fill_(-1, held, 0.0 if edit.kind == "zero" else edit.amount)
        elif edit.kind == "scale":
            part[..., held] = part[..., held] * edit.amount
        else:
            part[..., held] = part[..., held] + edit.amount

    return apply
