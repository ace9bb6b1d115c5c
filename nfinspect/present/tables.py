"""Plain aligned tables that fit the terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from nfinspect import output
from nfinspect.present.numbers import number
from nfinspect.text import visible

GAP = "  "
SHORTEST = 8
"""Columns that a shortened text keeps."""


@dataclass(frozen=True)
class Column:
    """text: cells are aligned left and, unless `whole`, may be shortened; figures are aligned right and never are."""

    header: str
    text: bool = False
    whole: bool = False  # a text that would say too little if shortened
    spare: int = 0  # columns with the highest number are dropped first if the terminal is too narrow


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int | None = None) -> list[str]:
    """Lines of a table; cells are made safe to show. Shortens texts, then drops spare columns, to fit the
    width.
    """
    return fitted(columns, rows, width)[0]


def fitted(
    columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int | None = None
) -> tuple[list[str], int]:
    """The lines of a table, and how many columns there was no room for."""
    cells = [[visible(cell if isinstance(cell, str) else number(cell)) for cell in row] for row in rows]  # type: ignore[arg-type]
    kept = list(range(len(columns)))
    widths = [
        max([cell_len(visible(column.header)), *(cell_len(row[i]) for row in cells)])
        for i, column in enumerate(columns)
    ]
    natural = list(widths)
    room = output.width() if width is None else width

    def excess() -> int:
        return sum(widths[i] for i in kept) + len(GAP) * (len(kept) - 1) - room

    while excess() > 0:
        texts = [
            i
            for i in kept
            if columns[i].text and not columns[i].whole and widths[i] > max(SHORTEST, cell_len(columns[i].header))
        ]
        spare = [i for i in kept if columns[i].spare]
        longest = max(texts, key=lambda i: widths[i], default=None)
        if longest is not None and (widths[longest] > 2 * SHORTEST or not spare):
            floor = max(SHORTEST, cell_len(columns[longest].header))
            widths[longest] = max(floor, widths[longest] - excess())
        elif spare:
            kept.remove(max(spare, key=lambda i: columns[i].spare))
        else:
            break
    for i in kept:  # a dropped column may leave room for what was shortened before it
        widths[i] += min(natural[i] - widths[i], max(0, -excess()))
    shown, sizes = [columns[i] for i in kept], [widths[i] for i in kept]
    header = [visible(column.header) for column in columns]
    lines = [_row(shown, [row[i] for i in kept], sizes) for row in [header, *cells]]
    return lines, len(columns) - len(kept)


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        if cell_len(cell) > width:
            cell = set_cell_size(cell, width - 1).rstrip() + "…"
        blank = " " * (width - cell_len(cell))
        parts.append(cell + blank if column.text else blank + cell)
    return GAP.join(parts).rstrip()


def wrapped(text: str, indent: str = "") -> list[str]:
    """A paragraph, broken to the width."""
    return textwrap.wrap(
        visible(text),
        output.width(),
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )
