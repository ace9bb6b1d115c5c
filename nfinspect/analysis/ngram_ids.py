"""The n-gram that ends at each token of a run, as a number (methods §5).

N-grams never reach across prompts, nor across tokens that are not recorded. One that ends at position k is counted
where k >= max(1, n - 1); it may contain the prompt's first token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.sequences import neighbours_before
from nfinspect.present.numbers import counted
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables

SIZES = (1, 2, 3)

READ_TOKENS = 'SELECT token_id, "position", prompt_idx FROM tokens ORDER BY token_idx'
READ_TEXTS = """
SELECT token_id, arg_min({token: token, bytes: bytes}, ("position" = 0, token_idx))
FROM tokens WHERE token_id IN (SELECT unnest($ids)) GROUP BY token_id
"""


@dataclass(frozen=True)
class NgramIndex:
    """The distinct n-grams of a run, numbered in the order of their token ids.

    ids: the number of the n-gram that ends at each token, `distinct` where none is counted. seen: how often each n-gram
    was counted.
    """

    n: int
    ids: NDArray[np.intp]  # [tokens]
    token_ids: NDArray[np.int64]  # [distinct, n]
    seen: NDArray[np.int64]  # [distinct]

    @cached_property
    def repeated(self) -> NDArray[np.intp]:
        """The numbers of the n-grams that were counted several times, in order."""
        return np.flatnonzero(self.seen > 1)

    @cached_property
    def counter(self) -> NDArray[np.intp]:
        """Where each token is counted: intp[tokens]. In the place of its n-gram in `repeated`; n-grams that were
        counted once, which most are, share the place behind these, and tokens that do not count the one behind that.
        """
        counters = np.full(self.distinct + 1, len(self.repeated))
        counters[self.repeated] = np.arange(len(self.repeated))
        counters[-1] += 1
        return counters[self.ids]

    @property
    def distinct(self) -> int:
        return len(self.seen)

    @property
    def positions(self) -> int:
        """At how many tokens an n-gram is counted."""
        return int(self.seen.sum())


def read_ngrams(run: RunTables, n: int) -> NgramIndex:
    """The n-grams of a run. Raises RequestError for another n than 1, 2 or 3, and where no prompt is long enough."""
    if n not in SIZES:
        raise RequestError(f"n-grams are counted for n = 1, 2 or 3, found {n}")
    columns = run.cursor().execute(READ_TOKENS).fetchnumpy()
    ids, position, prompt = (np.asarray(columns[name], np.int64) for name in ("token_id", "position", "prompt_idx"))
    index = index_ngrams(ids, position, n, neighbours_before(position, prompt))
    if not index.distinct and run.unrecorded:
        raise RequestError(
            f"expected {counted(n, 'recorded token')} one after the other, the last past position 0, found none: there "
            f"is no {n}-gram"
        )
    if not index.distinct:
        raise RequestError(
            f"expected a prompt of {max(1, n - 1) + 1} tokens or more, found none: no {n}-gram ends past position 0"
        )
    return index


def index_ngrams(
    token_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    n: int,
    before: NDArray[np.int64] | None = None,
) -> NgramIndex:
    """Number the n-grams. token_ids, positions: int64[tokens], prompts one after the other. before: neighbours_before,
    `positions` if every token is recorded.
    """
    before = positions if before is None else before
    words, word = np.unique(token_ids, return_inverse=True)
    number, grams = word, words[:, None]
    for size in range(2, n + 1):
        # number: of the (size - 1)-gram that ends at each token.
        longer = np.flatnonzero(before >= size - 1)
        pairs, of_pair = np.unique(number[longer - 1] * len(words) + word[longer], return_inverse=True)
        grams = np.column_stack([grams[pairs // len(words)], words[pairs % len(words)]])
        number = np.full(len(token_ids), len(pairs))
        number[longer] = of_pair
    here = (positions >= 1) & (before >= n - 1)
    seen = np.bincount(number[here], minlength=len(grams))
    # A token that occurs at position 0 only is no trigger.
    kept = seen > 0
    renumbered = np.append(np.cumsum(kept) - 1, 0)
    ids = np.where(here, renumbered[number], int(kept.sum()))
    return NgramIndex(n, ids.astype(np.intp), grams[kept], seen[kept].astype(np.int64))


def token_texts(run: RunTables, token_ids: Iterable[int]) -> dict[int, tuple[str, bytes | None]]:
    """The text of each token id, and its bytes where it is a piece of a character (nfinspect_store.token_text). It is
    taken from the token's first place past position 0, if any: at position 0 some tokenizers drop the space before it.
    """
    ids = sorted(set(token_ids))
    rows = run.cursor().execute(READ_TEXTS, {"ids": ids}).fetchall() if ids else []
    return {token_id: (found["token"], found["bytes"]) for token_id, found in rows}
