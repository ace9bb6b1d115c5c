"""Commands that the app has carried out for it, each in a process of its own: no model ever enters the app.

A command is `python -m nfinspect …` in its own process group, without stdin. What it says on stderr is its progress
and, where it fails, the one line that says why. Cancelling is what Ctrl-C would be: nothing half-written is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence

from nfinspect.output import PROGRESS_SECONDS
from nfinspect.tui.engine import JobState
from nfinspect_store.errors import NfinspectError

SECONDS = 0.5
"""Between two lines of progress."""

PATIENCE = 5.0
"""Seconds that a cancelled command has; a long operation of torch is not to be interrupted."""

FAREWELL = 1.0
"""Seconds that commands have when the app itself ends."""

COMMAND = ("-P", "-m", "nfinspect")
"""-P: a folder called nfinspect where the app was started is not what is meant."""

LONGEST = 500
"""Characters of a line that are kept."""


class JobFailed(NfinspectError):
    """A command could not be started."""


class ChildJob:
    """A command under way. Its methods may be called from any thread."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """arguments: of `nfinspect`. Raises JobFailed where no process can be started."""
        self._started = time.monotonic()
        self._line = self._output = ""
        self._status: int | None = None
        self._cancelled = False
        try:
            self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the job)
        except OSError as error:
            raise JobFailed(f"cannot keep what the command prints: {error.strerror or error}") from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._stdout,
                stderr=subprocess.PIPE,
                env={**os.environ, PROGRESS_SECONDS: str(SECONDS)},
                encoding="utf-8",
                errors="replace",
                process_group=0,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            self._stdout.close()
            why = getattr(error, "strerror", None) or error
            raise JobFailed(f"cannot start nfinspect {' '.join(arguments[:1])}: {why}") from error
        threading.Thread(target=self._listen, name="nfinspect-job", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if text := line.strip():
                    self._line = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
        status = self._process.wait()
        with self._stdout as printed:
            printed.seek(0)
            self._output = printed.read().decode("utf-8", "replace")
        self._status = status

    def state(self) -> JobState:
        status = self._status
        return JobState(
            line=self._said(status),
            seconds=time.monotonic() - self._started,
            status=status,
            cancelled=self._cancelled,
        )

    def _said(self, status: int | None) -> str:
        if status is None or status == 0:
            return self._line
        if self._cancelled:
            return "cancelled: nothing was kept of it"
        if status < 0:
            cause = ": not enough memory?" if status == -signal.SIGKILL else ""
            return f"the command was ended by {signal.Signals(-status).name}{cause}"
        return self._line.removeprefix("nfinspect: ") or f"the command ended with status {status}"

    def cancel(self) -> None:
        """Interrupt it, and end it if it does not heed that. Returns at once."""
        self._cancelled = True
        self.signal(signal.SIGINT)
        last = threading.Timer(PATIENCE, self.signal, [signal.SIGKILL])
        last.daemon = True
        last.start()

    def signal(self, number: int) -> None:
        """To the command and whatever it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def output(self) -> str:
        """What it has printed as its result, once it has ended."""
        return self._output


def end_all(jobs: Iterable[ChildJob]) -> None:
    """Interrupt every command, and end those that do not heed it."""
    left = list(jobs)
    for job in left:
        job.signal(signal.SIGINT)
    until = time.monotonic() + FAREWELL
    for job in left:
        if not job.wait(until - time.monotonic()):
            job.signal(signal.SIGKILL)
            job.wait(FAREWELL)
