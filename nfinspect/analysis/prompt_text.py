"""A prompt's text part by part, so that one of 100,000 tokens is shown as soon as one of ten.

Parts have about PART tokens. They are cut only where no character is shared (a Chinese character is often several
tokens) and where no combining mark would lose the letter that it stands on.
"""

import unicodedata
from dataclasses import dataclass

from nfinspect_store.tables import RunTables
from nfinspect_store.token_text import WholeText, whole_text
from nfinspect_store.types import TokenRows

PART = 512
REACH = 8
"""Tokens read beyond a part on either side: a character has at most four, and few marks follow one another."""


@dataclass(frozen=True)
class TextPart:
    """Consecutive tokens of a prompt, recorded or not, with their text. start: the place of the first in the prompt,
    from 0. whole: the text, and the characters of each token in it.
    """

    prompt_idx: int
    start: int
    rows: TokenRows
    whole: WholeText

    @property
    def stop(self) -> int:
        """The place after the last token."""
        return self.start + len(self.rows.token)


def part_of(place: int) -> int:
    """The number of the part that holds a token, or of the one after it if the part begins later."""
    return place // PART


def read_part(run: RunTables, prompt_idx: int, number: int) -> TextPart:
    """A part of a prompt, numbered from 0; without tokens beyond its end. Raises RequestError for an unknown prompt."""
    low = max(0, number * PART - REACH)
    rows = run.prompt_tokens(prompt_idx, low, (number + 1) * PART + 2 * REACH)
    whole = whole_text(rows.token, rows.raw)
    size = len(rows.token)
    first = 0 if number == 0 else _cut(whole, number * PART - low, size)
    last = _cut(whole, (number + 1) * PART - low, size)
    begin, end = (whole.spans[first][0], whole.spans[last - 1][1]) if first < last else (0, 0)
    spans = tuple((start - begin, stop - begin) for start, stop in whole.spans[first:last])
    return TextPart(prompt_idx, low + first, rows.between(first, last), WholeText(whole.text[begin:end], spans))


def _cut(whole: WholeText, at: int, size: int) -> int:
    """The first place from `at` on where the text can be cut; within a letter and its marks if REACH has no other."""
    apart = [
        place
        for place in range(max(1, at), min(at + REACH, size))
        if whole.spans[place][0] >= whole.spans[place - 1][1]
    ]
    clean = (place for place in apart if not _is_mark(whole.token(place)[:1]))
    return next(clean, apart[0] if apart else min(at, size))


def _is_mark(character: str) -> bool:
    return bool(character) and unicodedata.category(character).startswith("M")
