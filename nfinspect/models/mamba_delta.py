"""The step size Δ of Mamba's mixers, recomputed from the output of one of their projections.

    Mamba        Δ = softplus(W_dt · x_proj(u)[:R] + b_dt)             one per channel
    FalconMamba  the same, with a norm without weights after [:R]      one per channel
    Mamba-2      Δ = clamp(softplus(in_proj(x)[-heads:] + dt_bias))    one per head

Forward hooks on `dt_proj` and `conv1d` never fire in transformers 5.23, which uses only their weights; those on
`x_proj` and `in_proj` do. The part of their output that determines Δ is small (R is a sixteenth of the hidden size), so
that is kept until Δ is needed. A decoding step of Mamba-2 does not clamp, unlike the pass over a whole sequence: the
clamped Δ is the one reported, as a run's values are those of that pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import structure
from .sites import LayerSite

_MAMBA_1 = frozenset({"mamba", "falcon_mamba"})
_MAMBA_2 = frozenset({"mamba2"})


@dataclass(frozen=True)
class StepSize:
    """Where one layer's Δ comes from.

    A forward hook on `projection` sees its output; `held` is the part of the last dimension to keep; `delta` turns that
    part into float32[…, channels].
    """

    layer: int
    channels: int
    projection: nn.Module
    held: slice
    delta: Callable[[Tensor], Tensor]


def step_sizes(model: nn.Module, sites: Sequence[LayerSite]) -> list[StepSize]:
    """A StepSize for every layer whose `mixer` site is in `sites`; none for models other than those above."""
    if not any(site.site == "mixer" for site in sites):
        return []
    kind = structure.config_of(model).model_type
    make = _mamba_1 if kind in _MAMBA_1 else _mamba_2 if kind in _MAMBA_2 else None
    if make is None:
        return []
    mixers = {site.layer: model.get_submodule(site.module.rpartition(".")[0]) for site in sites if site.site == "mixer"}
    return [make(layer, mixer) for layer, mixer in mixers.items()]


def _mamba_1(layer: int, mixer: Any) -> StepSize:
    norm: Callable[[Tensor], Tensor] = getattr(mixer, "dt_layernorm", lambda step: step)

    def delta(held: Tensor) -> Tensor:
        # The module, not its weight, which is packed in a quantised model.
        return F.softplus(mixer.dt_proj(norm(held)).float())

    return StepSize(layer, mixer.intermediate_size, mixer.x_proj, slice(0, mixer.time_step_rank), delta)


def _mamba_2(layer: int, mixer: Any) -> StepSize:
    low, high = mixer.time_step_limit

    def delta(held: Tensor) -> Tensor:
        return F.softplus(held.float() + mixer.dt_bias.float()).clamp(low, high)

    return StepSize(layer, mixer.num_heads, mixer.in_proj, slice(-mixer.num_heads, None), delta)
