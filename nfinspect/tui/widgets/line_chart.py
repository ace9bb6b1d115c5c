"""Lines over steps by plotext: dots in a line's colour with its mark here and there, or, plain, the mark alone.

The mark identifies a line, never the colour.

Called in workers only, like `chart`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from nfinspect.tui.cells import Cell, sized
from nfinspect.tui.widgets.plots import SPARSE, drawing, signal

HERE = ":"
"""The mark of the step that is looked at."""


@dataclass(frozen=True)
class Line:
    """Values over steps; None where undefined. mark: one character; tone: its colour, of plots.COLOURS."""

    mark: str
    tone: str
    values: tuple[float | None, ...]


def line_chart(
    steps: Sequence[int],
    lines: Sequence[Line],
    head: Cell,
    width: int,
    height: int,
    *,
    plain: bool = False,
    here: int | None = None,
) -> tuple[Cell, ...]:
    """Shares from 0 to 1 as `height` lines of at most `width` cells.

    head: the first of them, which says what is drawn, with the lines' marks. steps: rising, one or more; here: a step
    that is marked.
    """
    head = sized(head, min(width, cell_len(head.text)))
    if width < 20 or height < 5:
        return (head, Cell("too little room"))
    low, high = steps[0], max(steps[-1], steps[0] + 1)

    def paint(figure: Any) -> None:
        if here is not None and low <= here <= high:
            signal(figure, [(here, 0.0), (here, 1.0)], HERE)
        cell = (high - low) / width
        drawn_by = [(line, _joined(steps, line.values, cell if plain else cell / 3)) for line in lines]
        for line, points in drawn_by if not plain else ():
            signal(figure, points, "braille", line.tone)
        for place, (line, points) in enumerate(drawn_by):
            first = round(place * SPARSE / max(1, len(drawn_by)))
            every = [p for p in points if plain or (round((p[0] - low) / cell) - first) % SPARSE == 0]
            signal(figure, every or points[-1:], line.mark, line.tone)
        figure.ruler("x").lim(low, high)
        marks = sorted({low, (low + high) // 2, high})
        figure.ruler("x").ticks(marks, [str(mark) for mark in marks])
        figure.ruler("y").lim(0, 1)
        figure.ruler("y").ticks([0, 0.5, 1], ["0", "0.5", "1"])

    return (head, *drawing(paint, width, height - 1, plain))


def _joined(steps: Sequence[int], values: Sequence[float | None], gap: float) -> list[tuple[float, float]]:
    """The points, with more between neighbours so that none are more than `gap` apart; undefined values leave gaps."""
    points: list[tuple[float, float]] = []
    last: tuple[float, float] | None = None
    for step, value in zip(steps, values, strict=True):
        here = None if value is None else (float(step), value)
        if here is not None:
            if last is not None:
                parts = max(1, math.ceil((here[0] - last[0]) / gap))
                rise = (here[1] - last[1]) / parts
                points += [(last[0] + i * (here[0] - last[0]) / parts, last[1] + i * rise) for i in range(1, parts)]
            points.append(here)
        last = here
    return points
