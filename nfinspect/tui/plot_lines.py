"""Charts as data (present.plots) in characters: a line that says what is drawn, then its lines. Runs in workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nfinspect.present.numbers import number
from nfinspect.present.plots import Curve, Histogram, LayerBars, LayerPoints, Matrix, Nothing, Plot, Values
from nfinspect.tui.glyphs import ASCII, UNICODE
from nfinspect.tui.widgets.chart import histogram, wants_log
from nfinspect.tui.widgets.heat_map import matrix_map
from nfinspect.tui.widgets.plots import curve, key_line, layer_bars, points

BINS = 60


def plot_lines(
    make: Callable[[Any, Any], Plot], found: Any, row: Any, width: int, height: int, plain: bool
) -> tuple[str, ...]:
    """make: of what was found and the row under the cursor. plain: ASCII only."""
    plot = make(found, row)
    match plot:
        case Nothing(why):
            return (why,)
        case Curve(title, values, low, high):
            return (title, *curve(values, low, high, width, height - 1, plain))
        case LayerBars():
            return _bars(plot, width, height, plain)
        case LayerPoints():
            return _points(plot, width, height, plain)
        case Histogram(title, values, empty):
            return (title, *_histogram(values, empty, width, height - 1, plain))
        case Matrix(title, weights, labels):
            drawn, darkest = matrix_map(weights, labels, width, height - 1, ASCII if plain else UNICODE)
            return (f"{title}; full from {number(darkest, digits=2)}", *drawn)


def _bars(plot: LayerBars, width: int, height: int, plain: bool) -> tuple[str, ...]:
    values: tuple[Values, ...] = tuple(plot.parts.values())
    key = (plot.key + key_line(list(plot.parts), plain),) if len(values) > 1 else ()
    room = height - 1 - len(key)
    return (plot.title, *layer_bars(_names(plot.layers), values, width, room, plain, whole=plot.whole), *key)


def _histogram(values: Values, empty: str, width: int, height: int, plain: bool) -> tuple[str, ...]:
    defined = [value for value in values if value is not None]
    if not defined:
        return (empty,)
    counts, edges = np.histogram(defined, bins=BINS)
    held = tuple(counts.tolist())
    return histogram(tuple(edges.tolist()), held, True, width, height, wants_log(held), plain)


def _points(plot: LayerPoints, width: int, height: int, plain: bool) -> tuple[str, ...]:
    every = [(x, y, one.sign) for one in plot.series for x, y in zip(one.across, one.up, strict=True)]
    if plot.here is not None:  # the last: over the others
        every = [(x, y, sign) for x, y, sign in every if (x, y) != plot.here]
        every.append((*plot.here, "X"))
    across, up, signs = zip(*every, strict=True) if every else ((), (), ())
    return (plot.title, *points(_names(plot.layers), across, up, signs, width, height - 2, plain), plot.key)


def _names(layers: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"L{layer}" for layer in layers)
