"""Eval mode inside a block; afterwards every module is back in its own mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block every module of `model` is in eval mode; afterwards each has its own flag again.

    `model.train(model.training)` would not do: a model trained with parts frozen in eval mode (norms, dropout, an
    adapter's base) has mixed modes.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
