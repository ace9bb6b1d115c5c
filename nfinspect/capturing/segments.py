"""When a segment ends: limits what a crash may cost, and what waits in memory until the commit.

The same rule for everything that feeds a Recorder: captures, `nf.record`, runs from arrays.
"""

import time
from collections.abc import Sequence

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

SEGMENT_MEMORY = 64 * 2**20
"""The most bytes of prompt means and rows of tokens in one segment: they wait in memory for its end [own]."""

TOKEN_BYTES = 125
"""What the row of a token takes until then: 5 M tokens of --keep stats took 570 MB, measured."""

BEYOND_BYTES = 16
"""What a value of `--where beyond=pX` takes until then."""


class Segment:
    """What was recorded since the last commit, and whether that is enough for another one."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._neurons = sum(layer.neurons for layer in writer.layers)
        self.begin(writer.tokens, commit_seconds=FIRST_COMMIT)

    def begin(self, tokens: int, *, commit_seconds: float) -> None:
        """Begin a segment. tokens: recorded so far; commit_seconds: duration of the last commit."""
        self._start = time.monotonic()
        self._tokens, self._mean_bytes, self._commit_seconds = tokens, 0, commit_seconds
        self._beyond = self._writer.beyond_rows

    def add(self, means: Sequence[MeanRows]) -> None:
        """These wait for the commit, too."""
        self._mean_bytes += sum(rows.values.nbytes for rows in means)

    def is_over(self, tokens: int) -> bool:
        """Whether to commit now that the run has so many tokens."""
        seconds = time.monotonic() - self._start
        waiting = self._mean_bytes + TOKEN_BYTES * (tokens - self._tokens)
        waiting += BEYOND_BYTES * (self._writer.beyond_rows - self._beyond)
        if seconds > SEGMENT_SECONDS or waiting > SEGMENT_MEMORY:
            return True
        values = 4 * self._neurons * (tokens - self._tokens) if self._writer.keeps_values else 0
        return values >= SEGMENT_BYTES and self._commit_seconds <= COMMIT_SHARE * seconds
