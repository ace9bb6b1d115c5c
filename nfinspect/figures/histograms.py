"""The activation histograms of a site, layer by layer."""

from typing import TYPE_CHECKING

import numpy as np

from nfinspect.analysis.numbers import number
from nfinspect.present.charts import Chart, Table
from nfinspect.present.numbers import counted, percent
from nfinspect_store.histogram import BINS, EDGES, MIDDLE
from nfinspect_store.tables import RunTables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 16
"""Layers that are drawn, at most: evenly spread from the first to the last. The data has all."""

MARKS = (-256.0, -16.0, -1.0, -(2.0**-4), -(2.0**-10), 2.0**-10, 2.0**-4, 1.0, 16.0, 256.0)
"""Values that the axis names."""


def histogram_chart(run: RunTables, site: str) -> Chart:
    """The values of each layer's neurons, every (token, neuron) pair counted alike."""
    layers = run.site_layers(site)
    rows = []
    for layer in layers:
        counts = run.histograms(site, layer.layer).sum(axis=0)
        total = int(counts.sum())
        rows += [
            (layer.layer, i, number(EDGES[i]), number(EDGES[i + 1]), int(held), held / total if total else None)
            for i, held in enumerate(counts)
        ]
    table = Table.of(
        {
            "layer": "layer, from 0",
            "bin": f"bin, from 0 to {BINS - 1}; {MIDDLE} holds |a| < 2^-14, zero among them",
            "low": "lower edge of the value a; empty: minus infinity",
            "high": "upper edge of the value a; empty: infinity",
            "count": "(token, neuron) pairs",
            "share": "of the layer's pairs, 0-1",
        },
        rows,
    )
    pairs = sum(table.column("count"))
    drawn = drawn_layers([layer.layer for layer in layers])
    only = f" {len(drawn)} of {len(layers)} layers are drawn, evenly spread." if len(drawn) < len(layers) else ""
    zero = sum(row[4] for row in table.rows if row[1] == MIDDLE)
    return Chart(
        name="activation-histograms",
        title=f"Activation values by layer at {site}",
        n=f"n = {counted(pairs, '(token, neuron) pair')} in {counted(len(layers), 'layer')}",
        text=(
            "How the values of the neurons are spread in each layer: the share of all (token, neuron) pairs in each "
            "bin, on a logarithmic scale. The bins are two an octave on either side of zero; the hatched bar in the "
            f"middle holds values smaller than 2⁻¹⁴ in size, zeros included.{only}",
        ),
        findings=(f"{percent(zero / pairs)} of the values are smaller than 2⁻¹⁴." if pairs else "There is no value.",),
        tables={"activation-histograms": table},
        draw=_draw,
        inches=(10.0, 1.1 + 2.0 * -(-len(drawn) // 4)),
        facts={"site": site, "drawn_layers": drawn},
    )


def drawn_layers(layers: list[int]) -> list[int]:
    """At most MOST_PANELS of them, including the first and the last."""
    if len(layers) <= MOST_PANELS:
        return layers
    places = np.linspace(0, len(layers) - 1, MOST_PANELS).round().astype(int)
    return [layers[i] for i in places]


def _draw(figure: "Figure", chart: Chart) -> None:
    drawn = chart.facts["drawn_layers"]
    columns = min(4, len(drawn))
    panels = figure.subplots(-(-len(drawn) // columns), columns, sharex=True, sharey=True, squeeze=False)
    by_layer = [chart.table.where("layer", layer) for layer in drawn]
    held = np.array([table.column("count") for table in by_layer]).sum(axis=0)
    used = np.flatnonzero(held) if held.any() else np.array([MIDDLE])
    lowest = min((share for table in by_layer for share in table.column("share") if share), default=1e-3)
    for axes, layer, table in zip(panels.flat, drawn, by_layer, strict=False):
        shares = np.array([share or 0.0 for share in table.column("share")])
        places = np.arange(BINS)
        outer = places != MIDDLE
        axes.bar(places[outer], shares[outer], width=1.0, facecolor="0.55", edgecolor="0.2", linewidth=0.3)
        axes.bar([MIDDLE], shares[MIDDLE], width=1.0, facecolor="white", edgecolor="black", hatch="////", linewidth=0.6)
        axes.set_yscale("log")
        axes.set_ylim(lowest / 2, 2)
        axes.set_xlim(used[0] - 1.5, used[-1] + 1.5)
        axes.set_title(f"layer {layer}", fontsize=9)
        _name_values(axes)
    for axes in list(panels.flat)[len(drawn) :]:
        axes.set_visible(False)
    figure.supxlabel("value of a neuron (signed, two bins an octave)", fontsize=9)
    figure.supylabel("share of (token, neuron) pairs", fontsize=9)


def _name_values(axes: "Axes") -> None:
    # A mark is at the edge of its bin that is nearer to zero.
    places = [int(np.searchsorted(EDGES, value)) - 0.5 for value in MARKS]
    low, high = axes.get_xlim()
    shown = [(place, value) for place, value in zip(places, MARKS, strict=True) if low <= place <= high]
    if low <= MIDDLE <= high:
        shown.append((MIDDLE, 0.0))
    axes.set_xticks([place for place, _ in shown], [_power(value) for _, value in shown], fontsize=7)


def _power(value: float) -> str:
    if value == 0:
        return "0"
    sign, power = "-" if value < 0 else "", int(np.log2(abs(value)))
    return f"{sign}1" if power == 0 else f"${sign}2^{{{power}}}$"
