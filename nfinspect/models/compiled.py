"""Compiled models call no hooks, or hooks as compiled in, so they are read while they run as plain Python."""

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
    """Inside this context everything compiled with torch.compile, now or before, runs as the original Python.

    The values are then those of the uncompiled model, which a compiler may round differently. Applies to the whole
    process, as torch's stance does.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def uncompiled(model: ModelType) -> ModelType:
    """The original module, of the model's own class, inside the wrapper that torch.compile returns."""
    inner = getattr(model, "_orig_mod", model)
    return cast(ModelType, inner) if isinstance(inner, nn.Module) else model


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """`named_modules`; modules in compiled parts also under the names that they had before compilation."""
    named = dict(model.named_modules())
    return {**{_WRAPPER.sub("", name).lstrip("."): module for name, module in named.items()}, **named}


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile was asked for, of the model or of a part, or transformers compiles its decoding steps."""
    if getattr(getattr(model, "generation_config", None), "cache_implementation", None) == "static":
        return True
    return any(
        "_orig_mod" in module._modules
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in model.modules()
    )
