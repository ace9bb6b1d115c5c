"""Commands that the app runs, each in a process of its own: no model is ever loaded into the app.

A command is `python -m nfinspect …` in its own process group, without stdin. Its stderr has its progress and, if it
fails, the one line that says why. Cancelling does what Ctrl-C would: nothing half-written is saved.

The board holds the running commands, one for each analysis of a run, and a timer that looks at them. A command goes on
while the user is in another place. While no command runs, the timer is stopped.
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
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from textual.timer import Timer

from nfinspect.output import PROGRESS_SECONDS
from nfinspect.tui.requests import JobState
from nfinspect_store.errors import NfinspectError

SECONDS = 0.5
"""Between two lines of progress, and between two looks at them."""

PATIENCE = 5.0
"""Seconds until a cancelled command is killed: a long operation of torch does not notice the interrupt."""

FAREWELL = 1.0
"""Seconds until commands are killed when the app itself ends."""

COMMAND = ("-P", "-m", "nfinspect")
"""-P: a folder called nfinspect in the working directory must not be run instead."""

LONGEST = 500
"""Characters of a line that are kept, at most."""


class JobFailed(NfinspectError):
    """A command could not be started."""


class Job:
    """A command as a process. Its methods may be called from any thread."""

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
            return "cancelled: nothing was saved"
        if status < 0:
            cause = ": not enough memory?" if status == -signal.SIGKILL else ""
            return f"the command was ended by {signal.Signals(-status).name}{cause}"
        return self._line.removeprefix("nfinspect: ") or f"the command ended with status {status}"

    def cancel(self) -> None:
        """Interrupt it, and kill it if it still runs after PATIENCE. Returns at once."""
        self._cancelled = True
        self.signal(signal.SIGINT)
        last = threading.Timer(PATIENCE, self.signal, [signal.SIGKILL])
        last.daemon = True
        last.start()

    def signal(self, number: int) -> None:
        """Send a signal to the command and the processes it has started."""
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
        """What it has printed on stdout, once it has ended."""
        return self._output


def end_all(jobs: Iterable[Job]) -> None:
    """Interrupt every command, and kill those that still run after FAREWELL."""
    left = list(jobs)
    for job in left:
        job.signal(signal.SIGINT)
    until = time.monotonic() + FAREWELL
    for job in left:
        if not job.wait(until - time.monotonic()):
            job.signal(signal.SIGKILL)
            job.wait(FAREWELL)


Key = tuple[str, str]
"""A run and the name of an analysis."""


class Screenside(Protocol):
    """What the board asks of the app."""

    @property
    def pane(self) -> Any: ...
    def say(self, text: str, tone: str = "", *, keep: bool = False, of: object = None) -> None: ...
    def over(self, work: object) -> None: ...
    def set_interval(self, interval: float, callback: Callable[[], Any]) -> Timer: ...


class JobBoard:
    """The commands that run, and what those that have ended left. Used on the app's event loop only."""

    def __init__(self, hub: Screenside) -> None:
        self._hub = hub
        self._jobs: dict[Key, Job] = {}
        self._then: dict[Key, Callable[[JobState], None]] = {}
        self._timer: Timer | None = None
        self.ended = 0
        """How many commands have succeeded: with each, saved results may have changed."""
        self.models: dict[str, str] = {}
        """Each run's model, as it was given to a command that succeeded."""
        self.problems: dict[Key, str] = {}
        """Why the last command of an analysis failed, until it is tried again or something else is asked for."""
        self.printed: dict[Key, str] = {}
        """What the commands that succeeded have printed."""

    def put(self, key: Key, job: Job, then: Callable[[JobState], None] | None = None) -> None:
        """then: called with how the command ended, whichever pane is on screen."""
        self._jobs[key] = job
        self.problems.pop(key, None)
        if then is not None:
            self._then[key] = then
        if self._timer is None:
            self._timer = self._hub.set_interval(SECONDS, self.look)

    def state(self, key: Key) -> JobState | None:
        """How far a command is; None where none is under way."""
        return self._jobs[key].state() if key in self._jobs else None

    @property
    def under_way(self) -> tuple[str, ...]:
        """The commands that run, in words; not those that have been cancelled."""
        return tuple(f"{name} of {run}" for (run, name), job in self._jobs.items() if not job.state().cancelled)

    def cancel(self, key: Key) -> bool:
        """Whether there is one to cancel."""
        if key in self._jobs:
            self._jobs[key].cancel()
        return key in self._jobs

    def forget_run(self, run: str) -> None:
        """A run is being deleted: cancel its commands, and forget what they left."""
        for key in list(self._jobs):
            if key[0] == run:
                self._jobs[key].cancel()
        self.printed = {key: text for key, text in self.printed.items() if key[0] != run}
        self.problems = {key: line for key, line in self.problems.items() if key[0] != run}

    def close(self) -> None:
        for job in self._jobs.values():
            job.cancel()

    def look(self) -> None:
        """Tell the pane on screen about its command, or the user that another one has ended."""
        for key, job in list(self._jobs.items()):
            state = job.state()
            if state.status is not None:
                del self._jobs[key]
                self._hub.over(key)
                if state.status == 0:
                    self.ended += 1
                    self.printed[key] = job.output()
                elif not state.cancelled:
                    self.problems[key] = state.line
            pane: Any = self._hub.pane
            if getattr(pane, "job_key", None) == key and pane.is_attached:  # not while the app ends
                pane.job_news(state)
            elif state.status is not None:
                self._tell(key, state)
                if hasattr(pane, "other_job_ended"):
                    pane.other_job_ended()
            if state.status is not None and (then := self._then.pop(key, None)) is not None:
                then(state)
        if not self._jobs and self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _tell(self, key: Key, state: JobState) -> None:
        run, name = key
        if state.status == 0:
            self._hub.say(f"{name} of {run} is done", "good", keep=True)
        else:
            self._hub.say(f"{name} of {run}: {state.line}", "warn" if state.cancelled else "bad", keep=True)
