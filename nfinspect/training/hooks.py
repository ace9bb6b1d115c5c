"""Hooks that stay with the module they were made for, and calls whose values no hook can look at."""

from collections.abc import Callable
from functools import partial

import torch


class Hook(partial[None]):
    """`Hook(call, *first)` calls `call(*first, *what torch gives)`.

    A copy of a module that is being watched (a moving average of the weights, a checkpoint of the whole module) takes
    the hooks along: in the copy they do nothing.
    """

    def __reduce__(self) -> tuple[Callable[[], "Hook"], tuple[()]]:
        return silent_hook, ()


def is_traced() -> bool:
    """Whether what a module is called with stands for other values: torch.compile, torch.jit.trace, and the transforms
    of torch.func (vmap, grad, …). To look at it would be an error, or a part of the code that is made.
    """
    return torch.compiler.is_compiling() or is_transformed() or torch._C._is_tracing()


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def silent_hook() -> Hook:
    """A hook that does nothing."""
    return Hook(_nothing)


def _nothing(*given: object) -> None:
    return None
