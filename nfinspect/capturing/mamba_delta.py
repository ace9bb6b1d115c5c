"""Mamba's step size Δ while a capture reads: per layer and channel its moments, and how it goes with the surprisal.

The tokens that count, for mean and CV alike, are those with a surprisal: all but position 0, which has no past to be
predicted from. The surprisal is that of the token itself, −ln p in nats under the model's plain softmax, whatever the
temperature a generation was sampled with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.capturing.recorder import LayerValues
from nfinspect.models import LayerSite, body
from nfinspect.models.mamba_delta import StepSize, step_sizes
from nfinspect.models.surprisal import token_surprisal
from nfinspect_store.mamba_delta import DeltaMoments

ROWS = 512
"""Tokens whose Δ is worked out at a time: 6 MB of float64 for 1,536 channels [own]."""


class DeltaReader:
    """A context manager in which forward passes leave behind what Δ and the surprisals are made of.

    Around a batch: `begin()`, its passes in order of their tokens, `moments(…)`. Idle for a model without Δ.
    """

    def __init__(self, model: nn.Module, sites: Sequence[LayerSite]) -> None:
        self._model = model
        numbers = {site.layer: layer_id for layer_id, site in enumerate(sites) if site.site == "mixer"}
        self._steps = {numbers[step.layer]: step for step in step_sizes(model, sites)}
        self._held: dict[int, list[Tensor]] = {}
        self._hidden: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

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
        """Forget the batch before."""
        self._held = {}
        self._hidden = []

    def moments_of(self, sequences: Sequence[Sequence[int]], places: Sequence[slice]) -> dict[int, DeltaMoments]:
        """As `moments`, of sequences and where each lies in its row."""
        shape = len(sequences), sum(hidden.shape[1] for hidden in self._hidden)
        ids, real = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            if self._steps:
                ids[row, place] = torch.tensor(list(sequence), dtype=torch.long)
                real[row, place] = True
        return self.moments(ids, real)

    def moments(self, ids: Tensor, real: Tensor) -> dict[int, DeltaMoments]:
        """By layer_id, of the batch that has passed: none for a model without Δ.

        ids: int64[batch, tokens]; real: bool[batch, tokens], true where a position is no padding.
        """
        if not self._steps:
            return {}
        hidden = torch.cat(self._hidden, dim=1)
        real = real.to(hidden.device)
        predicted = real & (real.cumsum(1) > 1)  # all but the first of a sequence, which nothing predicts
        place = predicted[real].nonzero()[:, 0]  # among the real tokens, one sequence after the other
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
            # A copy of the part: a view would keep the whole output in memory.
            self._held.setdefault(layer_id, []).append(output.detach()[..., step.held].clone())

        return hook


def with_delta(values: Mapping[int, LayerValues], moments: Mapping[int, DeltaMoments]) -> dict[int, LayerValues]:
    """A batch's values, by layer_id, with the moments of the layers that have them."""
    return {layer_id: replace(layer, delta=moments.get(layer_id)) for layer_id, layer in values.items()}


def delta_moments(step: StepSize, held: Tensor, surprisal: Tensor) -> DeltaMoments:
    """Moments, in float64, of Δ over [tokens, part of a projection's output] with the tokens' surprisals, [tokens].

    Where the surprisals are NaN, so is what depends on them.
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
    # What never varied has no variance, whatever rounding of its mean would say.
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
