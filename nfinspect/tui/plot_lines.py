"""Plots (present.plots) in characters: a line that says what is drawn, then the drawing. Runs in workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfinspect.present.numbers import number, signed
from nfinspect.present.plots import (
    Bar,
    Bars,
    Curve,
    Grid,
    Histogram,
    LayerBars,
    LayerPoints,
    Matrix,
    Nothing,
    Plot,
    Shading,
    TwoSided,
    Values,
)
from nfinspect.tui.cells import fit
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs, bar, shade
from nfinspect.tui.widgets.chart import histogram, wants_log
from nfinspect.tui.widgets.heat_map import matrix_map
from nfinspect.tui.widgets.plots import curve, key_line, layer_bars, points

BINS = 60
NAME = 14
"""Cells of a bar's label."""

NOTE = 27
"""Cells for the figure and the note behind a bar."""

MARKED = 4
"""Cells between two marks below shares."""


def plot_lines(
    make: Callable[[Any, Any], Plot], found: Any, row: Any, width: int, height: int, plain: bool
) -> tuple[str, ...]:
    """make: gives the plot of what was found and of the row under the cursor. plain: ASCII only."""
    plot, glyphs = make(found, row), ASCII if plain else UNICODE
    match plot:
        case Nothing(why):
            return (why,)
        case Curve(title, values, low, high):
            return (title, *curve(values, low, high, width, height - 1, plain))
        case LayerBars():
            return _layer_bars(plot, width, height, plain)
        case LayerPoints():
            return _points(plot, width, height, plain)
        case Histogram(title, values, empty):
            return (title, *_histogram(values, empty, width, height - 1, plain))
        case Matrix(title, weights, labels):
            drawn, darkest = matrix_map(weights, labels, width, height - 1, glyphs)
            return (f"{title}; full at {number(darkest, digits=2)}", *drawn)
        case Bars():
            return _bars(plot, width, height, glyphs)
        case TwoSided():
            return _two_sided(plot, width, height, glyphs)
        case Grid():
            return _grid(plot, width, height, glyphs)
        case Shading():
            return _shading(plot, width, height, glyphs)


def _layer_bars(plot: LayerBars, width: int, height: int, plain: bool) -> tuple[str, ...]:
    values: tuple[Values, ...] = tuple(plot.parts.values())
    key = (plot.key + key_line(list(plot.parts), plain),) if len(values) > 1 else ()
    room = height - 1 - len(key)
    return (plot.title, *layer_bars(_names(plot.layers), values, width, room, plain, whole=plot.whole), *key)


def _histogram(values: NDArray[np.float64], empty: str, width: int, height: int, plain: bool) -> tuple[str, ...]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return (empty,)
    counts, edges = np.histogram(defined, bins=BINS)
    held = tuple(counts.tolist())
    return histogram(tuple(edges.tolist()), held, True, width, height, wants_log(held), plain)


def _points(plot: LayerPoints, width: int, height: int, plain: bool) -> tuple[str, ...]:
    every = [(x, y, one.sign) for one in plot.series for x, y in zip(one.across, one.up, strict=True)]
    if plot.here is not None:  # last, so that it is drawn over the others
        every = [(x, y, sign) for x, y, sign in every if (x, y) != plot.here]
        every.append((*plot.here, "X"))
    across, up, signs = zip(*every, strict=True) if every else ((), (), ())
    return (plot.title, *points(_names(plot.layers), across, up, signs, width, height - 2, plain), plot.key)


def _names(layers: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"L{layer}" for layer in layers)


