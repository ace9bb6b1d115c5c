"""The lines above a neuron's histogram: its class and why, its figures, and what saved results say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui import thresholds
from nfinspect.tui.cells import Cell, fit, flowed
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.neuron_text import why

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.neuron import NeuronDetail

    Rows = list[list[Cell | str]]

NAMES = ("n-grams", "positions")
"""The saved results that say something of a neuron."""


def class_rows(
    address: str, detail: NeuronDetail, chosen: HealthOptions | None, *, marked: bool, noted: str, glyphs: Glyphs
) -> Rows:
    """The neuron's class with its reason; the thresholds that are not the default ones; what is noted of it."""
    row = detail.row
    near = ", near-dead" if row.near_dead and row.cls != "dead" else ""
    roughly = " (approximate)" if row.approximate else ""
    expert = "" if detail.expert is None else f" (expert {detail.expert})"
    rows: Rows = [
        [
            Cell(f"{address}{expert} {row.cls}", "good" if row.cls == "normal" else "warn"),
            f"{near}{roughly}: {why(row, glyphs, chosen)}",
            Cell(f" {glyphs.mark} marked" if marked else "", "accent"),
        ]
    ]
    if told := thresholds.told(chosen):
        rows.append([Cell(told, "warn")])
    if noted:
        rows.append([Cell(noted, "accent")])
    return rows


def figure_rows(detail: NeuronDetail, width: int, g: Glyphs) -> Rows:
    """Each figure with its name; they flow into as many lines as they need."""
    r = detail.row
    figures = (
        f"mean {number(r.mean, g)}",
        f"std {number(r.std, g)}",
        f"median {number(detail.median, g)}",
        f"min {number(r.min, g)}",
        f"max {number(r.max, g)}",
        f"mean|a| {number(r.mean_abs, g)}",
        f"fires {percent(r.firing_rate, g)} of {count(r.n, g)} tokens",
        f"dormancy {number(r.dormancy, g)}",
        f"skew {number(r.skewness, g)}",
        f"excess kurtosis {number(r.excess_kurtosis, g)}",
    )
    return flowed([[figure] for figure in figures], "  ", width)


def told_rows(told: tuple[str, str], *, lacks_signs: bool, width: int, g: Glyphs) -> Rows:
    """What saved results (NAMES) say, or that there is none. lacks_signs: a gated neuron's gates are not known."""
    lacking = [name for name, one in zip(NAMES, told, strict=True) if not one]
    words = [(one, "") for one in told if one]
    if lacking:
        words.append((f"{' and '.join(lacking)} not computed (a)", "dim"))
    if lacks_signs:
        words.append(("gate and up signs need every value (--keep all)", "dim"))
    whole = ((fit(one, width, g) if cell_len(one) > width else one, tone) for one, tone in words)
    return flowed([[Cell(one, tone)] for one, tone in whole], "; ", width)


def note_rows(detail: NeuronDetail, before: Rows, width: int, most: int, g: Glyphs) -> Rows:
    """Notes on the figures, cut where they and the rows before would take more than `most` lines; one at least."""
    taken = sum(-(-sum(cell_len(x if isinstance(x, str) else x.text) for x in row) // width) for row in before)
    notes = "; ".join(filter(None, (*detail.notes, detail.about_values)))
    if not notes:
        return []
    room = max(1, most - taken)
    room *= width - width // 8 if room > 1 else width  # lines are broken between words
    return [[Cell(fit(notes, room, g) if cell_len(notes) > room else notes, "warn")]]
