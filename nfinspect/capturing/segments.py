"""When a segment ends: limits what a crash may cost, and what waits in memory until the commit.

The same rule for everything that feeds a Recorder: captures, `nf.record`, runs from arrays.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from nfinspect_store.types import MeanRows
from nfinspect_store.writer import RunWriter

SEGMENT_SECONDS = 60.0
"""What a crash can cost, in addition to the current batch [own]."""

SEGMENT_BYTES = 16 * 2**20
"""Bytes of values that a crash can cost, in addition to the current batch, as long as commits stay cheap [own]."""

COMMIT_SHARE = 0.05
"""Largest share of time for commits of segments that end by SEGMENT_BYTES: a commit rewrites all statistics, which
takes 0.2 s for 2,000 neurons and 1.4 s for 37,000 (docs/decisions/0008) [own]."""

FIRST_COMMIT = 0.5
"""Seconds that the first commit is taken to need: a capture of a few seconds ends with its only one [own]."""

WATCHED_SECONDS = 1.5
"""What a reader who watches may be behind, in addition to the current batch and the commit, as long as commits take no
more than COMMIT_SHARE of the time, by the median of the last three: commits of 0.2 s come every 4 s [own]."""

SEGMENT_MEMORY = 64 * 2**20
"""The most bytes of prompt means and rows of tokens in one segment: they wait in memory for its end [own]."""

TOKEN_BYTES = 125
"""What the row of a token takes until then: 5 M tokens of --keep stats took 570 MB, measured."""

BEYOND_BYTES = 16
"""What a value of `--where beyond=pX` takes until then."""


class Segment:
    """What was recorded since the last commit, and whether that is enough for another one."""

    def __init__(self, writer: RunWriter, watched: Callable[[], bool] = lambda: False) -> None:
        """watched: whether somebody reads the run while it is written."""
        self._writer = writer
        self._watched = watched
        self._commits: deque[float] = deque(maxlen=3)  # seconds of the last ones: a disk may be slow now and then
        self._begin(writer.tokens)

    def begin(self, tokens: int, *, commit_seconds: float) -> None:
        """Begin a segment. tokens: recorded so far; commit_seconds: duration of the last commit."""
        self._commits.append(commit_seconds)
        self._begin(tokens)

    def _begin(self, tokens: int) -> None:
        self._start = time.monotonic()
        self._tokens, self._mean_bytes = tokens, 0
        self._beyond, self._values = self._writer.beyond_rows, self._writer.values

    def add(self, means: Sequence[MeanRows]) -> None:
        """These wait for the commit, too."""
        self._mean_bytes += sum(rows.values.nbytes for rows in means)

    def is_over(self, tokens: int) -> bool:
        """Whether to commit now that the run has so many tokens."""
        seconds = time.monotonic() - self._start
        waiting = self._mean_bytes + TOKEN_BYTES * (tokens - self._tokens)
        waiting += self._writer.routed_bytes + BEYOND_BYTES * (self._writer.beyond_rows - self._beyond)
        if seconds > SEGMENT_SECONDS or waiting > SEGMENT_MEMORY:
            return True
        usual = sorted(self._commits)[len(self._commits) // 2] if self._commits else 0.0
        if seconds > WATCHED_SECONDS and usual <= COMMIT_SHARE * seconds and self._watched():
            return True
        last = self._commits[-1] if self._commits else FIRST_COMMIT
        values = 4 * (self._writer.values - self._values)
        return values >= SEGMENT_BYTES and last <= COMMIT_SHARE * seconds
