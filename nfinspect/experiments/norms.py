"""The gain of a normalisation, found from what it does, not from its class or weights.

Families store their gains differently (Gemma multiplies by 1 + weight, OLMo by nothing, LayerNorm1P by weight + 1), but
all of them compute gain ⊙ normalised + bias, and a LayerNorm subtracts the mean first. Probes show gain and kind.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfinspect.models import UnsupportedModel

SIZE = 1e3
"""Root mean square of the probes: an epsilon of 1e-8 to 1e-5 under the norm's root is negligible next to its square."""

TOLERANCE = 1e-4
"""Relative difference that float32 arithmetic may make between two probes."""


@dataclass(frozen=True)
class Norm:
    """A normalisation with frozen scale: x -> gain ⊙ x, or gain ⊙ (x − mean(x)) if `centred`. gain: float32[width]."""

    gain: Tensor
    centred: bool

    def __call__(self, directions: Tensor) -> Tensor:
        """How the frozen norm changes its output for a change of its input: float32[..., width]. Its bias cancels."""
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        return directions * self.gain


def measured_norm(module: nn.Module, width: int, name: str) -> Norm:
    """The gain of a norm over `width` coordinates, and whether it subtracts the mean.

    Raises UnsupportedModel for a module whose output grows with its input, as it does not normalise.
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
    """float32[width] with mean 0 and root mean square 1, no entry near 0."""
    values = torch.ones(width)
    values[1::2] = -1
    if width % 2:
        values[-3:] = torch.tensor([1.0, 1.0, -2.0])
    return values / values.square().mean().sqrt()
