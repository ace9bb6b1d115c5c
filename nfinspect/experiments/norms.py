"""What a normalisation multiplies by, found by what it does and not by what it is called.

Families keep their gains differently (Gemma multiplies by 1 + weight, OLMo by nothing, LayerNorm1P by weight + 1), but
all of them do gain ⊙ normalised + bias, and a LayerNorm takes the mean off first. Two probes tell gain and kind.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfinspect.models import UnsupportedModel

SIZE = 1e3
"""Root mean square of the probes: the norm's epsilon (1e-8 to 1e-5, under the root) is nothing beside its square."""

TOLERANCE = 1e-4
"""Relative difference that float32 arithmetic may make between two probes."""


@dataclass(frozen=True)
class Norm:
    """A normalisation with its scale frozen: x -> gain ⊙ (x − mean(x) where `centred`). gain: float32[width]."""

    gain: Tensor
    centred: bool

    def __call__(self, directions: Tensor) -> Tensor:
        """What the frozen norm makes of changes of its input: float32[..., width]. The bias changes nothing."""
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        return directions * self.gain


def measured_norm(module: nn.Module, width: int, name: str) -> Norm:
    """The gain of a norm over `width` coordinates and whether it is a LayerNorm.

    Raises UnsupportedModel for a module that does not normalise: what it does to a direction depends on its input.
    """
    frozen = copy.deepcopy(module).float()
    device = next((p.device for p in frozen.parameters()), torch.device("cpu"))
    unit = _balanced(width).to(device)
    with torch.no_grad():
        gain = (_applied(frozen, SIZE * unit) - _applied(frozen, -SIZE * unit)) / (2 * unit)
        doubled = (_applied(frozen, 2 * SIZE * unit) - _applied(frozen, -2 * SIZE * unit)) / (2 * unit)
        moved = _applied(frozen, SIZE * (unit + 1))
        still = _applied(frozen, SIZE * unit)
    if gain.shape != unit.shape or not torch.allclose(gain, doubled, rtol=TOLERANCE, atol=TOLERANCE * _largest(gain)):
        raise UnsupportedModel(
            f"expected a normalisation at {name}, found a {type(module).__name__} whose output grows with its input: "
            "the direct effect on the logits is not known for this model"
        )
    return Norm(gain, torch.allclose(moved, still, rtol=TOLERANCE, atol=TOLERANCE * _largest(still)))


def _applied(module: nn.Module, values: Tensor) -> Tensor:
    output = module(values[None, None])
    return torch.as_tensor(output).reshape(-1).float()


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _balanced(width: int) -> Tensor:
    """float32[width] of mean 0 and root mean square 1, none of it near 0."""
    values = torch.ones(width)
    values[1::2] = -1
    if width % 2:
        values[-3:] = torch.tensor([1.0, 1.0, -2.0])
    return values / values.square().mean().sqrt()
