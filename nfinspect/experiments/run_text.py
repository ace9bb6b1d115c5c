"""The text of a run, for its own model to read again.

Of a long run only a part is used, spread evenly from its first prompt to its last [own]: always the same tokens for the
same run.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.experiments.documents import Corpus
from nfinspect.present.numbers import counted
from nfinspect_store.errors import StoreError
from nfinspect_store.schema import EVERY_TOKEN
from nfinspect_store.tables import RunTables

FEWEST_WINDOWS = 10
"""Windows of one length that an ablation on the run's own text needs [own]: fewer say nothing about the spread."""


class TooFewSequences(StoreError):
    """A run that does not hold enough text for an analysis."""


READ_IDS = f"SELECT token_id, prompt_idx FROM {EVERY_TOKEN} ORDER BY prompt_idx, position"


@dataclass(frozen=True)
class Windows:
    """Sequences of one length, concatenated. Each is a document of `corpus`."""

    corpus: Corpus
    length: int


def spread_prompts(run: RunTables, tokens: int) -> list[list[int]]:
    """Token ids of prompts of two tokens or more, also those generated or not recorded: about `tokens` in all, or every
    prompt.

    Raises TooFewSequences if no prompt has two tokens.
    """
    ids, first, size = _prompts(run)
    first, size = first[size > 1], size[size > 1]
    if not len(size):
        raise TooFewSequences("expected a prompt of two tokens or more in the run, found none")
    chosen = _spread(len(size), max(1, int(tokens / size.mean())))
    return [ids[first[i] : first[i] + size[i]].tolist() for i in chosen]


def windows(run: RunTables, name: str, tokens: int) -> Windows:
    """About `tokens` tokens of the run's longest sequences, recorded or not, each a window of its own, as
    in the capture.

    Raises TooFewSequences if there are fewer than FEWEST_WINDOWS of them, or they have a single token.
    """
    ids, first, size = _prompts(run)
    length = int(size.max(initial=0))
    starts = first[size == length]
    if len(starts) < FEWEST_WINDOWS or length < 2:
        raise TooFewSequences(
            f"expected {FEWEST_WINDOWS} or more sequences of the run's greatest length, two tokens or more, found "
            f"{len(starts):,} of {counted(length, 'token')}: runs captured with --text usually have enough"
        )
    chosen = _spread(len(starts), max(FEWEST_WINDOWS, tokens // length))
    taken = np.concatenate([ids[start : start + length] for start in starts[chosen]])
    document = np.repeat(np.arange(len(chosen)), length)
    digest = hashlib.sha256(taken.astype("<i8").tobytes()).hexdigest()
    return Windows(Corpus(f"the run {name}", taken, document, digest), length)


def _spread(of: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` of the numbers 0 .. of - 1, evenly spread from the first to the last."""
    if wanted >= of:
        return np.arange(of)
    return np.linspace(0, of - 1, wanted).round().astype(np.int64)


def _prompts(run: RunTables) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The ids of all tokens that the model read, prompt after prompt; where each prompt begins, and how many it has."""
    columns = run.cursor().execute(READ_IDS).fetchnumpy()
    prompts, first, size = np.unique(columns["prompt_idx"], return_index=True, return_counts=True)
    return np.asarray(columns["token_id"], np.int64), first, size
