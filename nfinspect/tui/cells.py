"""Text for the screen: what a table cell is, how figures are written, and how foreign text is made harmless.

Foreign text (tokens, prompts, names of files) enters the app through `foreign` and nowhere else; it becomes
plain characters in a `Cell` or a `Content`, never a markup string.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content, Span

from nfinspect.text import model_name as name_of_model
from nfinspect.text import visible
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs

TONES = {
    "": "",
    "dim": "$text-muted",
    "bold": "bold",
    "good": "$text-success",
    "warn": "$text-warning",
    "bad": "bold $text-error",
    "accent": "bold $text-accent",
    "title": "bold $text-primary",
    "heat1": "$heat1",
    "heat2": "$heat2",
    "heat3": "bold $heat3",
    "heat4": "bold underline $heat4",
    "hit": "bold reverse",
}
"""What a piece of text means, and how that is drawn.

No two meanings differ by hue alone: the text says it as well.
"""


@dataclass(frozen=True)
class Cell:
    """Text with a tone; `spans` are (start, end, tone) over its characters and win over `tone`."""

    text: str
    tone: str = ""
    spans: tuple[tuple[int, int, str], ...] = ()


def foreign(text: object, glyphs: Glyphs = UNICODE) -> str:
    """Text that this project did not write, as visible characters on one line."""
    return visible(str(text), ascii_only=glyphs is ASCII)


def model_name(model: str, glyphs: Glyphs = UNICODE) -> str:
    """The name that tells models apart."""
    return foreign(name_of_model(model), glyphs)


def fit(text: str, width: int, glyphs: Glyphs = UNICODE, align: str = "left") -> str:
    """`text` in exactly `width` cells: padded, or cut with a sign that something is missing."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + glyphs.more if width > 0 else ""
    if align == "right":
        return " " * (width - length) + text
    return text + " " * (width - length)


def number(value: float | None, glyphs: Glyphs = UNICODE, digits: int = 4) -> str:
    """A figure in at most digits + 6 characters; a sign for what is undefined, never 0."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return glyphs.none
    if isinstance(value, int):
        return f"{value:,}"
    value = float(value)
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 10**6 or size < 10**-digits:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"  # 1.2e-5, not 1.2e-05: columns are narrow
    if size >= 1000:
        return f"{value:,.0f}"
    places = digits if size < 1 else max(0, digits - len(str(int(size))))
    return f"{value:.{places}f}"


def percent(share: float | None, glyphs: Glyphs = UNICODE) -> str:
    """A share in 0..1 as a percentage of at most six characters."""
    if share is None or not math.isfinite(share):
        return glyphs.none
    scaled = 100 * share
    if 0 < scaled < 0.01:
        return "<.01%"
    return f"{scaled:.2f}%" if scaled < 10 else f"{scaled:.1f}%"


def count(value: int | None, glyphs: Glyphs = UNICODE) -> str:
    """A whole number in at most six characters: 999, 12.3k, 4.5M."""
    if value is None:
        return glyphs.none
    if value < 10_000:
        return str(value)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        if value < 1000 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:.1e}"


def counted(value: int, of: str) -> str:
    """`1 prompt`, `1,172 prompts`."""
    return f"{value:,} {of}" + ("" if value == 1 else "s")


def size(value: int | None, glyphs: Glyphs = UNICODE) -> str:
    """Bytes in decimal units, at most eight characters."""
    return glyphs.none if value is None else count(value, glyphs) + "B"


def duration(seconds: float | None, glyphs: Glyphs = UNICODE) -> str:
    """Seconds as 12s, 3m20s, 1h05m."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return glyphs.none
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def content(*cells: Cell | str) -> Content:
    """Cells one after the other as what Textual draws. Plain strings are this project's own words."""
    text = ""
    spans: list[Span] = []
    for cell in cells:
        piece = Cell(cell) if isinstance(cell, str) else cell
        start = len(text)
        text += piece.text
        if TONES[piece.tone]:
            spans.append(Span(start, len(text), TONES[piece.tone]))
        spans.extend(Span(start + a, start + b, TONES[tone]) for a, b, tone in piece.spans if TONES[tone])
    return Content(text, spans, strip_control_codes=False)


def lines(rows: Sequence[Sequence[Cell | str]]) -> Content:
    """Rows of cells as one block of text."""
    pieces: list[Cell | str] = []
    for row in rows:
        pieces += [*row, "\n"]
    return content(*pieces[:-1])
