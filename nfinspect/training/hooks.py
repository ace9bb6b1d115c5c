"""Hooks that stay with the module they were made for."""

from collections.abc import Callable
from functools import partial


class Hook(partial[None]):
    """`Hook(call, *first)` calls `call(*first, *what torch gives)`.

    A copy of a module that is being watched (a moving average of the weights, a checkpoint of the whole module) takes
    the hooks along: in the copy they do nothing.
    """

    def __reduce__(self) -> tuple[Callable[[], "Hook"], tuple[()]]:
        return silent_hook, ()


def silent_hook() -> Hook:
    """A hook that does nothing."""
    return Hook(_nothing)


def _nothing(*given: object) -> None:
    return None
