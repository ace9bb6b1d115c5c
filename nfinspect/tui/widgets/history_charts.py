"""The history of a training as charts: score and dead share, and the activation rate by layer, over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from nfinspect.analysis.module_names import distinct_names, whole_names
from nfinspect.present.numbers import counted
from nfinspect.text import visible
from nfinspect.tui.cells import Cell, joined, sized
from nfinspect.tui.widgets.line_chart import Line, line_chart
from nfinspect.tui.widgets.plots import COLOURS

if TYPE_CHECKING:
    from nfinspect.analysis.history import History

MARKS = "abcde"
"""Marks of the layers that are drawn: with more lines none could be followed. Letters, so that no mark looks like a
layer's number."""

TALL = 20
"""Lines from which one chart is above the other; with fewer they are side by side, if WIDE allows."""

WIDE = 70


def history_charts(
    history: History, width: int, height: int, *, plain: bool = False, here: int | None = None
) -> tuple[Cell, ...]:
    """Two charts in `height` lines of at most `width` cells; here: a step that is marked. Needs a reading."""
    # Twice as many points as cells are enough: a long training has thousands of readings.
    readings = [history.readings[i] for i in thinned(len(history.readings), 2 * width)]
    steps = [reading.step for reading in readings]
    good, bad, *tones = ("",) * (2 + len(MARKS)) if plain else ("good", "bad", *COLOURS[: len(MARKS)])
    network = [
        Line("o", good, tuple(reading.health_score for reading in readings)),
        Line("x", bad, tuple(reading.dead_share for reading in readings)),
    ]
    chosen = thinned(len(history.layers), len(MARKS))
    rates = [{layer.layer_name: layer.activation_rate for layer in reading.layers} for reading in readings]
    layers = [
        Line(mark, tone, tuple(rate.get(history.layers[i]) for rate in rates))
        for mark, tone, i in zip(MARKS, tones, chosen, strict=False)
    ]
    score = joined(Cell("o", good), " score  ", Cell("x", bad), f" dead share of {_neurons(history)}")
    rate = _rates_head(len(chosen), len(history.layers))
    if height >= TALL or width < WIDE:
        high = height // 2
        names = _marked(history.layers, chosen, tones, width - cell_len(rate) - 3, plain)
        one = line_chart(steps, network, score, width, high, plain=plain, here=here)
        below = joined(f"{rate}   ", names)
        return (*one, *line_chart(steps, layers, below, width, height - high, plain=plain, here=here))
    wide = (width - 2) // 2
    names = _marked(history.layers, chosen, tones, width, plain)
    apart = cell_len(rate) + 3 + cell_len(names.text) > wide  # then the names have a line of their own below both heads
    head = Cell(rate) if apart else joined(f"{rate}   ", names)
    one = line_chart(steps, network, score, wide, height - apart, plain=plain, here=here)
    other = line_chart(steps, layers, head, wide, height - apart, plain=plain, here=here)
    heads, *charts = (joined(sized(left, wide), "  ", right) for left, right in zip(one, other, strict=True))
    own = [joined(" " * max(0, width - cell_len(names.text)), names)] if apart else []
    return (heads, *own, *charts)


def _neurons(history: History) -> str:
    return counted(sum(layer.neurons for layer in history.readings[-1].layers), "neuron")


def _rates_head(drawn: int, layers: int) -> str:
    return f"activation rate of {drawn} of {layers} layers" if drawn < layers else "activation rate by layer"


def _marked(names: Sequence[str], chosen: Sequence[int], tones: Sequence[str], room: int, plain: bool) -> Cell:
    """The marks with their layers' names in `room` cells: whole, or the parts that differ, or the ends of these."""
    shown: list[str] = []
    for shape in (whole_names, distinct_names):
        every = shape(names)
        shown = [visible(every[i], ascii_only=plain) for i in chosen]
        if cell_len((found := _named(shown, tones)).text) <= room:
            return found
    each = (room + 2) // max(1, len(shown)) - 4
    ends = _named([end_of(name, each, plain) for name in shown], tones)
    return sized(ends, max(0, min(room, cell_len(ends.text.rstrip()))))


def _named(names: Sequence[str], tones: Sequence[str]) -> Cell:
    pieces: list[Cell | str] = []
    for mark, tone, name in zip(MARKS, tones, names, strict=False):
        pieces += ["  " * bool(pieces), Cell(mark, tone), f" {name}"]
    return joined(*pieces)


def end_of(name: str, cells: int, plain: bool) -> str:
    """A name in so many cells; if it is cut, it begins with a sign."""
    if cell_len(name) <= cells:
        return name
    sign = ".." if plain else "…"
    while name and cell_len(sign + name) > cells:
        name = name[1:]
    return sign + name


def wrapped_note(text: str, width: int, lines: int, *, plain: bool = False, more: str = "") -> tuple[str, ...]:
    """The text under the charts, in at most `lines` lines; the last one shows if something is left out. more: what
    shows all of it.
    """
    found = textwrap.wrap(visible(text, ascii_only=plain), max(1, width))
    if len(found) > lines:
        sign = (" .." if plain else " …") + f" {more}".rstrip()
        found[lines - 1 :] = [set_cell_size(found[lines - 1], max(0, width - len(sign))).rstrip() + sign]
    return tuple(found)


def thinned(count: int, most: int) -> list[int]:
    """At most so many places of a list, evenly spread, including the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
