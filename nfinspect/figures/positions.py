"""Positional neurons: how much each tells of the position, layer by layer."""

from typing import TYPE_CHECKING

from nfinspect.analysis.positions import POSITIONAL, PositionAnalysis
from nfinspect.analysis.profiles import TYPES
from nfinspect.figures import style
from nfinspect.figures.charts import Chart, Table, count, sentences

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def position_chart(found: PositionAnalysis) -> Chart:
    """A point for each positional neuron."""
    sizes = {layer.layer: layer.neurons for layer in found.layers}
    neurons = sum(sizes.values())
    table = Table.of(
        {
            "layer": "layer, from 0",
            "neuron": "neuron, from 0",
            "mutual_information": "between firing and position, in nats, less the plug-in bias",
            "type": "shape of the firing rate over the positions",
            "strength": "strong: the rate reaches 0.001 or 0.999 at a position; else weak",
            "firing_rate": "over all positions, 0-1",
        },
        [
            (row.layer, row.neuron, row.mutual_information, row.type, row.strength, row.firing_rate)
            for row in found.neurons
        ],
    )
    layers = Table.of(
        {
            "layer": "layer, from 0",
            "neurons": "neurons of the layer",
            "would_pass": "of them above the threshold, which may be chance where too few sequences were read",
            "positional": "of these",
            "strong": "of these",
        },
        [(layer.layer, layer.neurons, layer.would_pass, layer.positional, layer.strong) for layer in found.layers],
    )
    strong = sum(row.strength == "strong" for row in found.neurons)
    result = (
        f"{count(len(found.neurons), 'neuron')} of {neurons:,} positional, {strong} of them strong: "
        + ", ".join(f"{sum(row.type == name for row in found.neurons)} {name}" for name in TYPES)
        + f". The highest is L{found.neurons[0].layer}/N{found.neurons[0].neuron} with "
        f"{found.neurons[0].mutual_information:.3g} nats."
        if found.neurons
        else f"No neuron passed the test: of {neurons:,} none has more than {POSITIONAL} nats."
        if not any(layer.would_pass for layer in found.layers)
        else "No neuron is listed: too few sequences were read to tell one from chance."
    )
    return Chart(
        name="positional-neurons",
        title=f"Positional neurons at {found.site}",
        n=f"n = {count(neurons, 'neuron')}, {count(found.sequences, 'sequence')} of {count(found.length, 'token')}",
        text=(
            "Every positional neuron by its layer and by the mutual information, in nats, between its firing and the "
            f"position of the token. A neuron is positional above {POSITIONAL} nats (Voita et al. 2023), the dotted "
            "line. Within its layer a point stands farther to the right the higher the neuron's number.",
            "The marker is the type, the shape of the firing rate over the positions: oscillatory (crosses one half "
            "three times or more), both extremes (almost always off for 32 positions in a row, and almost always on), "
            "one extreme, other. A filled marker is a strong neuron, whose rate reaches 0.001 or 0.999.",
        ),
        findings=(result, *sentences(*found.notes)),
        tables={"positional-neurons": table, "positional-neurons-layers": layers},
        draw=_draw,
        facts={"site": found.site, "length": found.length, "sequences": found.sequences, "threshold": POSITIONAL},
    )


def _draw(figure: "Figure", chart: Chart) -> None:
    axes = figure.subplots()
    sizes = dict(zip(*(chart.tables["positional-neurons-layers"].column(x) for x in ("layer", "neurons")), strict=True))
    for i, name in enumerate(TYPES):
        of_type = chart.table.where("type", name)
        for strength in ("strong", "weak"):
            table = of_type.where("strength", strength)
            across = [
                layer + 0.8 * ((neuron + 0.5) / sizes[layer] - 0.5)
                for layer, neuron in zip(table.column("layer"), table.column("neuron"), strict=True)
            ]
            if across:
                look = style.points(i, filled=strength == "strong")
                axes.scatter(across, table.column("mutual_information"), s=34, label=f"{name}, {strength}", **look)
    style.threshold(axes, POSITIONAL, f"positional above {POSITIONAL} nats")
    style.layer_axis(axes, list(sizes))
    axes.set_ylabel("mutual information (nats)")
    axes.set_ylim(0, max(2 * POSITIONAL, axes.get_ylim()[1] if chart.table.rows else 0))
    if not chart.table.rows:
        axes.text(0.5, 0.75, "no neuron is listed", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=8)
