"""Edits of neurons and directions while a model reads and writes one sequence (methods §18)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.edits import KINDS, Kind
from nfinspect.experiments.replacing import Replace, replaced
from nfinspect.models import LayerSite, LoadedModel


@dataclass(frozen=True)
class NeuronEdit:
    """A change of neurons of one layer, int64[neurons]. What a value a becomes: zero: 0; scale: a · amount; clamp:
    amount; add: a + amount.
    """

    kind: Kind
    site: LayerSite
    neurons: NDArray[np.int64]
    amount: float = 0.0


@dataclass(frozen=True)
class DirectionEdit:
    """A vector that is added, factor times, to all values of a site: float32[neurons]. name: as it was asked for."""

    name: str
    site: LayerSite
    vector: NDArray[np.float32]
    factor: float


Edit = NeuronEdit | DirectionEdit


@contextmanager
def edited(loaded: LoadedModel, edits: Sequence[Edit], start: int = 0) -> Iterator[None]:
    """Inside this context the model reads one sequence, in one pass or step by step, with these edits.

    start: the first position whose values are changed. A batch may hold copies of the sequence, of one length. Raises
    SilentHook and WrongSite as `replaced` does.
    """
    place = _Place()
    by_site: dict[LayerSite, list[Edit]] = {}
    for edit in sorted(edits, key=_order):
        by_site.setdefault(edit.site, []).append(edit)
    changes = {site: _changing(these, place, start) for site, these in by_site.items()}
    with replaced(loaded, changes, place.begins):
        yield


class _Place:
    """The first position of the pass under way: a pass of one token is a step, any other reads the whole sequence."""

    def __init__(self) -> None:
        self.first = 0
        self._stop = 0

    def begins(self, tokens: int) -> None:
        self.first = self._stop if tokens == 1 else 0
        self._stop = self.first + tokens


def _order(edit: Edit) -> int:
    return KINDS.index(edit.kind) if isinstance(edit, NeuronEdit) else len(KINDS)


def _changing(edits: Sequence[Edit], place: _Place, start: int) -> Replace:
    def change(whole: Tensor) -> Tensor:
        skipped = max(0, start - place.first)
        if skipped >= whole.shape[-2]:
            return whole
        changed = whole.clone()
        part = changed[..., skipped:, :]
        for edit in edits:
            _apply(edit, part)
        return changed

    return change


def _apply(edit: Edit, part: Tensor) -> None:
    """Change values in place: [..., tokens, neurons]."""
    if isinstance(edit, DirectionEdit):
        part += edit.factor * torch.as_tensor(edit.vector).to(part.device, part.dtype)
        return
    neurons = torch.as_tensor(edit.neurons, dtype=torch.long, device=part.device)
    if edit.kind == "zero":
        part[..., neurons] = 0
    elif edit.kind == "scale":
        part[..., neurons] = part[..., neurons] * edit.amount
    elif edit.kind == "clamp":
        part[..., neurons] = edit.amount
    else:
        part[..., neurons] = part[..., neurons] + edit.amount
