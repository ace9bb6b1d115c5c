"""The text of a run, for its own model to read again.

Of a long run only a part is used, spread evenly from its first prompt to its last [own]: always the same tokens for the
same run.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.sequences import read_sequences
from nfinspect.experiments.documents import Corpus
from nfinspect.present.numbers import counted
from nfinspect_store.errors import StoreError
from nfinspect_store.tables import RunTables

FEWEST_WINDOWS = 10
"""Windows of one length that an ablation on the run's own text needs [own]: fewer say nothing about the spread."""


class TooFewSequences(StoreError):
    """A run that does not hold enough text for an analysis."""


READ_IDS = "SELECT token_id FROM tokens ORDER BY token_idx"
READ_PROMPTS = "SELECT first_token, tokens FROM prompts WHERE tokens > 1 ORDER BY prompt_idx"


@dataclass(frozen=True)
class Windows:
    """Sequences of one length, concatenated. Each is a document of `corpus`."""

    corpus: Corpus
    length: int


def spread_prompts(run: RunTables, tokens: int) -> list[list[int]]:
    """Token ids of prompts of two tokens or more, generated ones included: about `tokens` in all, or every prompt.

    Raises TooFewSequences if no prompt has two tokens.
    """
    columns = run.cursor().execute(READ_PROMPTS).fetchnumpy()
    first, size = np.asarray(columns["first_token"], np.int64), np.asarray(columns["tokens"], np.int64)
    if not len(size):
        raise TooFewSequences("expected a prompt of two tokens or more in the run, found none")
    ids = _token_ids(run)
    chosen = _spread(len(size), max(1, int(tokens / size.mean())))
    return [ids[first[i] : first[i] + size[i]].tolist() for i in chosen]


def windows(run: RunTables, name: str, tokens: int) -> Windows:
    """About `tokens` tokens of the run's sequences of the greatest length, each a window of its own, as in the capture.

    Raises TooFewSequences if there are fewer than FEWEST_WINDOWS of them, or they have a single token.
    """
    sequences = read_sequences(run, None)
    if sequences.number < FEWEST_WINDOWS or sequences.length < 2:
        raise TooFewSequences(
            f"expected {FEWEST_WINDOWS} or more sequences of the run's greatest length, two tokens or more, found "
            f"{sequences.number} of {counted(sequences.length, 'token')}: runs captured with --text usually have enough"
        )
    chosen = _spread(sequences.number, max(FEWEST_WINDOWS, tokens // sequences.length))
    ids = _token_ids(run)
    taken = np.concatenate([ids[start : start + sequences.length] for start in sequences.starts[chosen]])
    document = np.repeat(np.arange(len(chosen)), sequences.length)
    digest = hashlib.sha256(taken.astype("<i8").tobytes()).hexdigest()
    return Windows(Corpus(f"the run {name}", taken, document, digest), sequences.length)


def _spread(of: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` of the numbers 0 .. of - 1, evenly spread from the first to the last."""
    if wanted >= of:
        return np.arange(of)
    return np.linspace(0, of - 1, wanted).round().astype(np.int64)


def _token_ids(run: RunTables) -> NDArray[np.int64]:
    return np.asarray(run.cursor().execute(READ_IDS).fetchnumpy()["token_id"], np.int64)
