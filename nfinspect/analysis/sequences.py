"""Which tokens follow one another, and sequences of one length, so that every position is seen equally often
(methods §6).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.present.numbers import counted
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.tables import RunTables

ENOUGH = 100
"""Sequences that the mutual information needs: with so many its bias, 1/(2S), is a tenth of the threshold."""

READ_PROMPTS = """
SELECT p.first_token, p.tokens, coalesce(f.position, 0) AS begins, coalesce(l.position, 0) AS ends
FROM prompts p
LEFT JOIN tokens f ON p.tokens > 0 AND f.token_idx = p.first_token
LEFT JOIN tokens l ON p.tokens > 0 AND l.token_idx = p.first_token + p.tokens - 1
ORDER BY p.prompt_idx
"""


@dataclass(frozen=True)
class Sequences:
    """Sequences of `length` tokens, position 0 included. starts: the first token_idx of each, int64[sequences].

    few: the note if they are fewer than ENOUGH; longer: how to get more, '' if that is not possible.
    """

    length: int
    starts: NDArray[np.int64]
    few: str
    longer: str

    @property
    def number(self) -> int:
        return len(self.starts)

    @property
    def enough(self) -> bool:
        return self.number >= ENOUGH

    def count(self, fired: NDArray[np.bool_]) -> NDArray[np.int64]:
        """In how many sequences each neuron fired at each position: bool[neurons, tokens] -> int64[neurons, length]."""
        counts = np.zeros((len(fired), self.length), np.int64)
        for start in self.starts:
            counts += fired[:, start : start + self.length]
        return counts


def neighbours_before(positions: NDArray[np.int64], prompts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many recorded tokens come right before each in its prompt without a gap: int64[tokens], in order."""
    place = np.arange(len(positions))
    begins = np.ones(len(positions), np.bool_)
    begins[1:] = (np.diff(positions) != 1) | (np.diff(prompts) != 0)
    before: NDArray[np.int64] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return before


def read_sequences(run: RunTables, length: int | None) -> Sequences:
    """The sequences of a run's greatest length, or all at least `length` long, cut to it. Raises RequestError for a
    length below 1 or above the greatest, StoreError where the recorded tokens of a prompt do not begin at position 0 or
    have a gap.
    """
    columns = run.cursor().execute(READ_PROMPTS).fetchnumpy()
    first, tokens = np.asarray(columns["first_token"], np.int64), np.asarray(columns["tokens"], np.int64)
    apart = int(((tokens > 0) & ((columns["begins"] > 0) | (columns["ends"] >= tokens))).sum())
    if apart:
        raise StoreError(
            "expected sequences from position 0 on without a gap, to compare positions, found other recorded tokens in "
            f"{apart:,} of {counted(len(tokens), 'prompt')} (--where {run.where}): capture without it, or with "
            "tokens=0-N"
        )
    greatest = int(tokens.max(initial=0))
    wanted = greatest if length is None else length
    if not 1 <= wanted <= greatest:
        raise RequestError(f"--length counts tokens from 1 to {greatest:,}, the longest sequence; found {wanted:,}")
    starts = first[tokens >= wanted]
    found, prompts = len(starts), len(first)
    enough = np.sort(tokens)[::-1][ENOUGH - 1] if prompts >= ENOUGH else 0
    return Sequences(
        wanted,
        starts,
        few=f"only {found:,} of {prompts:,} sequences have {wanted:,} tokens, and it takes {ENOUGH}",
        longer=f"; --length {enough} takes {ENOUGH} or more" if enough > 1 and found < ENOUGH else "",
    )
