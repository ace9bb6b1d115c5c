"""Work that takes a while: a progress line on stderr, and results that are kept beside the run."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.tables import duration

if TYPE_CHECKING:
    import pyarrow as pa

    from nfinspect_store.results import Result

Tick = Callable[[int, int], None]

Made = tuple[Mapping[str, Any], Mapping[str, "pa.Table"]]
"""A document as `--json` prints it, and what else is kept with it."""

again_option = click.option("--again", is_flag=True, help="Compute anew, whatever was kept from an earlier time.")


@contextmanager
def progress(what: str) -> Iterator[Tick]:
    """A progress line about `what`; the tick takes (done, total).

    Ctrl-C is raised as KeyboardInterrupt also where a library has made another error of it, or nothing at all:
    matplotlib's drawing does either. Then it is raised at the next tick.
    """
    line = output.ProgressLine()
    started = time.monotonic()
    pressed: list[int] = []

    def tick(done: int, total: int) -> None:
        if pressed:
            raise KeyboardInterrupt
        now = time.monotonic()
        share = done / total if total else 1.0
        left = f"  {duration((now - started) * (1 / share - 1))} left" if 0 < share < 1 else ""
        line.show(f"{what}  {done}/{total} ({100 * share:.0f}%){left}", now)

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
    """Ctrl-C as ever, and noted in `pressed`. Nothing is installed off the main thread and where it is ignored."""
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


def kept_or_made(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    run_id: str | None,
    make: Callable[[Tick], Made],
    *,
    again: bool,
    what: str,
) -> "Result":
    """The kept result of these settings, or a new one, which is kept. Raises StorageFull, before the work if it can."""
    from nfinspect_store.results import check_keeping, find_result, keep_result

    if not again and (found := find_result(folder, kind, settings, run_id)) is not None:
        output.note(f"kept from {found.made_at:%Y-%m-%d %H:%M} UTC ({found.path}); --again computes it anew")
        return found
    check_keeping(folder)
    with progress(what) as tick:
        document, tables = make(tick)
    return keep_result(folder, kind, settings, output.plain(document), run_id=run_id, tables=tables)
