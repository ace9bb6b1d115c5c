"""The columns of a list of neurons: those of the table `neurons`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column
from nfinspect_store.marks import MARKED

if TYPE_CHECKING:
    from collections.abc import Collection

    from nfinspect.analysis.neurons import NeuronRow
    from nfinspect.tui.marks import MarkKeeper
    from nfinspect.tui.session import Session

CLASS_TONES = {
    "dead": "bad",
    "saturated": "bad",
    "sporadic": "warn",
    "missing": "warn",
    "weak": "dim",
    "normal": "",
}


NOTE_CELLS = 24
"""The most cells of the column of tags and notes."""


def said_of(tags: Collection[str], note: str) -> str:
    """Tags and note of a neuron in one line."""
    return "  ".join(filter(None, (" ".join(f"#{tag}" for tag in tags), note)))


def note_column(
    marks: MarkKeeper,
    session: Session,
    site: str,
    neurons: Collection[tuple[int, int]] | None,
    g: Glyphs,
    *,
    without: str = "",
) -> Column | None:
    """What is noted of neurons of a site, and their tags, but one; None if there is nothing of any of them.

    neurons: None for all of the site; their rows then have layer and neuron.
    """
    of = marks.owner(session)
    notes = marks.shown.notes.get(of, {}).get(site, {})
    sets = [name for name in marks.names(session) if name not in (MARKED, without)]
    tagged = {neuron for name in sets for neuron in marks.members(session, site, name)}
    told = {n for n in (*notes, *tagged) if neurons is None or n in neurons}
    if not told:
        return None

    def text(neuron: tuple[int, int]) -> str:
        tags = [tag for tag in marks.shown.tags(of, site, neuron) if tag != without] if neuron in tagged else []
        return visible_in(said_of(tags, notes[neuron].text if neuron in notes else ""), g)

    def cell(row: NeuronRow | tuple[int, int], width: int) -> Cell:
        return Cell(text(row if isinstance(row, tuple) else (row.layer, row.neuron)), "accent")

    return Column("notes", min(NOTE_CELLS, max(len("notes"), *(cell_len(text(n)) for n in told))), cell)


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
