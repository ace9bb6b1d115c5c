"""Histograms as plain lines of text. Called in workers only; drawings are cached."""

import math
from collections.abc import Sequence
from functools import lru_cache

from nfinspect.present.numbers import number
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs
from nfinspect.tui.widgets.bars import column, framed

LOG_FROM = 30.0
"""A tallest bar more than this many times the median bar hides the others on a linear axis."""


def wants_log(counts: Sequence[int]) -> bool:
    filled = sorted(c for c in counts if c)
    return bool(filled) and filled[-1] > LOG_FROM * filled[len(filled) // 2]


@lru_cache(maxsize=64)
def histogram(
    edges: tuple[float, ...],
    counts: tuple[int, ...],
    linear: bool,
    width: int,
    height: int,
    log: bool,
    plain: bool,
) -> tuple[str, ...]:
    """A histogram as `height` lines of at most `width` cells. Uneven bins are drawn equally wide."""

    glyphs = ASCII if plain else UNICODE
    edges, counts = _filled(edges, counts)
    if not counts or width < 20 or height < 5:
        return ("too little room" if counts else "no values",)
    counts_, places = _squeezed(edges, counts, width - 10)
    heights = [math.log10(c) + 0.3 if log and c else float(c) for c in counts_]
    rows, most = height - 2, max(heights)
    unit = most / rows
    if log:
        marks = {round((p + 0.3) / unit) - 1: _short(10**p) for p in range(int(math.log10(max(counts_))) + 1)}
    else:
        marks = {-1: "0", rows - 1: _short(max(counts_))}
        if rows % 2 == 0 and max(counts_) % 2 == 0:
            marks[rows // 2 - 1] = _short(max(counts_) // 2)
    canvas = width - 1 - max(map(len, marks.values()))
    places_of = [round(i * canvas / len(heights)) for i in range(len(heights) + 1)]
    sign, bars = "#" if plain else "█", []
    for value, start, end in zip(heights, places_of, places_of[1:], strict=False):
        bars += [column((value,), sign, unit, rows, 0, plain)] * (end - start)
    names = [(places_of[round(tick + 0.5)], label) for tick, label in _x_ticks(places, width, glyphs)]
    return framed(bars, marks, names, canvas, plain)


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _filled(edges: tuple[float, ...], counts: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Without the empty bins at both ends: signed-log histograms reach from -inf to inf."""
    held = [i for i, c in enumerate(counts) if c]
    if not held:
        return (), ()
    first, last = held[0], held[-1]
    return edges[first : last + 2], counts[first : last + 1]


def _squeezed(edges: tuple[float, ...], counts: tuple[int, ...], room: int) -> tuple[list[int], list[float]]:
    """Neighbouring bins joined so that they fit in `room` bars, and the edges of these."""
    step = max(1, math.ceil(len(counts) / max(1, room)))
    joined = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    return joined, [*(edges[i] for i in range(0, len(counts), step)), edges[-1]]


def _x_ticks(places: list[float], width: int, glyphs: Glyphs) -> list[tuple[float, str]]:
    wanted = max(2, min(6, width // 13))
    last = len(places) - 1
    chosen = sorted({round(i * last / (wanted - 1)) for i in range(wanted)})
    # bar i reaches from i - 0.5 to i + 0.5, so edge i is half a bar before its middle
    return [(i - 0.5, _edge(places[i], glyphs)) for i in chosen]


def _edge(value: float, glyphs: Glyphs) -> str:
    if math.isinf(value):
        return "-inf" if value < 0 else "inf"
    return number(value, glyphs, 3)
