"""The columns of a neuron's two tables: what each concept does to it, and the text that sets it off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs, bar
from nfinspect.tui.neuron_text import example_cell
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.neuron import ConceptMean, ExampleText


def concept_columns(concepts: Callable[[], Sequence[ConceptMean]], g: Glyphs) -> list[Column]:
    """One row a concept, with a bar for its mean relative to the strongest one's."""

    def strongest() -> float:
        means = [abs(c.mean) for c in concepts() if c.mean is not None]
        return max(means, default=0.0)

    def bars(row: ConceptMean, width: int) -> Cell:
        if row.mean is None or not strongest():
            return Cell("", "dim")
        return Cell(bar(abs(row.mean) / strongest(), width, g), "heat3" if row.mean >= 0 else "dim")

    return [
        Column("concept", 10, lambda r, w: Cell(r.concept), flex=False),
        Column("mean", 8, lambda r, w: Cell(number(r.mean, g, room=w)), "right"),
        Column("", 6, bars, flex=True),
        Column("fires", 6, lambda r, w: Cell(percent(r.firing_rate, g)), "right"),
        Column("max", 8, lambda r, w: Cell(number(r.max, g, room=w)), "right"),
        Column("prompts", 7, lambda r, w: Cell(count(r.prompts, g)), "right"),
    ]


def example_columns(
    strongest: Callable[[], float],
    g: Glyphs,
    *,
    title: str = "",
    signs: Callable[[ExampleText], str] | None = None,
) -> list[Column]:
    """One row an example, with as much of its text as fits around its token. title: which examples they are; signs:
    those of gate and up at an example, None where they are not known.
    """

    def text(row: tuple[str, ExampleText], width: int) -> Cell:
        return example_cell(row[1], width, strongest(), g)

    def gates(row: tuple[str, ExampleText], width: int) -> Cell:
        return Cell(signs(row[1]) if signs is not None else "", "dim")

    return [
        Column("kind", 6, lambda r, w: Cell(r[0], "dim")),
        Column("value", 8, lambda r, w: Cell(number(r[1].value, g, room=w), "bold"), "right"),
        *((Column("gu", 2, gates),) if signs is not None else ()),
        Column("concept", 9, lambda r, w: Cell(r[1].concept, "dim")),
        Column(f"{title}: token in brackets" if title else "token in brackets", 20, text, flex=True),
    ]
