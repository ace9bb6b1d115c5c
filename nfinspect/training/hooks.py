"""Hooks that work only on the module they were made for, and calls whose values no hook can read."""

from collections.abc import Callable
from functools import partial

import torch


class Hook(partial[None]):
    """`Hook(call, *first)` calls `call(*first, *arguments_from_torch)`.

    A copy of a watched module (a moving average of the weights, a checkpoint of the whole module) copies the hooks too:
    in the copy they do nothing.
    """

    def __reduce__(self) -> tuple[Callable[[], "Hook"], tuple[()]]:
        return silent_hook, ()


def is_traced() -> bool:
    """Whether a module is called with placeholders for values: in torch.compile, torch.jit.trace and the transforms of
    torch.func (vmap, grad, …). Reading them would raise an error, or become part of the traced code.
    """
    return torch.compiler.is_compiling() or is_transformed() or torch._C._is_tracing()


def is_transformed() -> bool:
    """Whether a transform of torch.func is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def silent_hook() -> Hook:
    """A hook that does nothing."""
    return Hook(_nothing)


def _nothing(*given: object) -> None:
    return None
