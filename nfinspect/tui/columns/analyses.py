"""The columns of the tables that the analyses are shown in; all of them fit in 80 cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfinspect.tui import cells
from nfinspect.tui.cells import Cell, foreign, number, percent
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.ngrams import Detector


def neuron_column() -> Column:
    return Column("neuron", 11, lambda r, w: Cell(foreign(f"L{r.layer}/N{r.neuron}"), "bold"))


def figure(title: str, name: str, width: int, g: Glyphs, digits: int = 3, tone: str = "") -> Column:
    """A column of the row's attribute `name`."""
    return Column(title, width, lambda r, w: Cell(number(getattr(r, name), g, digits), tone), "right")


def ngram_columns(g: Glyphs) -> list[Column]:
    def words(row: Detector, width: int) -> Cell:
        # a detector may cover hundreds of n-grams: no more than can be seen are made visible
        shown = [f'"{foreign("".join(ngram.tokens), g)}"' for ngram in row.ngrams[: max(1, width // 3)]]
        return Cell(" ".join(shown))

    return [
        neuron_column(),
        Column("k", 3, lambda r, w: Cell(str(r.k), "bold"), "right"),
        Column("covers", 6, lambda r, w: Cell(percent(r.coverage, g)), "right"),
        Column("fired", 6, lambda r, w: Cell(cells.count(r.activations, g)), "right"),
        figure("suppr.", "suppression", 7, g),
        Column("n-grams", 20, words, flex=True),
    ]


def position_columns(g: Glyphs) -> list[Column]:
    return [
        neuron_column(),
        figure("MI nats", "mutual_information", 8, g, 4, "bold"),
        Column("type", 13, lambda r, w: Cell(foreign(r.type, g))),
        Column("strength", 8, lambda r, w: Cell(foreign(r.strength, g), "bold" if r.strength == "strong" else "")),
        Column("fires", 6, lambda r, w: Cell(percent(r.firing_rate, g)), "right"),
    ]


def delta_columns(sort: str, lags: tuple[int, ...], g: Glyphs) -> list[Column]:
    """lags: of the substitution, where its result is kept too."""

    def at_lag(place: int) -> Column:
        return Column(
            f"lag {lags[place]}", 7, lambda r, w: Cell(number(r.substitution_sensitivity[place], g, 3)), "right"
        )

    return [
        neuron_column(),
        figure("step", "step_sensitivity", 7, g, 3, "bold" if sort == "step_sensitivity" else ""),
        figure("ratio", "von_neumann_ratio", 7, g, 3, "bold" if sort == "von_neumann_ratio" else ""),
        Column("delta-sensitive", 15, lambda r, w: Cell("yes" if r.delta_sensitive else "", "accent")),
        *map(at_lag, range(len(lags))),
    ]


def attention_columns(g: Glyphs) -> list[Column]:
    return [
        neuron_column(),
        Column("#", 6, lambda r, w: Cell(f"{r.rank:,}", "dim"), "right"),
        figure("score", "score", 9, g, 4, "bold"),
        figure("mean", "mean_activation", 9, g),
        figure("at pos. 0", "first_activation", 9, g),
        figure("score at 0", "first_score", 10, g),
    ]


def ablation_columns(g: Glyphs) -> list[Column]:
    """Rows are the sets of the document."""

    def of(title: str, width: int, value: Any, tone: str = "") -> Column:
        return Column(title, width, lambda r, w: Cell(number(value(r), g, 3), tone), "right")

    def interval(row: Any, width: int) -> Cell:
        low, high = row["ci95"]
        return Cell(g.none if low is None else f"{number(low, g, 3)} to {number(high, g, 3)}")

    return [
        Column("set", 10, lambda r, w: Cell(foreign(r["name"], g), "bold"), flex=True),
        Column("neurons", 7, lambda r, w: Cell(cells.count(r["neurons"], g)), "right"),
        of("perpl.", 7, lambda r: r["perplexity"]),
        of("dNLL", 7, lambda r: r["delta_nll"], "bold"),
        Column("95 % interval", 16, interval),
        of("controls", 8, lambda r: r["control"]["mean_delta_nll"]),
        of("z", 6, lambda r: r["control"]["z"]),
        of("p", 6, lambda r: r["control"]["p_value"]),
    ]


def logit_columns(g: Glyphs) -> list[Column]:
    """Rows are pairs of tokens of the document, promoted and suppressed, as far as there are."""

    def token(row: Any, place: int) -> Cell:
        if row[place] is None:
            return Cell("")
        text = row[place]["token"]
        return Cell(g.none if text is None else f'"{foreign(text, g)}"', "bold")

    def effect(row: Any, place: int) -> Cell:
        return Cell("" if row[place] is None else f"{row[place]['effect']:+.4f}")

    return [
        Column("promoted", 16, lambda r, w: token(r, 0), flex=True),
        Column("effect", 9, lambda r, w: effect(r, 0), "right"),
        Column("suppressed", 16, lambda r, w: token(r, 1), flex=True),
        Column("effect", 9, lambda r, w: effect(r, 1), "right"),
    ]
