"""Columns from the fields of an analysis' spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from nfinspect.tui.cells import Cell, fit, visible_in
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import Field

MOST = 1000
"""Characters of a text that are made visible: a terminal's line holds fewer."""

TONES = {"neuron": "bold", "layer": "bold", "yes": "accent"}


def field_column(field: Field, g: Glyphs) -> Column:
    """A field as a column of the app. Neurons are sorted by layer and neuron."""
    align = "left" if field.aligned_left or field.form == "layer" else "right"
    key = "layer" if field.form == "neuron" else field.key if field.sorts else ""
    return Column(field.title, field.width, lambda row, width: _cell(field, row, g), align, field.flex, key)


def _cell(field: Field, row: Any, g: Glyphs) -> Cell:
    text, tone = field.written(row, g, field.width)[:MOST], field.tone or TONES.get(field.form, "")
    if field.form == "tokens" and not field.flex:  # a single token: its probability is shown whole, the token cut
        name, _, share = text.rpartition(" ")
        if cell_len(visible_in(text, g)) > field.width:
            text = f"{fit(name, field.width - len(share) - 1, g)} {share}"
        tone = "bold" if any(token["probability"] >= 0.5 for token in field.of(row)) else tone
    return Cell(text, tone)
