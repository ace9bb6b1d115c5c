"""The columns of a list of neurons: those of the table `neurons`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.neurons import NeuronRow

CLASS_TONES = {
    "dead": "bad",
    "saturated": "bad",
    "sporadic": "warn",
    "missing": "warn",
    "weak": "dim",
    "normal": "",
}


def neuron_columns(g: Glyphs) -> list[Column]:
    """The columns of the table `neurons`. The first eight fit in 80 cells."""

    def figure(title: str, name: str, width: int = 8) -> Column:
        return Column(title, width, lambda r, w: Cell(number(getattr(r, name), g, room=w)), "right", key=name)

    def address(row: NeuronRow, width: int) -> Cell:
        return Cell(f"L{row.layer}/N{row.neuron}", "bold")

    return [
        Column("neuron", 11, address, key="layer"),
        Column("class", 9, lambda r, w: Cell(r.cls, CLASS_TONES.get(r.cls, "")), key="class"),
        Column("fires", 6, lambda r, w: Cell(percent(r.firing_rate, g)), "right", key="firing_rate"),
        figure("max", "max"),
        figure("min", "min"),
        figure("mean", "mean"),
        figure("std", "std"),
        figure("dormancy", "dormancy", 9),
        figure("mean|a|", "mean_abs"),
        figure("skew", "skewness"),
        figure("kurtosis", "excess_kurtosis", 9),
        Column("tokens", 7, lambda r, w: Cell(count(r.n, g)), "right", key="n"),
        Column("rate95", 6, lambda r, w: Cell(percent(r.rate_upper95, g)), "right", key="rate_upper95"),
    ]
