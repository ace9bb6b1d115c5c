"""The weights of a projection as numbers: read where they are plain, else measured from what the module does.

Quantised formats pack their codes in many ways, and some change the packing when they are first used; an adapter adds
to weights of another module. All of them are projections: the rows of W are what the module makes of unit vectors,
less its bias. Packed codes are never taken for weights.
"""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nfinspect.models import UnsupportedModel
from nfinspect.models.structure import width_in, width_out

PLAIN = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
"""Weights of fewer bits are codes that need a scale."""

ROWS = 512
"""Unit vectors that go through a module at a time [own]."""

UNIT = 64.0
"""The length of the unit vectors where a module has a bias, which would round their products away [own]."""

TOLERANCE = 0.05
"""How far the measured weights, applied to random values, may be from what the module makes of these, as a share of its
norm [own]: formats that also round what they are given are 1 to 2 % off."""


def projection_weight(module: nn.Module, name: str) -> Tensor:
    """The weight of a projection as [out, in]: in its own dtype, or as float32 where it had to be measured.

    Raises UnsupportedModel for a module that is no projection, and for weights that are offloaded.
    """
    weights = list(module.parameters())
    if any(weight.device.type == "meta" for weight in weights):
        raise UnsupportedModel(
            f"expected the weights of {name} in memory, found them offloaded: load the model on one device, such as "
            "--device cpu"
        )
    weight, forward = getattr(module, "weight", None), type(module).forward
    if type(weight) is nn.Parameter and weight.ndim == 2 and weight.dtype in PLAIN:
        if forward is Conv1D.forward:
            return weight.detach().T
        if forward is nn.Linear.forward:
            return weight.detach()
    wide, high = width_in(module), width_out(module)
    if wide is None or high is None or not weights:
        raise UnsupportedModel(f"expected a projection at {name}, found a {type(module).__name__}")
    return _measured(module, name, wide, high)


def _measured(module: nn.Module, name: str, wide: int, high: int) -> Tensor:
    first = next(module.parameters())
    dtype = _given(module)

    def applied(rows: Tensor) -> Tensor:
        with torch.no_grad():  # forward(), not __call__: that would run every hook
            return torch.as_tensor(module.forward(rows.to(first.device, dtype))).float()

    try:
        bias = applied(torch.zeros(1, wide))
        unit = UNIT if bool(bias.any()) else 1.0
        parts = []
        for start in range(0, wide, ROWS):
            number = min(ROWS, wide - start)
            rows = unit * torch.eye(number, wide).roll(start, 1)
            parts.append((applied(rows) - bias) / unit)
        values = torch.randn(4, wide, generator=torch.Generator().manual_seed(0))
        found, expected = values.to(first.device) @ torch.cat(parts), applied(values) - bias
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a kernel may refuse what it is given, each in its own way
        raise UnsupportedModel(
            f"expected weights at {name} that can be read as numbers, found a {type(module).__name__} that does not "
            f"take float values ({type(error).__name__}): load the model without quantised weights and adapters"
        ) from error
    if found.shape != (4, high) or not float((found - expected).norm()) <= TOLERANCE * float(expected.norm()):
        raise UnsupportedModel(
            f"expected weights at {name} that can be read as numbers, found a {type(module).__name__} whose output is "
            "not a product of its input with weights: quantised too coarsely, or not a projection"
        )
    return torch.cat(parts).T


def _given(module: nn.Module) -> torch.dtype:
    """The precision in which a quantised module takes values: that of its plain parts, else float32."""
    compute = getattr(module, "compute_dtype", None)
    if isinstance(compute, torch.dtype):
        return compute
    parts = (*module.parameters(), *module.buffers())
    return next((part.dtype for part in parts if part.dtype in PLAIN), torch.float32)
