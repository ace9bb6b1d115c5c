"""What the analyses of sets and tokens are drawn as: rows of bars and numbers, without plotext.

Like the functions of `drawings`: the analysis, the row under the cursor, width, height, ASCII only -> lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.present.numbers import number, signed
from nfinspect.tui.cells import fit
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs, bar, shade

if TYPE_CHECKING:
    from nfinspect.analyses.kind_overlap import KindOverlap

Lines = tuple[str, ...]
NAME = 14
"""Cells of a set's name."""

FIGURES = 27
"""Cells for the figures behind a bar."""


def ablation_bars(found: Any, row: Mapping[str, Any] | None, width: int, height: int, plain: bool) -> Lines:
    """Two bars for each set: without it, and without random sets of its size. Those around `row`, if not all fit."""
    glyphs = _glyphs(plain)
    sets: Sequence[Mapping[str, Any]] = found.document["sets"]
    values = [value for one in sets for value in (one["delta_nll"], one["control"]["mean_delta_nll"])]
    most = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    room = max(10, width - NAME - FIGURES - 3)
    pairs = max(1, (height - 1) // 2)
    first = max(0, min(sets.index(row) - pairs // 2 if row in sets else 0, len(sets) - pairs))
    lines: list[str] = []
    for one in sets[first : first + pairs]:
        low, high = one["ci95"]
        control = one["control"]
        interval = "" if low is None else f"{number(low, glyphs, 3)} to {number(high, glyphs, 3)}"
        spread = "" if control["sd"] is None else f"sd {number(control['sd'], glyphs, 3)}"
        lines.append(_signed_bar(one["name"], one["delta_nll"], interval, most, room, glyphs))
        label = f"  {control['count']} random"
        lines.append(_signed_bar(label, control["mean_delta_nll"], spread, most, room, glyphs))
    hidden = len(sets) - len(lines) // 2
    more = f" ({hidden} more)" if hidden else ""
    return (f"change of NLL without them, nats per token (+: a loss), 95 % interval{more}", *lines)


def _signed_bar(label: str, value: float | None, beside: str, most: float, room: int, glyphs: Glyphs) -> str:
    if value is None:
        return f"{fit(label, NAME, glyphs)} {glyphs.none}"
    sign = "-" if value < 0 else "+"
    drawn = bar(abs(value) / most if most else 0.0, room, glyphs)
    return f"{fit(label, NAME, glyphs)} {sign}{drawn} {number(abs(value), glyphs, 3)}  {beside}".rstrip()


def logit_bars(found: Any, row: object, width: int, height: int, plain: bool) -> Lines:
    """What is promoted on the left, what is suppressed on the right, on one scale; from the row under the cursor on."""
    glyphs = _glyphs(plain)
    pairs = found.pairs
    first = max(0, min(pairs.index(row) if row in pairs else 0, len(pairs) - (height - 1)))
    effects = [abs(one["effect"]) for pair in pairs for one in pair if one is not None]
    most = max(effects, default=0.0)
    half = (width - 3) // 2
    lines = [
        f"{_token_bar(up, most, half, glyphs)} {glyphs.column} {_token_bar(down, most, half, glyphs)}".rstrip()
        for up, down in pairs[first : first + height - 1]
    ]
    return ("what one unit of its value adds to a token's logit; right: suppressed", *lines)


def _token_bar(one: Mapping[str, Any] | None, most: float, width: int, glyphs: Glyphs) -> str:
    if one is None:
        return " " * width
    token = glyphs.none if one["token"] is None else f'"{one["token"]}"'
    effect = signed(one["effect"], glyphs)
    room = width - NAME - len(effect) - 2
    drawn = bar(abs(one["effect"]) / most if most else 0.0, room, glyphs)
    return f"{fit(token, NAME, glyphs)} {effect} {fit(drawn, room)}"


def kind_map(found: KindOverlap, row: object, width: int, height: int, plain: bool) -> Lines:
    """Kinds against kinds: how many neurons they share, the filling as dense as their Jaccard index."""
    glyphs = _glyphs(plain)
    label = max(len(one.kind) for one in found.sets) + 7
    wide = max(8, min(12, (width - label) // len(found.kinds)))
    shown = found.sets[: max(1, (width - label) // wide)]
    pairs = {frozenset((pair.a, pair.b)): pair for pair in found.pairs}
    lines = [" " * label + "".join(fit(one.kind, wide - 1, glyphs, "right") + " " for one in shown)]
    for one in found.sets:
        cells = []
        for other in shown:
            pair = pairs.get(frozenset((one.kind, other.kind)))
            drawn = glyphs.dot if pair is None else f"{shade(pair.jaccard or 0.0, glyphs) * 2} {pair.overlap:,}"
            cells.append(fit(drawn, wide - 1, glyphs, "right") + " ")
        lines.append(fit(f"{one.kind} {one.neurons:,}", label - 1, glyphs) + " " + "".join(cells))
    what = "neurons that two kinds share; the filling is their Jaccard index"
    more = f" ({len(found.sets) - len(shown)} columns do not fit)" if len(shown) < len(found.sets) else ""
    return (what + more, *(line.rstrip() for line in lines[: height - 1]))


def _glyphs(plain: bool) -> Glyphs:
    return ASCII if plain else UNICODE
