"""Work that takes a while: a progress line on stderr, and saved results."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import click

from nfinspect import output
from nfinspect.analysis.ticks import Tick
from nfinspect.backend.hosting import hosted
from nfinspect.present.numbers import duration, percent

if TYPE_CHECKING:
    pass

Analysis = TypeVar("Analysis")


class _OldName(click.Option):
    """An option whose old names, given after the first, still work but are not shown in the help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (self.opts[0], record[1])


recompute_option = click.option(
    "--recompute",
    "--again",
    "recompute",
    cls=_OldName,
    is_flag=True,
    help="Compute it again, even if a result is saved.",
)


@contextmanager
def progress(what: str) -> Iterator[Tick]:
    """A progress line about `what`; the tick takes (done, total).

    Ctrl-C is raised as KeyboardInterrupt even if a library turns it into another error, or swallows it, as matplotlib
    does while drawing; a swallowed one is raised at the next tick.
    """
    line = output.ProgressLine()
    started = time.monotonic()
    pressed: list[int] = []
    job = hosted()
    told = None if job is None else job.tick(what)

    def tick(done: int, total: int) -> None:
        if pressed:
            raise KeyboardInterrupt
        if told is not None:
            told(done, total)
            return
        now = time.monotonic()
        share = done / total if total else 1.0
        left = f"  {duration((now - started) * (1 / share - 1))} left" if 0 < share < 1 else ""
        line.show(f"{what}  {done:,}/{total:,} ({percent(share, places=0)}){left}", now)

    try:
        with _noting_ctrl_c(pressed):
            yield tick
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        line.end()


@contextmanager
def _noting_ctrl_c(pressed: list[int]) -> Iterator[None]:
    """Ctrl-C as before, and noted in `pressed`. Nothing is installed off the main thread or if it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class CommandLine:
    """What long work says on stderr: a line of progress, and where a result is from."""

    def note(self, text: str) -> None:
        output.note(text)

    def progress(self, what: str) -> AbstractContextManager[Tick]:
        return progress(what)
