"""Compiled models: their code calls no hooks, or builds them into itself, so they are read while they run as Python."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import nn

ModelType = TypeVar("ModelType", bound=nn.Module)

_WRAPPER = re.compile(r"(^|\.)_orig_mod(?=\.|$)")


@contextmanager
def run_as_python() -> Iterator[None]:
    """Within it everything that torch.compile has made, or will make, runs as the Python that it was made from.

    The values are then those of the model without compilation, which a compiler may round otherwise. Holds for the
    whole process, as torch's stance does.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def uncompiled(model: ModelType) -> ModelType:
    """The module inside the wrapper that torch.compile returns, which is of the model's own class."""
    inner = getattr(model, "_orig_mod", model)
    return cast(ModelType, inner) if isinstance(inner, nn.Module) else model


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """`named_modules`, and what stands in compiled parts also under the name that it had before."""
    named = dict(model.named_modules())
    return {**{_WRAPPER.sub("", name).lstrip("."): module for name, module in named.items()}, **named}
