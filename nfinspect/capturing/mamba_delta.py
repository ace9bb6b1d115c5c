"""Mamba's step size Δ during a capture: its moments per layer and channel, and its co-moment with the surprisal.

The tokens that count, for mean and CV alike, are those with a surprisal: all but position 0, which no token precedes.
The surprisal is that of the token itself, −ln p in nats under the model's plain softmax, whatever temperature it was
sampled with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.capturing.recorder import LayerValues
from nfinspect.models import LayerSite, body
from nfinspect.models.mamba_delta import StepSize, step_sizes
from nfinspect.models.surprisal import token_surprisal
from nfinspect_store.mamba_delta import DeltaMoments

ROWS = 512
"""Tokens whose Δ is computed at a time: 6 MB of float64 for 1,536 channels [own]."""


class DeltaReader:
    """A context manager that keeps from forward passes what is needed to compute Δ and the surprisals.

    For a batch: `begin()`, its passes in order of their tokens, `moments(…)`. Does nothing for a model without Δ.
    """

    def __init__(self, model: nn.Module, sites: Sequence[LayerSite]) -> None:
        self._model = model
        numbers = {site.layer: layer_id for layer_id, site in enumerate(sites) if site.site == "mixer"}
        self._steps = {numbers[step.layer]: step for step in step_sizes(model, sites)}
        self._held: dict[int, list[Tensor]] = {}
        self._hidden: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

    @property
    def reads(self) -> bool:
        """Whether the model has a Δ that is read."""
        return bool(self._steps)

    def __enter__(self) -> "DeltaReader":
        for layer_id, step in self._steps.items():
            self._handles.append(step.projection.register_forward_hook(self._hook(layer_id, step)))
        if self._steps:

            def after(module: nn.Module, args: object, output: Any) -> None:
                self._hidden.append(output[0].detach())

            self._handles.append(body(self._model).register_forward_hook(after))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self) -> None:
        """Drop what was kept of the previous batch."""
        self._held = {}
        self._hidden = []

    def moments_of(
        self, sequences: Sequence[Sequence[int]], places: Sequence[slice], chosen: Sequence[NDArray[np.bool_]] | None
    ) -> dict[int, DeltaMoments]:
        """As `moments`, from sequences, the slice of each in its padded row, and which of its tokens are recorded."""
        shape = len(sequences), sum(hidden.shape[1] for hidden in self._hidden)
        ids, real, kept = (torch.zeros(shape, dtype=kind) for kind in (torch.long, torch.bool, torch.bool))
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            if self._steps:
                ids[row, place] = torch.tensor(list(sequence), dtype=torch.long)
                real[row, place] = True
                kept[row, place] = True if chosen is None else torch.from_numpy(chosen[row][: len(sequence)])
        return self.moments(ids, real, kept)

    def moments(self, ids: Tensor, real: Tensor, kept: Tensor | None = None) -> dict[int, DeltaMoments]:
        """The moments of the batch just run, by layer_id; empty for a model without Δ.

        ids: int64[batch, tokens]; real: bool[batch, tokens], true where a position is not padding; kept: likewise,
        where a token is recorded (None: all of them).
        """
        if not self._steps:
            return {}
        hidden = torch.cat(self._hidden, dim=1)
        real = real.to(hidden.device)
        predicted = real & (real.cumsum(1) > 1)  # all but the first token of each sequence
        if kept is not None:
            predicted &= kept.to(predicted.device)
        place = predicted[real].nonzero()[:, 0]  # indices among the real tokens of all sequences
        surprisal = token_surprisal(self._model, hidden[real][place - 1], ids.to(hidden.device)[predicted])
        if surprisal is None:  # a model without a vocabulary projection
            surprisal = hidden.new_full((len(place),), torch.nan)
        found = {}
        for layer_id, step in self._steps.items():
            held = torch.cat(self._held[layer_id], dim=1)
            found[layer_id] = delta_moments(step, held[predicted.to(held.device)], surprisal)
        self.begin()
        return found

    def _hook(self, layer_id: int, step: StepSize) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            # clone: a view would keep the whole output in memory.
            self._held.setdefault(layer_id, []).append(output.detach()[..., step.held].clone())

        return hook


def with_delta(values: Mapping[int, LayerValues], moments: Mapping[int, DeltaMoments]) -> dict[int, LayerValues]:
    """A batch's values, by layer_id, with the moments of the layers that have them."""
    return {layer_id: replace(layer, delta=moments.get(layer_id)) for layer_id, layer in values.items()}


def delta_moments(step: StepSize, held: Tensor, surprisal: Tensor) -> DeltaMoments:
    """Moments of Δ, in float64. held: [tokens, part of a projection's output]; surprisal: of the same tokens, [tokens].

    If surprisals are NaN, so are the moments that depend on them.
    """
    total = DeltaMoments.empty(step.channels)
    for start in range(0, len(held), ROWS):
        with torch.no_grad():
            delta = step.delta(held[start : start + ROWS])
        # Accelerators other than CUDA's have no float64.
        place = delta.device if delta.device.type == "cuda" else torch.device("cpu")
        total = total.merge(_chunk(delta.to(place).double(), surprisal[start : start + ROWS].to(place).double()))
    return total


def _chunk(delta: Tensor, surprisal: Tensor) -> DeltaMoments:
    """Of float64[tokens, channels] and float64[tokens]: two passes about the means."""
    n, channels = delta.shape
    mean, surprisal_mean = delta.mean(0), surprisal.mean()
    # Constant values have no variance, even if their computed mean is rounded.
    mean = torch.where(delta.amin(0) == delta.amax(0), delta[0], mean)
    surprisal_mean = torch.where(surprisal.amin() == surprisal.amax(), surprisal[0], surprisal_mean)
    deviation, surprised = delta - mean, surprisal - surprisal_mean
    rows = torch.stack(
        [
            mean,
            (deviation * deviation).sum(0),
            surprisal_mean.expand(channels),
            (surprised @ surprised).expand(channels),
            surprised @ deviation,
        ]
    )
    return DeltaMoments(np.full(channels, n), *rows.cpu().numpy())
