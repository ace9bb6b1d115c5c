"""Upright bars that are as high as their values, to within one cell of text.

Our other drawings come from plotext, whose bars fill every row that they begin: 0.1 % would look like a sixth of a
chart of six rows. Here each part of a bar gets the rows that its value is worth, rounded so that the whole bar is
right, too. The top of a bar of one part is exact to an eighth of a row if there are glyphs for it; a value above 0 that
rounds to nothing has a mark that does not look like a bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nfinspect.tui.glyphs import UNICODE

LITTLE = "_"
"""In place of a bar that would be lower than half a row (with glyphs for eighths: than a sixteenth)."""

LITTLE_BELOW = "'"


def split_rows(values: Sequence[float], unit: float, rows: int) -> list[int]:
    """How many rows each part of a stacked bar gets: their sum is that of the bar, each within one row of its share.

    unit: the value of a row. The rows that are left after rounding down go to the largest remainders.
    """
    exact = [value / unit for value in values]
    parts = [math.floor(value + 1e-9) for value in exact]
    left = min(rows, math.floor(sum(exact) + 0.5)) - sum(parts)
    for place in sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))[: max(0, left)]:
        parts[place] += 1
    return parts


def column(values: Sequence[float], signs: str, unit: float, above: int, below: int, plain: bool) -> str:
    """The characters of one bar, from the lowest row to the highest. signs: of each part; one part may be negative."""
    if len(values) > 1:
        drawn = "".join(sign * n for sign, n in zip(signs, split_rows(values, unit, above), strict=True))
        little = LITTLE if not drawn and any(values) else ""
        return " " * below + (drawn + little).ljust(above)
    value = values[0] / unit
    if value < 0:
        rows = min(below, math.floor(-value + 0.5))
        return (signs * rows or LITTLE_BELOW).rjust(below) + " " * above
    if plain:
        rows = min(above, math.floor(value + 0.5))
        drawn = signs * rows or (LITTLE if value > 0 else "")
    else:
        eighths = min(8 * above, math.floor(8 * value + 0.5))
        whole, rest = divmod(eighths, 8)
        drawn = signs * whole + (UNICODE.levels[rest] if rest else "") or (LITTLE if value > 0 else "")
    return " " * below + drawn.ljust(above)


def framed(
    bars: Sequence[str], marks: Mapping[int, str], names: Sequence[tuple[int, str]], canvas: int, plain: bool
) -> tuple[str, ...]:
    """Bars side by side over an axis. bars: the characters of each cell across, lowest row first.

    marks: the text beside a row; -1 is the axis. names: the text below a cell, left out where there is no room.
    """
    rows, wide = len(bars[0]), max(map(len, marks.values()), default=0)
    side, tick, corner, floor = ("|", "+", "+", "-") if plain else ("│", "┤", "└", "─")
    lines = []
    for row in reversed(range(rows)):
        mark = marks.get(row, "")
        lines.append(f"{mark:>{wide}}{tick if mark else side}{''.join(bar[row] for bar in bars)}".rstrip())
    lines.append(f"{marks.get(-1, ''):>{wide}}{corner}{floor * canvas}")
    below = ""
    for cell, name in names:
        start = wide + 1 + max(0, min(cell - len(name) // 2, canvas - len(name)))
        if start >= len(below) + bool(below):
            below = below.ljust(start) + name
    return (*lines, below)
