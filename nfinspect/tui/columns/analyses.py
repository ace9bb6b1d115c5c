"""The columns of the tables that the analyses are shown in; all of them fit in 80 cells."""

from __future__ import annotations

from typing import Any

from nfinspect.present.numbers import count, fixed, number, signed
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column


def neuron_column() -> Column:
    return Column("neuron", 11, lambda r, w: Cell(f"L{r.layer}/N{r.neuron}", "bold"), key="layer")


def figure(title: str, name: str, width: int, g: Glyphs, digits: int = 3, tone: str = "") -> Column:
    """A column of the row's attribute `name`, which is also its key."""
    return Column(title, width, lambda r, w: Cell(number(getattr(r, name), g, digits, w), tone), "right", key=name)


def kind_columns(g: Glyphs) -> list[Column]:
    """Rows are pairs of kinds of neurons."""

    def whole(title: str, name: str, width: int) -> Column:
        return Column(title, width, lambda r, w: Cell(f"{getattr(r, name):,}"), "right", key=name)

    return [
        Column("a", 10, lambda r, w: Cell(r.a, "bold"), key="a"),
        whole("of it", "neurons_a", 7),
        Column("b", 10, lambda r, w: Cell(r.b, "bold"), key="b"),
        whole("of it", "neurons_b", 7),
        Column("shared", 7, lambda r, w: Cell(f"{r.overlap:,}", "bold"), "right", key="overlap"),
        Column("jaccard", 8, lambda r, w: Cell(fixed(r.jaccard, g)), "right", key="jaccard"),
        figure("by chance", "expected", 10, g),
        figure("p", "p_value", 8, g, 2),
    ]


def ablation_columns(g: Glyphs) -> list[Column]:
    """Rows are the sets of the document."""

    def of(title: str, width: int, key: str, tone: str = "", digits: int = 3) -> Column:
        return Column(title, width, lambda r, w: Cell(number(set_value(r, key), g, digits, w), tone), "right", key=key)

    def interval(row: Any, width: int) -> Cell:
        low, high = row["ci95"]
        return Cell(g.none if low is None else f"{number(low, g, 3, 7)} to {number(high, g, 3, 7)}")

    return [
        Column("set", 10, lambda r, w: Cell(r["name"], "bold"), flex=True, key="name"),
        Column("neurons", 8, lambda r, w: Cell(count(r["neurons"], g)), "right", key="neurons"),
        of("perpl.", 7, "perplexity", digits=5),
        of("dNLL", 7, "delta_nll", "bold"),
        Column("95 % interval", 18, interval),
        of("controls", 8, "controls"),
        Column("z", 6, lambda r, w: Cell(fixed(set_value(r, "z"), g, 1)), "right", key="z"),
        of("p", 6, "p", digits=2),
    ]


def set_value(row: Any, key: str) -> Any:
    """What stands in a column of a set's row."""
    of_controls = {"controls": "mean_delta_nll", "z": "z", "p": "p_value"}
    return row["control"][of_controls[key]] if key in of_controls else row[key]


def logit_columns(g: Glyphs) -> list[Column]:
    """Rows are pairs of tokens of the document, promoted and suppressed, as far as there are."""

    def token(row: Any, place: int) -> Cell:
        if row[place] is None:
            return Cell("")
        text = row[place]["token"]
        return Cell(g.none if text is None else f'"{text}"', "bold")

    def effect(row: Any, place: int) -> Cell:
        return Cell("" if row[place] is None else signed(row[place]["effect"], digits=5))

    return [
        Column("promoted", 16, lambda r, w: token(r, 0), flex=True),
        Column("effect", 10, lambda r, w: effect(r, 0), "right"),
        Column("suppressed", 16, lambda r, w: token(r, 1), flex=True),
        Column("effect", 10, lambda r, w: effect(r, 1), "right"),
    ]
