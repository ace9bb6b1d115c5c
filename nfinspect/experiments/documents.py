"""A text as a model reads it, and which of its documents each token belongs to."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.models import Texts, already_begun
from nfinspect_store.errors import RequestError

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Corpus:
    """A text tokenised once.

    token_ids: int64[tokens], the text's own. document: int64[tokens], the block between blank lines that a token ends
    in; None if the tokenizer does not report where its tokens are in the text. sha256: of the text. begin: the token
    ids before the text in every window of it. notes: what the user should be told.
    """

    name: str
    token_ids: NDArray[np.int64]
    document: NDArray[np.int64] | None
    sha256: str
    begin: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def text_hash(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tokenised(text: str, name: str, texts: Texts, max_tokens: int | None = None) -> Corpus:
    """The first `max_tokens` tokens of a text.

    Raises RequestError if nothing can be predicted: the text has no token, or a single one with nothing before it.
    """
    tokens, ends, begins = texts.corpus(text)
    ids = np.asarray(tokens[:max_tokens], np.int64)
    fewest = 1 if texts.begin else 2
    if len(ids) < fewest:
        least = "two tokens" if fewest == 2 else "a token"
        raise RequestError(f"expected a text of {least} or more in {name}, found {len(ids):,}: nothing is predicted")
    document = None
    if ends is not None:
        starts = np.asarray([match.end() for match in BLANK_LINES.finditer(text)], np.int64)
        last = np.maximum(np.asarray(ends[: len(ids)], np.int64) - 1, 0)
        document = np.searchsorted(starts, last, side="right").astype(np.int64)
    notes = (already_begun(texts.begin_text, [name], 1),) if begins else ()
    return Corpus(name, ids, document, text_hash(text), texts.begin, notes)
