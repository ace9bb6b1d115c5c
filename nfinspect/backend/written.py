"""The tokens that a job has written so far, for those who follow it: the latest, within bounds."""

import collections
import threading
import time
from dataclasses import replace

from nfinspect.backend.protocol import MOST_STRONGEST, MOST_TOKENS, Token, Tokens

KEPT = 4096
"""Tokens of one job that are held."""

KEPT_STRONGEST = 100_000
"""Strongest neurons of all these, about 150 bytes each; the oldest tokens go first."""

FOLLOWED = 10.0
"""Seconds after which a client that asks for no more tokens follows them no longer."""


class Written:
    """May be used from any thread."""

    def __init__(self) -> None:
        self._rows: collections.deque[Token] = collections.deque()
        self._lock = threading.Lock()
        self._count = 0
        self._strongest = 0
        self._asked = -FOLLOWED

    @property
    def followed(self) -> bool:
        """Whether tokens were asked for in the last seconds."""
        return time.monotonic() - self._asked < FOLLOWED

    def add(self, token: Token) -> None:
        """Add a token, whose `index` is set here."""
        with self._lock:
            self._rows.append(replace(token, index=self._count))
            self._count += 1
            self._strongest += len(token.strongest)
            while len(self._rows) > KEPT or (self._strongest > KEPT_STRONGEST and len(self._rows) > 1):
                self._strongest -= len(self._rows.popleft().strongest)

    def read(self, start: int) -> Tokens:
        """Those from number `start` on, as many as fit into one answer."""
        with self._lock:
            self._asked = time.monotonic()
            first = self._count - len(self._rows)
            start = min(max(start, first), self._count)
            rows: list[Token] = []
            strongest = 0
            for place in range(start - first, len(self._rows)):
                strongest += len(self._rows[place].strongest)
                if len(rows) == MOST_TOKENS or (rows and strongest > MOST_STRONGEST):
                    break
                rows.append(self._rows[place])
            return Tokens(start, self._count, tuple(rows))

    def clear(self) -> None:
        """Forget the tokens, not how many there were."""
        with self._lock:
            self._rows.clear()
            self._strongest = 0
