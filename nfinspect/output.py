"""The one module that writes to stdout and stderr. Results go to stdout, everything else to stderr.

No colours and no cursor movement: a command's output is the same on a terminal, in a pipe and in a file, but
for the progress line and for `watch`, which draw anew where they stand, on a terminal only.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from nfinspect.text import visible

NARROW = 80

PROGRESS_SECONDS = "NFINSPECT_PROGRESS_SECONDS"
"""The variable that says how often a progress line is printed where stderr is no terminal."""


class ReaderGone(Exception):
    """Whoever read stdout (`| head`) has seen enough."""


def prepare() -> None:
    """Let text that the terminal's encoding lacks be written as escapes instead of failing.

    A stream that was closed before the start (`>&-`) is None in Python: what is written to it goes nowhere.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def line(text: str = "") -> None:
    """A line of a result that is already safe to show."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A message beside the result, on stderr, made safe to show."""
    flush()
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


def document(value: object) -> None:
    """One JSON document: NaN and infinities as null, everything outside ASCII escaped."""
    json.dump(plain(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def text() -> TextIO:
    """Stdout for text that is written by others (CSV, JSON)."""
    return sys.stdout


def flush() -> None:
    sys.stdout.flush()


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return sys.stdout.isatty()


def has_terminal() -> bool:
    """Whether an app can run: keys come from a terminal and the screen goes to one."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def width() -> int:
    """Columns to fit tables into: the terminal's, or 80 where there is none."""
    return max(40, shutil.get_terminal_size((NARROW, 24)).columns)


def height() -> int:
    """Lines of the terminal, or 24 where there is none."""
    return max(10, shutil.get_terminal_size((NARROW, 24)).lines)


def is_ascii() -> bool:
    """Whether stdout cannot show more than ASCII."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def swallow_broken_pipe() -> None:
    """Let what is still buffered for a reader that has gone go nowhere, quietly."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


class ProgressLine:
    """One line on stderr: rewritten in place on a terminal, printed now and then elsewhere."""

    EVERY = 10.0
    """Seconds between lines where stderr is no terminal and $NFINSPECT_PROGRESS_SECONDS does not say otherwise."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else _progress_seconds(self.EVERY)
        self._shown = ""
        self._last = -math.inf

    def show(self, message: str, now: float, *, last: bool = False) -> None:
        """now: seconds on any clock that only goes forward. last: show it whatever was shown before."""
        if not last and now - self._last < self._every:
            return
        self._last = now
        message = visible(message)
        if self._terminal:
            message = message[: width() - 1]
            sys.stderr.write("\r" + message.ljust(len(self._shown)))
            self._shown = message
        else:
            sys.stderr.write(message + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line; what is written next starts on its own."""
        if self._terminal and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._shown = ""


class Redrawn:
    """Lines on a terminal's stdout that are drawn anew where they stand, only when they differ.

    Nothing has to be put back: whatever ends the process leaves the last lines as they were.
    """

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._size = (0, 0)

    def show(self, texts: Sequence[str]) -> None:
        """texts: fewer lines than the terminal has, none wider than it."""
        size = (width(), height())
        if list(texts) == self._shown and size == self._size:
            return
        if size != self._size and self._shown:
            start = "\x1b[H\x1b[2J"  # lines have been wrapped anew: where the old ones stand is not known
        else:
            start = f"\x1b[{len(self._shown)}A\r" if self._shown else ""
        sys.stdout.write(start + "".join(f"{text}\x1b[K\n" for text in texts) + "\x1b[J")
        sys.stdout.flush()
        self._shown, self._size = list(texts), size


def _progress_seconds(usual: float) -> float:
    """What the caller asks for, as the terminal app does; `usual` where it is no number."""
    try:
        return max(0.0, float(os.environ.get(PROGRESS_SECONDS, usual)))
    except ValueError:
        return usual


def lines(texts: Sequence[str]) -> None:
    for shown in texts:
        line(shown)
