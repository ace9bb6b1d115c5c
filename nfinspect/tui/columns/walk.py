"""The columns of the token walk's tables: strongest neurons at a token, and what layers would answer after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nfinspect.present.numbers import number, percent, quoted
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.walk_text import own_percentile
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.token_neurons import TokenNeuron


def token_columns(rank: str, g: Glyphs) -> list[Column]:
    """The measure that neurons are ranked by comes first."""

    def address(row: TokenNeuron, width: int) -> Cell:
        return Cell(f"L{row.layer}/N{row.neuron}")  # plain: all rows change with each token, and each tone costs bytes

    def z(row: TokenNeuron, width: int) -> Cell:
        return Cell(number(row.z, g, 3, room=width), "heat4" if abs(row.z or 0.0) >= 5 else "")

    def far(row: TokenNeuron, width: int) -> Cell:
        return Cell(own_percentile(row.percentile, g))

    measures = {
        "value": Column("value", 8, lambda row, width: Cell(number(row.value, g, room=width)), "right"),
        "z": Column("z", 6, z, "right"),
        "percentile": Column("own p", 6, far, "right"),
        "contribution": Column("|a|*|w|", 8, lambda r, w: Cell(number(r.contribution, g, room=w)), "right"),
    }
    first = measures.pop(rank)
    return [Column("neuron", 11, address), first, *measures.values()]


def lens_columns(place: int, g: Glyphs) -> list[Column]:
    """Rows are layers of a lens' document."""

    def token(row: Mapping[str, Any], width: int) -> Cell:
        return Cell(quoted(row["positions"][place]["token"], g))

    def share(row: Mapping[str, Any], width: int) -> Cell:
        found = row["positions"][place]["probability"]
        return Cell(percent(found, g), "bold" if found >= 0.5 else "")

    return [
        Column("layer", 5, lambda row, width: Cell(f"L{row['layer']}", "bold")),
        Column("would answer", 14, token, flex=True),
        Column("probab.", 7, share, "right"),
    ]
