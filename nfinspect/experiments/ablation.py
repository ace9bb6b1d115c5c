"""Ablating neurons of a running model: their values are replaced before the model uses them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.models import LayerSite, LoadedModel
from nfinspect.models.replacing import Replace, replaced


@dataclass(frozen=True)
class LayerAblation:
    """Neurons of one layer and the values that replace theirs: int64[neurons], float32[neurons]; None: 0."""

    site: LayerSite
    neurons: NDArray[np.int64]
    values: NDArray[np.float32] | None = None


@contextmanager
def ablated(loaded: LoadedModel, layers: Sequence[LayerAblation]) -> Iterator[None]:
    """Every forward pass inside this context runs without these neurons; afterwards the model is as before.

    Raises SilentHook and WrongSite as `replaced` does.
    """
    with replaced(loaded, {layer.site: _replacing(layer) for layer in layers}):
        yield


def _replacing(layer: LayerAblation) -> Replace:
    neurons = torch.as_tensor(layer.neurons, dtype=torch.long)
    values = None if layer.values is None else torch.as_tensor(layer.values)

    def replace(whole: Tensor) -> Tensor:
        nonlocal neurons, values
        neurons = neurons.to(whole.device)
        changed = whole.clone()
        if values is None:
            changed[..., neurons] = 0
        else:
            values = values.to(whole.device)
            changed[..., neurons] = values.to(whole.dtype)
        return changed

    return replace
