"""A text as a model reads it, and which of its documents each token belongs to."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from nfinspect_store.errors import RequestError

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Corpus:
    """A text tokenised once, with the special tokens that the tokenizer puts around a text.

    token_ids: int64[tokens]. document: int64[tokens], which block between blank lines a token ends in; None where the
    tokenizer cannot tell where its tokens stand in the text. sha256: of the file's text.
    """

    name: str
    token_ids: NDArray[np.int64]
    document: NDArray[np.int64] | None
    sha256: str


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises RequestError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"expected UTF-8 text in {path}, found other bytes at position {error.start}") from error
    except OSError as error:
        raise RequestError(f"cannot read a text from {path}: {error.strerror or error}") from error


def text_hash(text: str) -> str:
    """Tells one text from another."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tokenised(text: str, name: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None) -> Corpus:
    """The first `max_tokens` tokens of a text. Raises RequestError where it has fewer than two: one predicts none."""
    exact = bool(tokenizer.is_fast)
    # A corpus is longer than any context on purpose: no warning about that.
    encoded: Any = tokenizer(text, verbose=False, return_offsets_mapping=exact)
    ids = np.asarray(encoded["input_ids"][:max_tokens], np.int64)
    if len(ids) < 2:
        raise RequestError(f"expected a text of two tokens or more in {name}, found {len(ids)}: nothing is predicted")
    document = None
    if exact:
        ends = np.asarray([end for _, end in encoded["offset_mapping"][: len(ids)]], np.int64)
        starts = np.asarray([match.end() for match in BLANK_LINES.finditer(text)], np.int64)
        # Special tokens have an empty span at 0: they belong to the first document.
        document = np.searchsorted(starts, np.maximum(ends - 1, 0), side="right").astype(np.int64)
    return Corpus(name, ids, document, text_hash(text))
