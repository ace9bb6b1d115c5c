"""Rounding: how far two right answers may lie apart, and the answers of another processor, which tests must stand.

Processors choose their kernels by instruction set, shape and number of threads, and each kernel adds up in an order of
its own. With NFINSPECT_TEST_ROUNDING=SEED every matrix product on the CPU is the exact one, off by a random error of
at most one unit of the dtype's precision times the sum of the absolute products. A conforming kernel may be off by as
many units as there are terms (Higham, Accuracy and Stability of Numerical Algorithms, 2002, §3.5). As on a real
processor the error is the same whenever the shapes are the same, and differs between shapes.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNITS_A_LAYER = 32
"""Of eps x the largest value, between two passes of one model through other kernels: a block has about seven
products and two norms, each with an error of its own beside its inputs'. Seen over all tiny families: up to 12.
"""

_library: torch.library.Library | None = None  # the kernels stay replaced as long as it lives


def allowed(expected: Tensor, layers: int) -> float:
    """The largest difference that rounding explains from `expected`, a value some `layers` blocks deep.

    It follows from dtype and depth; a value read at the wrong place is off by thousands of times as much.
    """
    return allowed_of(float(expected.abs().max()), layers, expected.dtype)


def allowed_of(largest: float, layers: int, dtype: torch.dtype = torch.float32) -> float:
    """The same of values whose largest size is known."""
    return UNITS_A_LAYER * layers * torch.finfo(dtype).eps * largest


def assert_same_pass(found: Any, expected: Tensor, layer: int) -> None:
    """float32[tokens, neurons] read in block `layer` (from 0) are those of another pass of the same model."""
    expected = expected.detach()
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=allowed(expected, layer + 1))


def use(seed: int) -> None:
    """Replace the CPU's matrix products for the rest of the process."""
    global _library
    _library = torch.library.Library("aten", "IMPL")

    def product(a: Tensor, b: Tensor) -> Tensor:
        """Tensor[..., rows, inner] x Tensor[..., inner, columns] with this processor's error."""
        kind = a.dtype
        if not kind.is_floating_point:
            return torch.from_numpy(a.numpy() @ b.numpy())
        left, right = (t.detach().to(torch.float64).numpy() for t in (a, b))
        with np.errstate(invalid="ignore", over="ignore"):  # no kernel warns of what is not finite
            exact, sizes = left @ right, np.abs(left) @ np.abs(right)
            units = np.random.default_rng([seed, *a.shape, *b.shape]).uniform(-1, 1, exact.shape)
            found = np.where(np.isfinite(exact), exact + torch.finfo(kind).eps * units * sizes, exact)
        return torch.from_numpy(found).to(kind)

    def scaled(value: Any, tensor: Tensor) -> Tensor:
        return tensor if value == 1 else tensor * value

    def plus(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        found = scaled(alpha, product(a, b))
        return found.clone() if beta == 0 else scaled(beta, bias) + found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is what is wanted
        for name, kernel in {"mm": product, "bmm": product, "addmm": plus, "baddbmm": plus}.items():
            _library.impl(name, kernel, "CPU")
