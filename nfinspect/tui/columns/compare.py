"""The columns of a comparison of runs: rows are layers, by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from nfinspect.analyses.analysis_spec import Measure
from nfinspect.present.numbers import count, fixed, number, percent
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.comparing import LayerRow, Topic
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

LONGEST = 30
"""Cells of a run's name."""


def compare_columns(topic: Topic, runs: Sequence[str], g: Glyphs) -> list[Column]:
    """The columns that tell layers apart, then the topic's figures."""
    name = min(LONGEST, max(cell_len(visible_in(run, g)) for run in runs) + 2)
    return [
        Column("depth", 6, lambda r, w: Cell(fixed(r.depth, places=2), "dim"), "right", key="depth"),
        Column("run", name, lambda r, w: Cell(f"{r.sign} {r.run}", "bold"), key="run"),
        Column("layer", 6, lambda r, w: Cell(f"L{r.layer}", "bold"), key="layer"),
        Column("neurons", 8, lambda r, w: Cell(count(r.neurons, g)), "right", key="neurons"),
        *(_figure(measure, g) for measure in topic.measures),
    ]


def _figure(measure: Measure, g: Glyphs) -> Column:
    def cell(row: LayerRow, width: int) -> Cell:
        value = row.figures[measure.key]
        return Cell(number(value, g, 3, width) if value is None or measure.unit != "%" else percent(value / 100))

    return Column(measure.title, measure.width, cell, "right", key=measure.key)


def figure_of(row: LayerRow, key: str) -> Any:
    """The value in a column."""
    return row.figures[key] if key in row.figures else getattr(row, key)
