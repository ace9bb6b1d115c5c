"""What is sent for a frame: only the cells that differ from what the terminal shows, and only what their style changes.

Textual sends every cell of a line that was touched, each piece of it with its whole style and a reset: forty bytes for
a few letters in true colour. Over SSH that is what a key costs. Here the frame that Textual has rendered is read,
compared with the cells that were sent before, and written anew. A new place, a resize and a resume are painted whole
(`forget`), so that whatever else has written to the terminal is painted over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import get_character_cell_size
from textual._compositor import CompositorUpdate

if TYPE_CHECKING:
    from rich.console import Console

_PIECE = re.compile(r"\x1b\[(?P<row>\d+);(?P<column>\d+)H|\x1b\[(?P<style>[\d;]*)m|(?P<line>\n)|(?P<text>[^\x1b\n]+)")

_ONE_CELL = re.compile(
    "[\x20-\x7e\xa1-\xac\xae-\u02ff\u2010-\u2027\u2030-\u205e\u2190-\u21ff\u2400-\u2426\u2500-\u259f\u25a0-\u25cf"
    "\u27e6-\u27e9\u2801-\u28ff]*"
)
"""Characters that take one cell everywhere, and that nothing joins to their neighbours."""

_JOIN_ALIKE = range(0x1160, 0x1200)
"""Vowels and finals of Hangul, which terminals join to the letter before, as they do combining marks."""

_OUTLINES = frozenset("│|")

BRIDGE = 4
"""Cells that are sent again rather than left out: moving the cursor costs as many bytes."""

Cell = str | None
"""What a cell shows; None: not known."""


@dataclass
class _Row:
    """One line of the terminal. odd: it may hold characters that take more or less than a cell, so that what Textual
    sends of it is sent as it is.
    """

    cells: list[Cell]
    styles: list[str]
    odd: bool = False


class Cells:
    """The terminal's cells, as far as they are known."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []

    def forget(self) -> None:
        """Something else has written to the terminal, or may have: what comes next is sent whole."""
        self._rows.clear()

    def sent(self, frame: str) -> str:
        """What to send for a rendered frame. Raises ValueError for one with sequences that frames do not have."""
        writer = _Writer()
        for row, column, cells, styles, odd in _runs(frame):
            self._put(writer, row, column, cells, styles, odd)
        return writer.finished()

    def _put(self, writer: _Writer, row: int, column: int, cells: list[str], styles: list[str], odd: bool) -> None:
        line = self._row(row, column + len(cells))
        end = column + len(cells)
        before, styles_before = line.cells[column:end], line.styles[column:end]
        line.cells[column:end], line.styles[column:end] = cells, styles
        line.odd = line.odd or odd
        if odd and any(map(_moves, cells)):
            writer.write_moving(row, column, line.cells[column:], line.styles[column:])
        elif line.odd:
            writer.write(row, column, cells, styles, odd=odd)
        elif before != cells or styles_before != styles:
            for start, stop in _changes(before, styles_before, cells, styles):
                writer.write(row, column + start, cells[start:stop], styles[start:stop])

    def _row(self, row: int, width: int) -> _Row:
        while len(self._rows) <= row:
            self._rows.append(_Row([], []))
        line = self._rows[row]
        if (missing := width - len(line.cells)) > 0:
            line.cells += [None] * missing
            line.styles += [""] * missing
        return line


def _changes(
    before: list[Cell], styles_before: list[str], cells: list[str], styles: list[str]
) -> Iterator[tuple[int, int]]:
    """Stretches of cells that differ, those close to each other as one."""
    start = stop = -1
    for place, (old, old_style, new, style) in enumerate(zip(before, styles_before, cells, styles, strict=True)):
        if old == new and old_style == style:
            continue
        if start >= 0 and place - stop > BRIDGE:
            yield start, stop
            start = -1
        start, stop = (place if start < 0 else start), place + 1
    if start >= 0:
        yield start, stop


