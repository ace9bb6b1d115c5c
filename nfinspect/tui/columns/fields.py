"""The columns of the fields that an analysis' spec tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.analyses import neuron_column
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analyses.spec import Field


MOST = 1000
"""Characters of a text that are made visible: a terminal's line holds fewer."""


def field_column(field: Field, g: Glyphs) -> Column:
    """A field as a column of the app. Neurons stand by layer and neuron."""
    if field.form == "neuron":
        return neuron_column()
    align = "left" if field.form in ("text", "yes") else "right"
    key = "" if field.flex else field.key  # a text of any length is nothing to sort by
    return Column(field.title, field.width, lambda row, width: _cell(field, row, g), align, field.flex, key)


def _cell(field: Field, row: Any, g: Glyphs) -> Cell:
    value = field.of(row)
    if field.form == "number":
        return Cell(number(value, g, field.digits, field.width), field.tone)
    if field.form == "percent":
        return Cell(percent(value, g), field.tone)
    if field.form in ("count", "layer"):
        return Cell(count(value, g), field.tone)
    if field.form == "yes":
        return Cell("yes" if value else "", field.tone or "accent")
    return Cell(value[:MOST], field.tone)
