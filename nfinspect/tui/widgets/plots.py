"""Drawings of the analyses as lines of text; lines and points by plotext, in colours. Called in workers only.

Parts of a bar differ by their filling, curves by their letters, none by its colour alone.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from nfinspect.present.numbers import number
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import ASCII, UNICODE
from nfinspect.tui.widgets.bars import column, framed

FIGURE = threading.Lock()
"""plotext has one global figure, so one chart is drawn at a time."""

TO_ASCII = str.maketrans(
    {
        "┌": "+",
        "┐": "+",
        "└": "+",
        "┘": "+",
        "─": "-",
        "│": "|",
        "┤": "|",
        "├": "|",
        "┬": "+",
        "┴": "+",
        "┼": "+",
        "█": "#",
    }
)

FILLINGS = "█▓▒░#=+-."
PLAIN_FILLINGS = "@%#*+=-:."
"""One for each part of a stacked bar, the lowest first."""

Values = tuple[float | None, ...]


def fillings(parts: int, plain: bool) -> str:
    """The characters of a bar of so many parts: clearly different if they are few."""
    every = PLAIN_FILLINGS if plain else FILLINGS
    return every[:: 3 if parts <= 3 else 1][:parts]


def key_line(names: Sequence[str], plain: bool) -> str:
    """The key: the meaning of each filling."""
    signs = fillings(len(names), plain)
    return " ".join(f"{sign}{name}" for sign, name in zip(signs, names, strict=True))


@lru_cache(maxsize=64)
def layer_bars(
    labels: tuple[str, ...], parts: tuple[Values, ...], width: int, height: int, plain: bool, whole: bool = False
) -> tuple[str, ...]:
    """A bar for each label, stacked from `parts`: values of each label, >= 0 where there are several parts.

    An undefined value has no bar. whole: they are counts or percentages, and the axis is marked in whole numbers. If
    there are more labels than cells, only every second, third … has a bar.
    """
    if not labels or width < 20 or height < 5:
        return ("too little room" if labels else "no layers",)
    glyphs = ASCII if plain else UNICODE
    stacks = [tuple(value or 0.0 for value in stack) for stack in zip(*parts, strict=True)]
    top = max(0.0, max(map(sum, stacks)))
    bottom = min(0.0, min(map(sum, stacks)))
    if whole:
        top = float(max(1, math.ceil(top - 1e-6)))
    elif top == bottom:
        top = 1.0
    rows = height - 2
    below = min(rows - 1, max(1, round(rows * bottom / (bottom - top)))) if bottom < 0 else 0
    above = rows - below
    unit = max(top / above, -bottom / below if below else 0.0)

    def named(row: int) -> str:
        """The value at the upper edge of a row."""
        value = (row + 1 - below) * unit
        return f"{round(value):,}" if whole else number(value, glyphs, 3)

    marks = {row: named(row) for row in {-1, below - 1, rows // 2 - 1 if not below else below - 1, rows - 1}}
    if whole:  # only where an edge is a whole number
        marks = {row: mark for row, mark in marks.items() if abs((row + 1) * unit - round((row + 1) * unit)) < 0.01}
    canvas = width - 1 - max(map(len, marks.values()))
    every = math.ceil(len(labels) / canvas)
    shown = range(0, len(labels), every)
    slot = canvas / len(shown)
    signs, bars, names = fillings(len(parts), plain), [" " * rows] * canvas, []
    for place, label in enumerate(shown):
        start, end = round(place * slot), round((place + 1) * slot)
        thick = max(1, round(0.7 * (end - start)))
        first = start + (end - start - thick) // 2
        bars[first : first + thick] = [column(stacks[label], signs, unit, above, below, plain)] * thick
        names.append((first + thick // 2, labels[label]))
    return framed(bars, marks, names, canvas, plain)


@lru_cache(maxsize=64)
def curve(values: tuple[float, ...], low: float, high: float, width: int, height: int, plain: bool) -> tuple[str, ...]:
    """A line through values at 0, 1, 2, …"""
    if width < 20 or height < 5:
        return ("too little room",)

    def paint(figure: Any) -> None:
        places = list(range(len(values)))
        figure.draw(figure.signal(places, list(values), marker="*" if plain else "braille"))
        figure.ruler("x").lim(0, max(1, len(values) - 1))
        wanted = max(2, min(9, width // 10))
        ticks = sorted({round(i * (len(values) - 1) / (wanted - 1)) for i in range(wanted)})
        figure.ruler("x").ticks(ticks, [str(tick) for tick in ticks])
        _heights(figure, low, high, plain)

    return tuple(line.text for line in drawing(paint, width, height, plain))


@lru_cache(maxsize=64)
def points(
    labels: tuple[str, ...],
    across: tuple[float, ...],
    up: tuple[float, ...],
    signs: tuple[str, ...],
    width: int,
    height: int,
    plain: bool,
) -> tuple[str, ...]:
    """A sign at each point: `across` in units of labels, the first of which is at 0, `up` from 0 on."""
    if not across or width < 20 or height < 5:
        return ("too little room" if across else "no points",)

    def paint(figure: Any) -> None:
        figure.draw(figure.signal(list(across), list(up), marker=list(signs)))
        _places(figure, labels, width)
        _heights(figure, 0.0, max(up) * 1.05, plain)

    return tuple(line.text for line in drawing(paint, width, height, plain))


Curve = tuple[str, tuple[tuple[float, float], ...]]
"""A capital letter, and its points: depth in 0..1 and a value."""


APART = 4
"""Cells at most from one small letter of a curve to the next, where letters are all that draws it."""

SPARSE = 12
"""The same where it is drawn by dots: the letter says whose it is without its colour."""

COLOURS = ("title", "warn", "good", "accent", "bad", "heat2", "bold", "dim")
"""Tones of curves, in order of their letters."""

FIRST_CODE = 16
"""Of the colours by which plotext is told the tones, in their order: it knows 256 by number."""

_CODE = re.compile(r"\x1b\[(?:38;5;(\d+)|0?)m")


@lru_cache(maxsize=64)
def overlay(
    curves: tuple[Curve, ...],
    here: tuple[float, float] | None,
    width: int,
    height: int,
    plain: bool,
    whole: bool = False,
) -> tuple[Cell, ...]:
    """Curves over the depth of networks, each with its own letter: a capital at a layer, small ones on the way between,
    which is drawn by dots in the curve's colour, or, plain, by the small letters alone.

    The small ones leave room for those of the others, so that curves that coincide can all be seen. here: the point
    that is marked X. whole: the values are counts. A cell that several curves go through has the colour of its letter,
    else of the last of them.
    """
    values = [value for _, places in curves for _, value in places]
    if not values or width < 20 or height < 5:
        return (Cell("too little room" if values else "no figures", "title"),)
    low, high = min(0.0, min(values)), max(0.0, max(values))
    order = sorted(curves)
    tones = {sign: COLOURS[place % len(COLOURS)] for place, (sign, _) in enumerate(order)}

    def dots(figure: Any, curve: Curve) -> None:
        every = [point for pair in pairwise(curve[1]) for point in (pair[0], *_between(*pair, 3 * width))]
        signal(figure, every, "braille", tones[curve[0]])

    def letters(figure: Any, curve: Curve) -> None:
        sign, places = curve
        place = order.index(curve)
        every = [point for pair in pairwise(places) for point in _between(*pair, width)]
        step = min(len(curves), APART) if plain else SPARSE
        first = place if plain else round(place * SPARSE / len(curves))
        chosen = [p for p in every if (round(p[0] * width) - first) % step == 0]
        signal(figure, chosen, sign.lower(), tones[sign])

    def paint(figure: Any) -> None:
        for curve in order if not plain else ():
            dots(figure, curve)
        for curve in order:
            letters(figure, curve)
        for sign, places in curves:  # a layer is covered by no line
            signal(figure, places, sign, tones[sign])
        if here is not None:
            signal(figure, [here], "X")
        figure.ruler("x").lim(-0.02, 1.02)
        figure.ruler("x").ticks([0, 0.25, 0.5, 0.75, 1], ["first", "0.25", "0.5", "0.75", "last"])
        if whole:
            _counts(figure, max(1, math.ceil(high)))
        else:
            _heights(figure, low, high or 1.0, plain)

    return drawing(paint, width, height, plain)


def signal(figure: Any, points: Sequence[tuple[float, float]], sign: str, tone: str = "") -> None:
    """Draw points by a sign, or by the dots of `braille`. tone: of COLOURS; none: that of the axes."""
    if not points:
        return
    import plotext

    marker = plotext.marker(sign, FIRST_CODE + COLOURS.index(tone)) if tone else sign
    figure.draw(figure.signal([x for x, _ in points], [y for _, y in points], marker=marker))


def _between(start: tuple[float, float], end: tuple[float, float], width: int) -> list[tuple[float, float]]:
    """Points on the straight line, one for each cell across."""
    parts = max(1, round((end[0] - start[0]) * width))
    rise = end[1] - start[1]
    return [(start[0] + (end[0] - start[0]) * i / parts, start[1] + rise * i / parts) for i in range(1, parts)]


def _places(figure: Any, labels: Sequence[str], width: int) -> None:
    """The x axis: as many labels as have room."""
    figure.ruler("x").lim(-0.5, len(labels) - 0.5)
    step = max(1, math.ceil(len(labels) * 5 / max(1, width - 8)))
    figure.ruler("x").ticks(list(range(0, len(labels), step)), list(labels[::step]))


def _counts(figure: Any, top: int) -> None:
    marks = sorted({0, top // 2, top})
    figure.ruler("y").lim(0, top)
    figure.ruler("y").ticks(marks, [f"{mark:,}" for mark in marks])


def _heights(figure: Any, low: float, high: float, plain: bool) -> None:
    middle = 0.0 if low < 0 < high else (low + high) / 2
    marks = [low, middle, high]
    figure.ruler("y").lim(low, high)
    figure.ruler("y").ticks(marks, [number(mark, ASCII if plain else UNICODE, 3) for mark in marks])


def drawing(paint: Callable[[Any], None], width: int, height: int, plain: bool) -> tuple[Cell, ...]:
    """What `paint` draws into a figure of plotext, as lines of text in tones; plain: in ASCII, and in one tone."""
    import plotext

    with FIGURE:
        figure = plotext.figure
        figure.clear()
        figure.theme("colorless")
        figure.plot_size(width, height)
        paint(figure)
        text = figure.build().string(plain)
        figure.clear()
    lines = text.split("\n")[:height]
    return tuple(Cell(line.translate(TO_ASCII), "title") if plain else _toned(line) for line in lines)


def _toned(line: str) -> Cell:
    """A line with colour codes, as text with tones."""
    text, tone = "", ""
    spans: list[tuple[int, int, str]] = []
    pieces = _CODE.split(line)  # texts, and between them the colour of what follows
    for piece, code in zip(pieces[::2], [*pieces[1::2], None], strict=True):
        if tone and piece:
            spans.append((len(text), len(text) + len(piece), tone))
        text += piece
        tone = COLOURS[int(code) - FIRST_CODE] if code else ""
    return Cell(text, "title", tuple(spans))
