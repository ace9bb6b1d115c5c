"""Text for the screen: table cells, and how text is made harmless.

Our widgets make visible whatever they draw (`shown`, `shown_cell`), so that no pane has to remember which text is
foreign; what other widgets draw goes through the app's filter (`harmless`). `visible_in` is for text that is measured
or cut before a widget gets it. No string is markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content, Span

from nfinspect.text import is_plain, pieces, visible
from nfinspect.text import model_name as name_of_model
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs

LINE_FEED = visible("\n")

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
    """Text with a tone; `spans` are (start, end, tone) over its characters and override `tone`."""

    text: str
    tone: str = ""
    spans: tuple[tuple[int, int, str], ...] = ()


def visible_in(text: object, glyphs: Glyphs = UNICODE) -> str:
    """Text as it will be drawn, on one line: for measuring it."""
    return visible(str(text), ascii_only=glyphs is ASCII)


def model_name(model: str, glyphs: Glyphs = UNICODE) -> str:
    """The name that tells models apart."""
    return visible_in(name_of_model(model), glyphs)


def fit(text: str, width: int, glyphs: Glyphs = UNICODE, align: str = "left") -> str:
    """`text` in exactly `width` cells: made visible, then padded, or cut and marked as cut."""
    text = visible_in(text, glyphs)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + glyphs.more if width > 0 else ""
    if align == "right":
        return " " * (width - length) + text
    return text + " " * (width - length)


def content(*cells: Cell | str) -> Content:
    """Cells and strings, one after the other, as Textual's content. A line break in a string breaks the line; in a
    cell, which may hold anything, it is drawn as a character.
    """
    text = ""
    spans: list[Span] = []
    for cell in cells:
        piece = Cell(cell) if isinstance(cell, str) else cell
        start = len(text)
        text += piece.text if cell is not piece else piece.text.replace("\n", LINE_FEED)
        if TONES[piece.tone]:
            spans.append(Span(start, len(text), TONES[piece.tone]))
        spans.extend(Span(start + a, start + b, TONES[tone]) for a, b, tone in piece.spans if TONES[tone])
    return Content(text, spans, strip_control_codes=False)


def shown(text: Content, glyphs: Glyphs) -> Content:
    """The content as a widget draws it: nothing in it that a terminal would act on or hide. Line breaks stay."""
    if all(is_plain(line, ascii_only=glyphs is ASCII) for line in text.plain.split("\n")):
        return text
    drawn, places = _drawn(text.plain, glyphs, keep="\n")
    spans = [Span(places[span.start], places[span.end], span.style) for span in text.spans]
    return Content(drawn, spans, strip_control_codes=False)


def shown_cell(cell: Cell, glyphs: Glyphs) -> Cell:
    """The same for a cell, on one line."""
    if is_plain(cell.text, ascii_only=glyphs is ASCII):
        return cell
    drawn, places = _drawn(cell.text, glyphs)
    return Cell(drawn, cell.tone, tuple((places[start], places[end], tone) for start, end, tone in cell.spans))


def _drawn(text: str, glyphs: Glyphs, keep: str = "") -> tuple[str, list[int]]:
    """The text as it is drawn, and where in it each character begins, and the last one ends."""
    drawn, places = [], [0]
    for character, visibly in pieces(text, ascii_only=glyphs is ASCII):
        drawn.append(character if character == keep else visibly)
        places.append(places[-1] + len(drawn[-1]))
    return "".join(drawn), places


def joined(*cells: Cell | str) -> Cell:
    """Several as one, each in its tones."""
    text = ""
    spans: list[tuple[int, int, str]] = []
    for one in cells:
        piece = Cell(one) if isinstance(one, str) else one
        start, text = len(text), text + piece.text
        spans += [(start, len(text), piece.tone)] if piece.tone and piece.text else []
        spans += [(start + a, start + b, tone) for a, b, tone in piece.spans]
    return Cell(text, "", tuple(spans))


def sized(cell: Cell, width: int) -> Cell:
    """The cell in exactly `width` cells of the terminal: padded, or cut."""
    text = set_cell_size(cell.text, width)
    spans = tuple((start, min(end, len(text)), tone) for start, end, tone in cell.spans if start < len(text))
    return Cell(text, cell.tone, spans)


def flowed(groups: Sequence[Sequence[Cell | str]], between: str, width: int) -> list[list[Cell | str]]:
    """Groups of cells one after the other in lines of at most `width` cells; no group is broken."""
    rows: list[list[Cell | str]] = []
    left = 0
    for group in groups:
        need = sum(cell_len(piece if isinstance(piece, str) else piece.text) for piece in group)
        if rows and len(between) + need <= left:
            rows[-1] += [between, *group]
            left -= len(between) + need
        else:
            rows.append([*group])
            left = width - need
    return rows


def lines(rows: Sequence[Sequence[Cell | str]]) -> Content:
    """Rows of cells as one block of text."""
    pieces: list[Cell | str] = []
    for row in rows:
        pieces += [*row, "\n"]
    return content(*pieces[:-1])
