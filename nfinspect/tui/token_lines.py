"""A part of a prompt's text laid out in lines of cells, each cell with the tokens that it is of.

What is drawn is decided for the text as a whole, not token by token: a combining mark stays on its letter though it is
a token of its own, and a character of several tokens is one cell of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from nfinspect.text import pieces
from nfinspect.tui.glyphs import ASCII, Glyphs

if TYPE_CHECKING:
    from nfinspect.analysis.prompt_text import TextPart


@dataclass(frozen=True)
class TokenCell:
    """What is drawn in one or two cells of the terminal (an escape takes more). first, last: the places in the prompt
    of the tokens that it is of; both -1 for the sign before what the model wrote.
    """

    text: str
    width: int
    first: int
    last: int


Line = tuple[TokenCell, ...]


def laid_out(part: TextPart, width: int, glyphs: Glyphs, *, wrote_before: bool) -> list[Line]:
    """The lines of a part, at most `width` cells wide unless a single cell is wider. Lines are broken at line breaks,
    between words, and around wide characters. wrote_before: whether the token before the part was generated.
    """
    lines: list[Line] = []
    line: list[TokenCell] = []
    used = broken = 0  # broken: cells of the line up to where it may be broken
    for cell, ends, breaks in _cells(part, glyphs, wrote_before):
        if used + cell.width > width and line:
            rest = line[broken:] if broken else []
            lines.append(tuple(line[: len(line) - len(rest)]))
            line, broken = rest, 0
            used = sum(one.width for one in line)
            if used + cell.width > width and line:
                lines.append(tuple(line))
                line, used = [], 0
        line.append(cell)
        used += cell.width
        if breaks:
            broken = len(line)
        if ends:
            lines.append(tuple(line))
            line, used, broken = [], 0, 0
    if line or not lines:
        lines.append(tuple(line))
    return lines


def _cells(part: TextPart, glyphs: Glyphs, wrote: bool) -> Iterator[tuple[TokenCell, bool, bool]]:
    """Each cell, whether the line ends after it, and whether it may be broken there."""
    spans, text = part.whole.spans, part.whole.text
    generated = part.rows.generated
    drawn = [shown for _, shown in pieces(text, ascii_only=glyphs is ASCII)]
    sign = f"{glyphs.column}{glyphs.column}"
    at, size, tokens = 0, len(text), len(spans)
    for first, (start, stop) in enumerate(spans):
        if generated[first] and not wrote:
            wrote = True
            yield TokenCell(sign, cell_len(sign), -1, -1), False, True
        if start == stop:  # a token without text
            empty = glyphs.opening + glyphs.closing
            yield TokenCell(empty, cell_len(empty), part.start + first, part.start + first), False, True
            continue
        at = max(at, start)
        while at < stop and at < size:
            shown, own, begin = drawn[at], text[at], at
            at += 1
            while at < size and cell_len(drawn[at]) == 0:  # a mark, or a vowel sign, on this letter
                shown += drawn[at]
                at += 1
            last = first
            while last + 1 < tokens and spans[last + 1][0] < at and spans[last + 1][1] > begin:
                last += 1
            wide = cell_len(shown)
            yield TokenCell(shown, wide, part.start + first, part.start + last), own == "\n", own == " " or wide == 2
