"""What the app says about a neuron's class, and how a text is drawn as one neuron read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.thresholds import DEFAULTS
from nfinspect_store.types import ABSENT

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.neuron import ExampleText
    from nfinspect.analysis.neurons import NeuronRow


def why(row: NeuronRow, glyphs: Glyphs, thresholds: HealthOptions | None = None) -> str:
    """Why the neuron has its class, in the terms of methods §2 and with its own figures. thresholds: None for the
    defaults.
    """
    chosen = thresholds or DEFAULTS
    absolute = chosen.threshold_scale == "absolute"
    share = percent(row.dormancy, glyphs) if (row.dormancy or 0) < 1 else f"{number(row.dormancy, glyphs, 3)} times"
    of = "" if (row.dormancy or 0) >= 1 else " of"
    relative = f"{share}{of} its layer's"
    mean = number(row.mean_abs, glyphs) if absolute else relative
    tokens = f"{count(row.n, glyphs)} tokens"
    if row.cls == ABSENT:
        return "no token was routed to its expert"
    if row.cls == "dead":
        bound = (
            f", alive on up to {percent(row.rate_upper95, glyphs)} of others (95 % bound)" if row.rate_upper95 else ""
        )
        if not row.mean_abs:
            return f"0 on all {tokens}{bound}"
        of_layer = "" if absolute else " of its layer's mean |a|"
        peak = number(max(abs(row.min or 0.0), abs(row.max or 0.0)), glyphs)
        return f"|a| at most {peak} on all {tokens}, {_below(chosen.threshold_missing, absolute)}{of_layer}{bound}"
    if row.cls == "saturated":
        return f"stuck: std {number(row.std, glyphs)} at a mean of {number(row.mean, glyphs)} over {tokens}"
    if row.cls == "sporadic":
        reached = f"reaches {number(row.max, glyphs)}"
        return f"rare and strong: {reached}, yet at or above its layer's mean |a| on under 1% of {tokens}"
    if row.cls == "missing":
        return f"its mean |a| is {mean}, {_below(chosen.threshold_missing, absolute)}"
    if row.cls == "weak":
        return f"its mean |a| is {mean}, {_below(chosen.threshold_weak, absolute)}"
    return f"its mean |a| is {relative}"


def _below(threshold: float, absolute: bool) -> str:
    return f"below {threshold:g}" if absolute else f"below {100 * threshold:g}%"


def strength_tone(value: float | None, strongest: float) -> str:
    """How strongly a token sets the neuron off, in four steps of the strongest on screen."""
    if value is None or strongest <= 0:
        return ""
    share = abs(value) / strongest
    return (
        ""
        if share < 0.1
        else "heat1"
        if share < 0.25
        else "heat2"
        if share < 0.5
        else "heat3"
        if share < 0.8
        else "heat4"
    )


def example_cell(example: ExampleText, width: int, strongest: float, glyphs: Glyphs) -> Cell:
    """The example's text in `width` cells with its token in brackets; a text that is too long is cut around it."""
    pieces = [visible_in(piece, glyphs) for piece in example.pieces()]
    at = example.at
    if example.window[0].position > 0:  # the window begins after the prompt's beginning
        pieces[0] = glyphs.more + pieces[0]
    pieces[at] = glyphs.opening + pieces[at] + glyphs.closing
    first, last = _around([cell_len(piece) for piece in pieces], at, width - 2)
    text = glyphs.more if first > 0 else ""
    spans: list[tuple[int, int, str]] = []
    for place in range(first, last + 1):
        start = len(text)
        text += pieces[place]
        if place == at:
            spans.append((start, len(text), "hit"))
        elif tone := strength_tone(example.window[place].value, strongest):
            spans.append((start, len(text), tone))
    if last < len(pieces) - 1:
        text += glyphs.more
    return Cell(text, "", tuple(spans))


def _around(widths: Sequence[int], at: int, room: int) -> tuple[int, int]:
    """The longest range of tokens around `at` that fits: two before it for every one after, as text is read forward."""
    first = last = at
    left = room - widths[at]
    while True:
        before = widths[first - 1] if first > 0 else None
        after = widths[last + 1] if last < len(widths) - 1 else None
        take_before = before is not None and (after is None or (at - first) <= 2 * (last - at))
        if take_before and before is not None and before <= left:
            first, left = first - 1, left - before
        elif after is not None and after <= left:
            last, left = last + 1, left - after
        elif before is not None and before <= left:
            first, left = first - 1, left - before
        else:
            return first, last
