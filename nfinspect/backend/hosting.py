"""The job that runs in this process, if it is a backend: what commands report to instead of the terminal.

A command asks `hosted()`; in a process of its own there is none.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from nfinspect.analysis.ticks import Tick
from nfinspect.backend.jobs import Job
from nfinspect.backend.protocol import Side, Token

if TYPE_CHECKING:
    from nfinspect.capturing.following import FollowedToken
    from nfinspect_store.types import Progress
    from nfinspect_store.writer import RunWriter

Share = Callable[["RunWriter"], AbstractContextManager[None]]


class Hosted:
    """A job and the run that it writes. Used by the thread that runs it."""

    def __init__(self, job: Job, share: Share, read: Callable[[], bool]) -> None:
        """share: lets others read a run while it is written; read: whether somebody does."""
        self._job = job
        self._share = share
        self._read = read

    @contextlib.contextmanager
    def sharing(self, writer: "RunWriter") -> Iterator[None]:
        """While a capture writes: others may read what it has committed."""
        self._job.update(run=str(writer.path))
        with self._share(writer):
            yield

    def progress(self, told: "Progress") -> None:
        """How far a capture is; waits here while it is paused."""
        left = None
        if told.tokens_total and told.tokens_per_second > 0:
            left = max(0, told.tokens_total - told.tokens_done) / told.tokens_per_second
        self._job.update(
            phase=told.phase,
            done=told.tokens_done,
            total=told.tokens_total,
            rate=told.tokens_per_second,
            seconds_left=left,
            bytes=told.bytes,
        )
        self._job.wait_if_paused()

    @property
    def watched(self) -> bool:
        """Whether a client reads the run, or waits for news of this job."""
        return self._read() or self._job.waited_for

    @property
    def followed(self) -> bool:
        """Whether a client reads this job's tokens."""
        return self._job.written.followed

    def token(self, told: "FollowedToken", side: Side = "original") -> None:
        """A token that the command has read or written; waits here while it is paused."""
        self._job.write_token(
            Token(
                index=0,
                prompt=told.prompt,
                position=told.position,
                text=told.text,
                generated=told.generated,
                side=side,
                surprisal=told.surprisal,
                site=told.site,
                strongest=told.strongest,
            )
        )
        self._job.wait_if_paused()

    def tick(self, what: str) -> Tick:
        """For work that counts something else."""
        started = time.monotonic()

        def tick(done: int, total: int) -> None:
            share = done / total if total else 1.0
            left = (time.monotonic() - started) * (1 / share - 1) if 0 < share < 1 else None
            self._job.update(phase=what, done=done, total=total, seconds_left=left)
            self._job.wait_if_paused()

        return tick


_hosted: Hosted | None = None


def hosted() -> Hosted | None:
    """The job of this backend that runs now; None in any other process."""
    return _hosted


@contextlib.contextmanager
def hosting(job: Hosted) -> Iterator[None]:
    """While a backend runs a job."""
    global _hosted
    _hosted = job
    try:
        yield
    finally:
        _hosted = None