def _runs(frame: str) -> Iterator[tuple[int, int, list[str], list[str], bool]]:
    """A frame as lines of cells: row, column, cells, their styles, and whether one does not take exactly a cell.

    Raises ValueError for a control sequence that frames do not have.
    """
    row = column = start = 0
    style = ""
    cells: list[str] = []
    styles: list[str] = []
    odd = False
    place = 0
    while place < len(frame):
        piece = _PIECE.match(frame, place)
        if piece is None:
            raise ValueError(f"unexpected control sequence {frame[place : place + 12]!r}")
        place = piece.end()
        if (text := piece["text"]) is not None:
            new, text_is_odd = _cells(text)
            odd = odd or text_is_odd
            cells += new
            empty = _blank(style)
            styles += [empty if cell == " " else style for cell in new]
            column += len(new)
            continue
        if (sgr := piece["style"]) is not None:
            style = "" if sgr in ("", "0") else sgr
            continue
        at = (row + 1, 0) if piece["line"] else (int(piece["row"]) - 1, int(piece["column"]) - 1)
        if odd or at != (row, column):
            if cells:
                yield row, start, cells, styles, odd
            cells, styles, odd = [], [], False
            row, column = at
            start = column
    if cells:
        yield row, start, cells, styles, odd


def _cells(text: str) -> tuple[list[str], bool]:
    """A text cell by cell; whether a character of it does not take exactly one."""
    if _ONE_CELL.fullmatch(text):
        return list(text), False
    found: list[str] = []
    for character in text:
        width = get_character_cell_size(character)
        if width == 0 and found:
            found[-1 if found[-1] or len(found) < 2 else -2] += character
        else:
            found += [character, *[""] * (width - 1)]
    return found, True


@lru_cache(8192)
def _moves(cell: Cell) -> str:
    """Whether terminals give a character other cells than it has here: "" if all agree, else "sign" where a vowel sign
    takes one of its own in some, "other" for characters that not all of them know.
    """
    if not cell or _ONE_CELL.fullmatch(cell):
        return ""
    base, marks = cell[0], cell[1:]
    if any(unicodedata.category(mark) not in ("Mn", "Me") and ord(mark) not in _JOIN_ALIKE for mark in marks):
        return "sign"
    if unicodedata.category(base) == "Mc":
        return "sign"
    known = ord(base) < 0x10000 or 0x1F1E6 <= ord(base) <= 0x1F64F or 0x20000 <= ord(base) < 0x40000
    return "" if known else "other"


State = tuple[frozenset[str], str, str]
"""Codes of bold and the like, the colour of the text, that of the ground; empty colours are the terminal's own."""

PLAIN: State = (frozenset(), "", "")

SEEN = frozenset(("4", "7", "9", "21", "53"))
"""What is seen of an empty cell, too: lines, and a reversed ground."""

OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "5": "25", "7": "27", "8": "28", "9": "29"}
"""What ends each of them; bold and dim end together."""


