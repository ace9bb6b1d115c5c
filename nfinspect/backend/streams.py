"""What a job's command takes for its terminal: its streams, its directory and its environment."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from nfinspect.backend.jobs import Job


class _Lines(io.TextIOBase):
    """A job's stderr: each line is a note of the job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._job.note(line)
        return len(text)

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def end(self) -> None:
        if self._begun.strip():
            self.write("\n")


class _Printed(io.RawIOBase):
    """A job's stdout."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._job.write(content)
        return len(content)


@contextlib.contextmanager
def as_in_terminal(job: Job) -> Iterator[None]:
    """The command's own streams, directory and environment. Raises OSError if the directory has gone."""
    terminal, before = job.request.terminal, (sys.stdout, sys.stderr, _directory())
    lines = _Lines(job)
    printed = io.TextIOWrapper(io.BufferedWriter(_Printed(job)), encoding=_encoding(terminal.encoding))
    given = {"COLUMNS": str(terminal.columns), "LINES": str(terminal.lines), "NFINSPECT_STORE": terminal.store}
    environment = {name: os.environ.get(name) for name in given}
    try:
        os.chdir(job.request.directory)
        for name, value in given.items():
            _set(name, value or None)
        sys.stdout, sys.stderr = printed, cast(TextIO, lines)
        yield
    finally:
        sys.stdout, sys.stderr = before[:2]
        with contextlib.suppress(ValueError, OSError):
            printed.flush()
        lines.end()
        for name, old in environment.items():
            _set(name, old)
        with contextlib.suppress(OSError):  # removed meanwhile
            os.chdir(before[2])


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return "/"


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        return "utf-8"
    return name


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
