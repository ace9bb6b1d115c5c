"""The columns of the table of layers, and a layer's score in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from nfinspect.present.numbers import count, fixed, grouped, number, percent
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from nfinspect.analysis.health import LayerHealth, NetworkReport
    from nfinspect.analysis.router import RouterLoad

WEIGHTS = {"dead": "1", "saturated": "0.75", "sporadic": "0.25", "missing": "0.5", "weak": "0.25"}


def tone_of(score: float) -> str:
    return "good" if score >= 0.8 else "warn" if score >= 0.4 else "bad"


def layer_columns(g: Glyphs) -> list[Column]:
    """The table of layers; all of it fits in 80 cells."""

    def of_class(name: str, title: str) -> Column:
        def cell(layer: LayerHealth, width: int) -> Cell:
            held = layer.count(name)
            return Cell(
                count(held, g) if held else g.dot,
                "bad" if layer.has_issue(name) else "" if held else "dim",
            )

        return Column(title, 5, cell, "right")

    def issues(layer: LayerHealth, width: int) -> Cell:
        names = ", ".join(issue.split(":")[0] for issue in layer.issues)
        return Cell(names or "none", "bad" if names else "dim")

    return [
        Column("layer", 5, lambda r, w: Cell(f"L{r.layer}", "bold")),
        Column("score", 5, lambda r, w: Cell(fixed(r.health_score), tone_of(r.health_score)), "right"),
        Column(
            "pattern",
            9,
            lambda r, w: Cell(r.firing_pattern, "" if r.firing_pattern == "normal" else "warn"),
        ),
        Column("active", 6, lambda r, w: Cell(percent(r.activation_rate, g)), "right"),
        *(
            of_class(name, title)
            for name, title in (
                ("dead", "dead"),
                ("saturated", "satur"),
                ("sporadic", "spor."),
                ("missing", "miss."),
                ("weak", "weak"),
            )
        ),
        Column("neurons", 7, lambda r, w: Cell(count(r.neurons, g)), "right"),
        Column("issues", 9, issues, flex=True),
    ]


def router_line(router: RouterLoad, neurons: int, g: Glyphs) -> str:
    """How the tokens are spread over a layer's experts, and how many of its neurons each has."""
    entropy = "" if router.entropy is None else f"entropy {fixed(router.entropy)}, "
    unused = f", {router.unused} unused" if router.unused else ""
    load = f"load {percent(min(router.load), g)} to {percent(max(router.load), g)}"
    return f"router: {router.experts} experts of {count(neurons // router.experts, g)}, {entropy}{load}{unused}"


def explanation(report: NetworkReport, layer: LayerHealth, g: Glyphs) -> Content:
    """What a layer's score is made of, then the network's alerts and recommendations."""
    pieces: list[Cell | str] = [Cell(f"L{layer.layer} {layer.layer_name}", "title"), "\n"]
    terms = "".join(
        f" - {WEIGHTS[name]}x{percent(layer.share(name), g)} {name}" for name in CLASSES[:-1] if layer.count(name)
    )
    pieces += [f"score {fixed(layer.health_score)} = 1{terms or ', nothing lost'}\n"]
    for issue in layer.issues:
        pieces += [Cell("! " + grouped(issue), "bad"), "\n"]
    spread = layer.activation_distribution
    if spread is not None:
        pieces += [
            Cell(
                f"values: mean {number(spread.mean, g)}, std {number(spread.std, g)}, "
                f"min {number(spread.min, g)}, median {number(spread.percentiles.get('50'), g)}, "
                f"p95 {number(spread.percentiles.get('95'), g)}, "
                f"max {number(spread.max, g)}; layer scale {number(layer.scale, g)}"
                f"{', ' + layer.activation if layer.activation else ''}",
                "dim",
            ),
            "\n",
        ]
    if layer.router is not None:
        pieces += [Cell(router_line(layer.router, layer.neurons, g), "dim"), "\n"]
    pieces += ["\n", Cell("Network", "title"), "\n", Cell(grouped(report.summary)), "\n"]
    for alert in report.alerts:
        pieces += [Cell("! " + alert, "bad"), "\n"]
    for line in report.recommendations:
        pieces += [Cell(f"{g.crumb} {line}"), "\n"]
    p = report.parts
    pieces += [Cell(f"mean score of the first third {fixed(p.first_third)}, of the last {fixed(p.last_third)}", "dim")]
    return content(*pieces)
