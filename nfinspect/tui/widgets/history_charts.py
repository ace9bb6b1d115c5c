"""The history of a training as charts: score and dead share, and the activation rate by layer, over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import set_cell_size

from nfinspect.text import visible
from nfinspect.tui.widgets.line_chart import Line, line_chart

if TYPE_CHECKING:
    from nfinspect.analysis.history import History

MOST_LINES = 5
"""Lines in one chart: with more of them none can be followed."""

TALL = 20
"""Lines from which on one chart stands over the other; with fewer they stand side by side, if there is the width."""

WIDE = 70
RATES = "activation rate"


def history_charts(
    history: History, width: int, height: int, *, plain: bool = False, here: int | None = None
) -> tuple[str, ...]:
    """Two charts in `height` lines of at most `width` cells; here: a step that is marked. Needs a reading."""
    # Twice as many points as cells are enough: a long training has thousands of readings.
    readings = [history.readings[i] for i in thinned(len(history.readings), 2 * width)]
    steps = [reading.step for reading in readings]
    network = [
        Line("score", "o", tuple(reading.health_score for reading in readings)),
        Line("dead share", "x", tuple(reading.dead_share for reading in readings)),
    ]
    rates = [{layer.layer_name: layer.activation_rate for layer in reading.layers} for reading in readings]
    beside = height < TALL and width >= WIDE
    wide, high = ((width - 2) // 2, height) if beside else (width, height // 2)
    chosen = thinned(len(history.layers), MOST_LINES)
    room = max(3, (wide - len(RATES) - 1) // max(1, len(chosen)) - 4)
    layers = [
        # Of a name its end, which tells layers apart.
        Line(visible(history.layers[i], ascii_only=plain)[-room:], str(i % 10), _rates(rates, history.layers[i]))
        for i in chosen
    ]
    one = line_chart(steps, network, "network", wide, high, plain=plain, here=here)
    other = line_chart(steps, layers, RATES, wide, height if beside else height - high, plain=plain, here=here)
    if not beside:
        return (*one, *other)
    return tuple(f"{set_cell_size(left, wide)}  {right}" for left, right in zip(one, other, strict=True))


def _rates(rates: Sequence[Mapping[str, float | None]], name: str) -> tuple[float | None, ...]:
    return tuple(rate.get(name) for rate in rates)


def thinned(count: int, most: int) -> list[int]:
    """At most so many places of a list, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
