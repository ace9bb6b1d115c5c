"""How long work reports its progress, and how it is cancelled."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

Tick: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) after each piece of work. To cancel the work, raise from it."""


def silent(done: int, total: int) -> None:
    """A tick that does nothing."""


class Reporter(Protocol):
    """How an analysis reports its progress to its caller."""

    def note(self, text: str) -> None: ...
    def progress(self, what: str) -> AbstractContextManager[Tick]: ...


class Silent:
    """Reports to nobody."""

    def note(self, text: str) -> None:
        """Does nothing."""

    @contextmanager
    def progress(self, what: str) -> Iterator[Tick]:
        """Shows nothing."""
        yield silent