class _Writer:
    """Writes cells with the fewest bytes: the cursor is moved and the style changed only where they have to be."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._state = PLAIN
        self._at: tuple[int, int] | None = None

    def write(self, row: int, column: int, cells: list[str], styles: list[str], *, odd: bool = False) -> None:
        if self._at != (row, column):
            here = self._at
            near = here is not None and here[0] == row and here[1] < column
            self._parts.append(f"\x1b[{column - here[1]}C" if near and here else f"\x1b[{row + 1};{column + 1}H")
        start = 0
        for place in range(1, len(cells) + 1):
            if place == len(cells) or styles[place] != styles[start]:
                codes, self._state = _change(self._state, styles[start])
                self._parts.append(codes)
                self._parts.append("".join(cells[start:place]))
                start = place
        self._at = None if odd else (row, column + len(cells))  # terminals differ in what odd characters take

    def write_moving(self, row: int, column: int, cells: list[Cell], styles: list[str]) -> None:
        """The rest of a line, from where it has characters on whose cells terminals do not agree. The line is emptied,
        and the cursor placed anew after such a character; after a vowel sign only at the next gap, as what took its
        cell would hide it.
        """
        known = next((place for place, cell in enumerate(cells) if cell is None), len(cells))
        ground = _blank(styles[0])
        codes, self._state = _change(self._state, styles[0])
        self._parts.append(f"\x1b[?7l\x1b[{row + 1};{column + 1}H{codes}\x1b[{known}X")
        moved, skips, gap = "", False, False
        for place, cell in enumerate(cells[:known]):
            if not cell:  # the second half of a wide one
                continue
            gap = cell == " " and (gap or cells[place + 1 : place + 2] == [" "])
            if gap and styles[place] == ground:  # it is empty already
                skips = True
                continue
            if skips or moved == "other" or (moved and (gap or cell in _OUTLINES)):
                self._parts.append(f"\x1b[{row + 1};{column + place + 1}H")
                moved, skips = "", False
            codes, self._state = _change(self._state, styles[place])
            self._parts.append(f"{codes}{cell}")
            moved = _moves(cell) or moved
        self._parts.append("\x1b[?7h")
        self._at = None

    def finished(self) -> str:
        return "".join(self._parts) + ("" if self._state == PLAIN else "\x1b[0m")


@lru_cache(8192)
def _change(state: State, style: str) -> tuple[str, State]:
    """What turns the terminal's style into another, and what it is then. style: of a cell, or of an empty one."""
    flags, ink, ground = state
    wanted, new_ink, new_ground = _parts(style.strip())
    if style.startswith(" "):  # an empty cell: what text would look like in it does not matter
        wanted, new_ink = flags - SEEN, ink
    new = (wanted, new_ink, new_ground)
    if new == state:
        return "", state
    if new == PLAIN:
        return "\x1b[0m", new
    lost, added = flags - wanted, wanted - flags
    if not lost <= OFF.keys():
        return f"\x1b[0;{';'.join([*sorted(wanted), *filter(None, (new_ink, new_ground))])}m", new
    if lost & {"1", "2"}:
        added = added | (wanted & {"1", "2"})
    codes = [*sorted({OFF[flag] for flag in lost}), *sorted(added)]
    if ink != new_ink:
        codes.append(new_ink or "39")
    if ground != new_ground:
        codes.append(new_ground or "49")
    return f"\x1b[{';'.join(codes)}m", new


@lru_cache(4096)
def _blank(style: str) -> str:
    """The style of an empty cell: a space and the ground, or the whole style if more of it is seen."""
    flags, _, ground = _parts(style)
    return style if flags & SEEN else f" {ground}"


@lru_cache(4096)
def _parts(style: str) -> State:
    """The parts of a style in SGR codes."""
    codes = style.split(";") if style else []
    flags, ink, ground = set(), "", ""
    place = 0
    while place < len(codes):
        code = codes[place]
        length = 1
        if code in ("38", "48"):
            length = 5 if codes[place + 1] == "2" else 3
        whole = ";".join(codes[place : place + length])
        number = int(code or 0)
        if number == 38 or 30 <= number <= 39 or 90 <= number <= 97:
            ink = "" if number == 39 else whole
        elif number == 48 or 40 <= number <= 49 or 100 <= number <= 107:
            ground = "" if number == 49 else whole
        else:
            flags.add(whole)
        place += length
    return frozenset(flags), ink, ground


class Changed(CompositorUpdate):
    """A frame of Textual's that is sent as what it changes."""

    def __init__(self, frame: CompositorUpdate, cells: Cells) -> None:
        self._frame = frame
        self._cells = cells

    def render_segments(self, console: Console) -> str:
        frame = self._frame.render_segments(console)
        try:
            return self._cells.sent(frame)
        except ValueError:  # a link, or something else that only the terminal understands
            self._cells.forget()
            return frame
