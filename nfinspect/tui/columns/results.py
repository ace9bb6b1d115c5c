"""The columns of a query's result, made from its types and from its first rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from nfinspect.present.numbers import number
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import LONGEST, Column

if TYPE_CHECKING:
    from nfinspect_store import query_result

WIDEST = 40


def result_columns(columns: Sequence[query_result.Column], rows: list[tuple[Any, ...]], glyphs: Glyphs) -> list[Column]:
    """A column per column of the result, as wide as its first rows need."""
    made = []
    for place, column in enumerate(columns):
        figures = any(column.type.startswith(t) for t in ("DOUBLE", "FLOAT", "DECIMAL"))
        whole = "INT" in column.type
        cell = partial(_cell, place, glyphs)
        title = visible_in(column.name, glyphs)
        widest = max([cell_len(title), *(cell_len(cell(row, WIDEST).text) for row in rows)])
        align = "right" if figures or whole else "left"
        least = 7 if figures or whole else 3  # later rows may hold longer figures
        last = place == len(columns) - 1 and align == "left"
        made.append(Column(title, max(least, min(WIDEST, widest)), cell, align, flex=last))
    return made


def value_cell(value: Any, glyphs: Glyphs) -> Cell:
    """A value of a result, short enough for a column."""
    if value is None:
        return Cell("NULL", "dim")
    if isinstance(value, float):
        return Cell(number(value, glyphs, 6) if math.isfinite(value) else str(value))
    if isinstance(value, bool | int):
        return Cell(str(value))
    return Cell(visible_in(str(value)[: LONGEST * WIDEST], glyphs))  # of a million characters no more than can be seen


def _cell(place: int, glyphs: Glyphs, row: tuple[Any, ...], width: int) -> Cell:
    return value_cell(row[place], glyphs)
