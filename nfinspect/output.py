"""The one module that writes to stdout and stderr. Results go to stdout, everything else to stderr.

What is written is shown, never executed (`nfinspect.text`): while a command runs, both streams make visible everything
that goes through them, whoever writes it (this module, click, a library's warning, a traceback). Data stays as it is:
CSV into a file or a pipe.

No colours and no cursor movement: a command's output is the same on a terminal, in a pipe and in a file, except
for the progress line and `watch`, which redraw in place, on a terminal only.
"""

import codecs
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

from nfinspect.json_values import indented
from nfinspect.text import visible, visible_lines

NARROW = 80

PROGRESS_SECONDS = "NFINSPECT_PROGRESS_SECONDS"
"""The environment variable that says how often a progress line is printed if stderr is no terminal."""


class ReaderGone(Exception):
    """The reader of stdout (`| head`) has closed it."""


class Shown:
    """A text stream whose text is made visible when written; lines stay lines. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _own(stream: TextIO) -> TextIO:
    """The stream itself, for text that this module has made harmless, and for its own cursor movements."""
    return stream.stream if isinstance(stream, Shown) else stream


@contextmanager
def shown_streams() -> Iterator[None]:
    """While a command runs: stdout and stderr make visible what is written to them."""
    _prepare()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Shown(_own(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _prepare() -> None:
    """Write characters that the terminal's encoding lacks as escapes, instead of failing.

    A stream that was closed before the start (`>&-`) is None in Python: what is written to it is discarded.
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
    """A line of a result, whatever it contains."""
    _own(sys.stdout).write(visible(text) + "\n")


def part(text: str) -> None:
    """A part of a result that is still being written, seen at once; line breaks in it stay."""
    _own(sys.stdout).write(visible_lines(text))
    flush()


def note(text: str) -> None:
    """A message on stderr: one line, whatever it contains."""
    flush()
    _own(sys.stderr).write(visible(text) + "\n")
    sys.stderr.flush()


def document(value: object) -> None:
    """One JSON document: NaN and infinities as null, everything outside ASCII escaped."""
    out = _own(sys.stdout)
    out.writelines(indented(value))
    out.write("\n")


def data() -> TextIO:
    """Stdout for data that others write (CSV, JSON): as it is, except on a terminal, which would act on it."""
    return sys.stdout if is_terminal() else _own(sys.stdout)


def confirmed(question: str) -> bool:
    """Whether the user says yes to a question, asked on stderr."""
    import click

    return click.confirm(visible(question), err=True)


def pass_on(pieces: Iterable[bytes]) -> None:
    """What another process of ours has printed, made harmless there: in the encoding of stdout, cut anywhere."""
    out = _own(sys.stdout)
    decoder = codecs.getincrementaldecoder(out.encoding or "utf-8")("replace")
    for piece in pieces:
        out.write(decoder.decode(piece))
        out.flush()
    out.write(decoder.decode(b"", final=True))


def flush() -> None:
    sys.stdout.flush()


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return sys.stdout.isatty()


def has_terminal() -> bool:
    """Whether an app can run: keys come from a terminal and the screen goes to one."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def width() -> int:
    """Columns to fit tables into: the terminal's, or 80 without one."""
    return max(40, shutil.get_terminal_size((NARROW, 24)).columns)


def cells(text: str) -> int:
    """How many cells a visible text takes on a terminal."""
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """A visible text, cut to at most `width` cells."""
    from rich.cells import set_cell_size

    return set_cell_size(text, width).rstrip() if cells(text) > width else text


def height() -> int:
    """Lines of the terminal, or 24 without one."""
    return max(10, shutil.get_terminal_size((NARROW, 24)).lines)


def is_ascii() -> bool:
    """Whether stdout cannot show more than ASCII."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def swallow_broken_pipe() -> None:
    """Discard what is still buffered for a reader that has gone."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


class ProgressLine:
    """One line on stderr: rewritten in place on a terminal, printed now and then elsewhere."""

    EVERY = 10.0
    """Seconds between lines if stderr is no terminal and $NFINSPECT_PROGRESS_SECONDS does not say otherwise."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else _progress_seconds(self.EVERY)
        self._shown = ""
        self._last = -math.inf

    def show(self, message: str, now: float, *, last: bool = False) -> None:
        """now: seconds on any monotonic clock. last: show it, however recent the one before."""
        if not last and now - self._last < self._every:
            return
        self._last = now
        out, message = _own(sys.stderr), visible(message)
        if self._terminal:
            message = cut(message, width() - 1)
            out.write("\r" + message + " " * (cells(self._shown) - cells(message)))
            self._shown = message
        else:
            out.write(message + "\n")
        out.flush()

    def end(self) -> None:
        """End the line; what is written next starts a new one."""
        if self._terminal and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._shown = ""


class Redrawn:
    """Lines on a terminal's stdout, redrawn in place, only when they differ.

    Nothing has to be restored: however the process ends, the last lines stay as they were.
    """

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._size = (0, 0)

    def show(self, texts: Sequence[str]) -> None:
        """texts: fewer lines than the terminal has, none wider than it."""
        out, texts, size = _own(sys.stdout), [visible(text) for text in texts], (width(), height())
        if list(texts) == self._shown and size == self._size:
            return
        if size != self._size and self._shown:
            start = "\x1b[H\x1b[2J"  # lines have been rewrapped: where the old ones are is unknown
        else:
            start = f"\x1b[{len(self._shown)}A\r" if self._shown else ""
        out.write(start + "".join(f"{text}\x1b[K\n" for text in texts) + "\x1b[J")
        out.flush()
        self._shown, self._size = list(texts), size


def _progress_seconds(usual: float) -> float:
    """What the caller asks for, as the terminal app does; `usual` if it is not a number."""
    try:
        return max(0.0, float(os.environ.get(PROGRESS_SECONDS, usual)))
    except ValueError:
        return usual


def lines(texts: Sequence[str]) -> None:
    for shown in texts:
        line(shown)
