"""Positional neurons: a point for each, and the share of them in several runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nfinspect.analyses.analysis_spec import Field
from nfinspect.analyses.fields import neuron_columns, numbers, total
from nfinspect.analysis.depth import depths
from nfinspect.analysis.positions import POSITIONAL, PositionAnalysis
from nfinspect.analysis.profiles import TYPES, Type
from nfinspect.present import style
from nfinspect.present.charts import RUN_COLUMNS, Chart, Table, percent, sentences
from nfinspect.present.drawn import draw_points, over_depth
from nfinspect.present.numbers import counted, number
from nfinspect.present.plots import Series, across, sizes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNS: Mapping[Type, str] = {"oscillatory": "o", "both extremes": "b", "one extreme": "e", "other": "t"}
"""The types' letters in the scatter; capitals are strong neurons."""


def series_of(found: PositionAnalysis) -> tuple[Series, ...]:
    """The points of the scatter, by type and strength."""
    sizes, every = sizes_of(found.layers), []
    for kind, name in enumerate(TYPES):
        for strength in ("strong", "weak"):
            rows = [row for row in found.neurons if (row.type, row.strength) == (name, strength)]
            if rows:
                strong = strength == "strong"
                every.append(
                    Series(
                        f"{name}, {strength}",
                        SIGNS[name].upper() if strong else SIGNS[name],
                        kind,
                        strong,
                        tuple(across(row.layer, row.neuron, sizes) for row in rows),
                        tuple(row.mutual_information for row in rows),
                    )
                )
    return tuple(every)


def position_chart(found: PositionAnalysis, fields: Sequence[Field], of_layers: Sequence[Field]) -> Chart:
    """A point for each positional neuron. fields, of_layers: the columns of its tables of neurons and layers."""
    neurons = total(found.layers)
    strong = sum(row.strength == "strong" for row in found.neurons)
    result = (
        f"{counted(len(found.neurons), 'neuron')} of {neurons:,} positional, {strong:,} of them strong: "
        + ", ".join(f"{sum(row.type == name for row in found.neurons):,} {name}" for name in TYPES)
        + f". The highest is L{found.neurons[0].layer}/N{found.neurons[0].neuron} with "
        f"{number(found.neurons[0].mutual_information, digits=3)} nats."
        if found.neurons
        else f"No neuron passed the test: of {neurons:,} none has more than {POSITIONAL} nats."
        if not any(layer.would_pass for layer in found.layers)
        else "No neuron is listed: too few sequences were read to tell one from chance."
    )
    return Chart(
        name="positional-neurons",
        title=f"Positional neurons at {found.site}",
        n=f"n = {counted(neurons, 'neuron')}, {counted(found.sequences, 'sequence')} of "
        f"{counted(found.length, 'token')}",
        text=(
            "Every positional neuron by its layer and by the mutual information, in nats, between its firing and the "
            f"position of the token. A neuron is positional above {POSITIONAL} nats (Voita et al. 2023), the dotted "
            "line. Within its layer a point is farther to the right the higher the neuron's number.",
            "The marker is the type, the shape of the firing rate over the positions: oscillatory (crosses one half "
            "three times or more), both extremes (almost always off for 32 positions in a row, and almost always on), "
            "one extreme, other. A filled marker is a strong neuron, whose rate reaches 0.001 or 0.999.",
        ),
        findings=(result, *sentences(*found.notes)),
        tables={
            "positional-neurons": Table.of_fields(neuron_columns(fields), found.neurons),
            "positional-neurons-layers": Table.of_fields(of_layers, found.layers),
        },
        draw=lambda figure, chart: _draw(figure, found),
        facts={"site": found.site, "length": found.length, "sequences": found.sequences, "threshold": POSITIONAL},
    )


def _draw(figure: "Figure", found: PositionAnalysis) -> None:
    axes = figure.subplots()
    draw_points(axes, numbers(found.layers), series_of(found))
    style.threshold(axes, POSITIONAL, f"positional above {POSITIONAL} nats")
    axes.set_ylabel("mutual information (nats)")
    axes.set_ylim(0, max(2 * POSITIONAL, axes.get_ylim()[1] if found.neurons else 0))
    if not found.neurons:
        axes.text(0.5, 0.75, "no neuron is listed", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=8)


def position_overlay(runs: Mapping[str, PositionAnalysis]) -> Chart:
    """The share of positional neurons of several runs."""
    rows = [
        (name, x.layer, depth, x.neurons, x.positional, percent(x.positional, x.neurons), x.strong)
        for name, found in runs.items()
        for x, depth in zip(found.layers, depths(found.layers), strict=True)
    ]
    columns = {
        "neurons": "neurons of the layer",
        "positional": "neurons listed as positional",
        "positional_percent": "% of the layer's neurons",
        "strong": "those of them that are strong",
    }
    findings = []
    for name, found in runs.items():
        neurons = total(found.layers)
        findings.append(
            f"{name}: {counted(len(found.neurons), 'positional neuron')} of {neurons:,}."
            if found.neurons
            else f"{name}: no neuron of {neurons:,} is listed as positional."
        )
        findings += sentences(*found.notes, of=name)
    return Chart(
        name="compared-positional",
        title="Positional neurons by depth",
        n="n = "
        + "; ".join(
            f"{name} {counted(total(found.layers), 'neuron')}, "
            f"{counted(found.sequences, 'sequence')} of {counted(found.length, 'token')}"
            for name, found in runs.items()
        ),
        text=(
            "The share of each layer's neurons (%) whose firing tells more than "
            f"{POSITIONAL} nats of the position of the token, over the depth of the network.",
        ),
        findings=tuple(findings),
        tables={"compared-positional": Table.of({**RUN_COLUMNS, **columns}, rows)},
        draw=over_depth("positional_percent", "positional neurons (% of the layer)"),
    )
