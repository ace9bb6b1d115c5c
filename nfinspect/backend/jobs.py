"""The jobs of a backend: one runs, the others wait in order; what each says, and how it may be stopped."""

import collections
import contextlib
import io
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nfinspect.backend.protocol import Action, JobState, Submit, Token, Tokens
from nfinspect.backend.written import Written
from nfinspect_store.errors import RequestError

REMEMBERED = 32
"""Jobs that have ended and can still be asked about."""

TOKENS_REMEMBERED = 4
"""Of these, the latest whose tokens can still be read."""

WAITED_FOR = 5.0
"""Seconds after which a client that asks no more for news of a job has gone, or does not look."""

MOST_WAITING = 256

MOST_NOTES = 1000
"""Lines on stderr of one job that are kept."""

LONGEST = 4000
"""Characters of such a line."""


class Job:
    """One command. Its state may be read and changed from any thread."""

    def __init__(self, number: int, request: Submit, changed: threading.Condition) -> None:
        self.request = request
        self._changed = changed
        self._notes: list[str] = []
        self._dropped = 0
        self._going_on = threading.Event()
        self._going_on.set()
        self._started: float | None = None
        self._seconds = 0.0
        self._state = JobState(number, request.arguments, request.directory, "waiting")
        self._asked = -WAITED_FOR
        self.cancelled = False
        self.written = Written()
        self.stdout = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the job)
        self._printing = threading.Lock()

    @property
    def id(self) -> int:
        return self._state.id

    @property
    def waited_for(self) -> bool:
        """Whether a client has waited for news of it in the last seconds."""
        return time.monotonic() - self._asked < WAITED_FOR

    def is_waited_for(self) -> None:
        self._asked = time.monotonic()

    def state(self, known_notes: int | None = None) -> JobState:
        """known_notes: how many of its lines the client has; None: it wants none of them."""
        with self._changed:
            seconds = self._seconds if self._started is None else time.monotonic() - self._started
            noted = self._dropped + len(self._notes)
            first = noted if known_notes is None else max(0, known_notes - self._dropped)
            return replace(self._state, seconds=seconds, notes=tuple(self._notes[first:]), noted=noted)

    def update(self, **changes: Any) -> None:
        """Change the state, and wake whoever waits for that."""
        with self._changed:
            self._state = replace(self._state, version=self._state.version + 1, **changes)
            self._changed.notify_all()

    def begin(self) -> None:
        self._started = time.monotonic()
        self.update(state="running" if self._going_on.is_set() else "paused")

    def end(self, status: int) -> None:
        self._seconds = time.monotonic() - (self._started or time.monotonic())
        self._started = None
        ended = "cancelled" if self.cancelled else "done" if status == 0 else "failed"
        self.update(state=ended, status=status, seconds_left=None)

    def note(self, line: str) -> None:
        """A line on stderr."""
        line = line[:LONGEST]
        with self._changed:
            self._notes.append(line)
            if len(self._notes) > MOST_NOTES:
                self._dropped += 1
                del self._notes[0]
        self.update(line=line)

    def write_token(self, token: Token) -> None:
        """A token that it has read or written; its number is given here."""
        self.written.add(token)
        self.update()

    def tokens(self, start: int) -> Tokens:
        return self.written.read(start)

    def pause(self) -> None:
        self._going_on.clear()
        if self._state.state == "running":
            self.update(state="paused")

    def go_on(self) -> None:
        self._going_on.set()
        if self._state.state == "paused":
            self.update(state="running")

    def wait_if_paused(self) -> None:
        self._going_on.wait()

    def output(self, offset: int, size: int) -> bytes:
        """What it has printed."""
        with self._printing, contextlib.suppress(ValueError):  # closed: it is forgotten
            self.stdout.seek(offset)
            return self.stdout.read(size)
        return b""

    def write(self, data: bytes) -> None:
        with self._printing:
            self.stdout.seek(0, io.SEEK_END)
            self.stdout.write(data)

    def close(self) -> None:
        with self._printing:
            self.stdout.close()


class Jobs:
    """The queue. `cancel_running`: called to interrupt the job that runs."""

    def __init__(self, cancel_running: Callable[[], None]) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._cancel_running = cancel_running
        self._waiting: collections.deque[Job] = collections.deque()
        self._ended: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._number = 0
        self._idle_since = time.monotonic()
        self.closed = ""
        """Why no job is taken any more."""

    def add(self, request: Submit) -> Job:
        """Raises RequestError if there are too many, or the backend ends."""
        with self.changed:
            if self.closed:
                raise RequestError(self.closed)
            if len(self._waiting) >= MOST_WAITING:
                raise RequestError(f"{MOST_WAITING} jobs are waiting already: try again when some are done")
            self._number += 1
            job = Job(self._number, request, self.changed)
            self._waiting.append(job)
            self.changed.notify_all()
            return job

    def take(self, seconds: float) -> Job | None:
        """The next job, which now counts as running; None if none came within `seconds`."""
        with self.changed:
            if not self._waiting:
                self.changed.wait(seconds)
            if not self._waiting:
                return None
            self._running = self._waiting.popleft()
            self._running.begin()
            return self._running

    def ended(self, job: Job, status: int) -> None:
        with self.changed:
            self._running = None
            self._idle_since = time.monotonic()
            self._remember(job)
            job.end(status)

    def _remember(self, job: Job) -> None:
        self._ended.append(job)
        if len(self._ended) > TOKENS_REMEMBERED:
            self._ended[-1 - TOKENS_REMEMBERED].written.clear()
        while len(self._ended) > REMEMBERED:
            self._ended.popleft().close()

    def job(self, number: int) -> Job:
        """Raises RequestError if there is none of that number, or it ended long ago."""
        with self.changed:
            for job in (self._running, *self._waiting, *self._ended):
                if job is not None and job.id == number:
                    return job
        raise RequestError(f"no job {number}: it was never submitted, or ended long ago")

    @property
    def running(self) -> Job | None:
        return self._running

    @property
    def waiting(self) -> tuple[Job, ...]:
        with self.changed:
            return tuple(self._waiting)

    @property
    def idle_seconds(self) -> float:
        """Since when nothing runs and nothing waits."""
        with self.changed:
            return 0.0 if self._running or self._waiting else time.monotonic() - self._idle_since

    def act(self, job: Job, action: Action) -> None:
        with self.changed:
            if action == "cancel":
                self.cancel(job)
            elif action == "pause":
                job.pause()
            else:
                job.go_on()

    def cancel(self, job: Job, why: str = "interrupted", *, signalled: bool = False) -> None:
        """Interrupt it if it runs, and forget it if it waits; again: a capture does not finish its batch either.

        why: the last line of a job that waits. signalled: the job that runs has had a signal already.
        """
        with self.changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.cancelled = True
                self._remember(job)
                job.note(f"nfinspect: {why}")
                job.end(130)
            elif job is self._running:
                job.cancelled = True
                job.go_on()
                if not signalled:
                    self._cancel_running()

    def close(self, why: str, *, signalled: bool = False) -> None:
        """Take no more jobs, and cancel those that are there. signalled: as in `cancel`."""
        with self.changed:
            self.closed = self.closed or why
            for job in (*self.waiting, *((self._running,) if self._running else ())):
                self.cancel(job, why, signalled=signalled)
            self.changed.notify_all()

    def wait(self, job: Job, version: int, seconds: float) -> None:
        """Until the job has changed since `version`, or `seconds` have passed."""
        job.is_waited_for()
        with self.changed:
            self.changed.wait_for(lambda: job.state().version > version, seconds)