def _bars(plot: Bars, width: int, height: int, glyphs: Glyphs) -> tuple[str, ...]:
    """If not all groups fit, those around `here`."""
    fitting = max(1, (height - 1) // max(map(len, plot.groups), default=1))
    first = _first(plot.here - fitting // 2, len(plot.groups), fitting)
    most = _longest(one for group in plot.groups for one in group)
    shown = plot.groups[first : first + fitting]
    hidden = len(plot.groups) - len(shown)
    room = max(10, width - NAME - NOTE - 3)
    title = plot.title + (f" ({hidden} more)" if hidden else "")
    return (title, *(_signed_bar(one, most, room, glyphs) for group in shown for one in group))


def _signed_bar(one: Bar, most: float, room: int, glyphs: Glyphs) -> str:
    if one.value is None:
        return f"{fit(one.label, NAME, glyphs)} {glyphs.none}"
    sign = "-" if one.value < 0 else "+"
    drawn = bar(abs(one.value) / most if most else 0.0, room, glyphs)
    return f"{fit(one.label, NAME, glyphs)} {sign}{drawn} {number(abs(one.value), glyphs, 3)}  {one.note}".rstrip()


def _two_sided(plot: TwoSided, width: int, height: int, glyphs: Glyphs) -> tuple[str, ...]:
    first = _first(plot.here, len(plot.pairs), height - 1)
    most, half = _longest(one for pair in plot.pairs for one in pair if one is not None), (width - 3) // 2
    lines = [
        f" {glyphs.column} ".join(_half(one, most, half, glyphs) for one in pair).rstrip()
        for pair in plot.pairs[first : first + height - 1]
    ]
    return (plot.title, *lines)


def _half(one: Bar | None, most: float, width: int, glyphs: Glyphs) -> str:
    if one is None:
        return " " * width
    figure = signed(one.value, glyphs)
    room = width - NAME - len(figure) - 2
    drawn = bar(abs(one.value or 0.0) / most if most else 0.0, room, glyphs)
    return f"{fit(one.label, NAME, glyphs)} {figure} {fit(drawn, room)}"


def _longest(bars: Iterable[Bar]) -> float:
    return max((abs(one.value) for one in bars if one.value is not None and math.isfinite(one.value)), default=0.0)


def _first(wanted: int, total: int, fitting: int) -> int:
    """The first of so many that is shown if not all fit: the wanted one, or an earlier one if room is left."""
    return max(0, min(wanted, total - fitting))


def _grid(plot: Grid, width: int, height: int, glyphs: Glyphs) -> tuple[str, ...]:
    """The filling of a cell is as dense as its share. Columns that do not fit are left out."""
    label = max(map(len, plot.names)) + 7
    wide = max(8, min(12, (width - label) // len(plot.names)))
    shown = list(plot.names)[: max(1, (width - label) // wide)]

    def cell(a: str, b: str) -> str:
        found = plot.cells.get((a, b), plot.cells.get((b, a)))
        return glyphs.dot if found is None else f"{shade(found[0], glyphs) * 2} {found[1]:,}"

    lines = [" " * label + "".join(fit(name, wide - 1, glyphs, "right") + " " for name in shown)]
    for a, members in plot.names.items():
        cells = (fit(cell(a, b), wide - 1, glyphs, "right") + " " for b in shown)
        lines.append(fit(f"{a} {members:,}", label - 1, glyphs) + " " + "".join(cells))
    more = f" ({len(plot.names) - len(shown)} columns do not fit)" if len(shown) < len(plot.names) else ""
    return (plot.title + more, *(line.rstrip() for line in lines[: height - 1]))


def _shading(plot: Shading, width: int, height: int, glyphs: Glyphs) -> tuple[str, ...]:
    """If not all fit, the rows around `here` and the last columns."""
    room, columns = max(1, height - 2), len(plot.shares[0])
    first = _first((plot.here or 0) - room // 2, len(plot.rows), room)
    label = max(map(len, plot.rows)) + 1
    wide = max(1, min(6, (width - label) // max(1, columns)))
    start = max(0, columns - (width - label) // wide)
    lines = []
    for i in range(first, min(first + room, len(plot.rows))):
        sign = glyphs.cursor if i == plot.here else " "
        shown = "".join(shade(share, glyphs) * wide for share in plot.shares[i][start:])
        lines.append(fit(plot.rows[i], label - 1) + sign + shown)
    lines.append(" " * label + _marks([str(place) for place in range(start, columns)], wide))
    cut = f" {start}-{columns - 1}" if start else ""
    return (f"{plot.title}{cut}; full from 7/8", *lines)


def _marks(names: Sequence[str], wide: int) -> str:
    """As many of the names as have room, each below the beginning of its cell."""
    line = ""
    for place, name in enumerate(names):
        if len(line) <= place * wide - (1 if line else 0) and (place * wide) % MARKED < wide:
            line = line.ljust(place * wide) + name
    return line
