"""How long work tells how far it is, and how it is cancelled."""

from collections.abc import Callable
from typing import TypeAlias

Tick: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) after each piece of work. Whoever wants to cancel raises from it."""


def silent(done: int, total: int) -> None:
    """A tick that nobody listens to."""
