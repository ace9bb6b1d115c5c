"""Health and dead neurons by layer, and how the values are spread."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nfinspect.analysis.classes import FAULTS
from nfinspect.analysis.dead import DeadLayer
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.health import NetworkReport
from nfinspect.present import numbers, style
from nfinspect.present.charts import Chart, Table, percent, sentences
from nfinspect.present.numbers import counted, number
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def health_chart(report: NetworkReport, tokens: int) -> Chart:
    """Shares of the classes and the score of every layer."""
    layers = report.layer_analyses
    neurons = sum(layer.reached_neurons for layer in layers)
    table = Table.of(
        {
            "layer": "layer, from 0",
            "neurons": "neurons of the layer; of experts only those with a token",
            "activation_rate": "share of (token, neuron) pairs that fire, 0-1",
            **{name: f"neurons of class {name}" for name in CLASSES},
            "score": "layer score, 0-1",
            "problematic": "whether the layer has an issue",
        },
        [
            (
                layer.layer,
                layer.reached_neurons,
                layer.activation_rate,
                *(layer.count(name) for name in CLASSES),
                layer.health_score,
                layer.problematic,
            )
            for layer in layers
        ],
    )
    return Chart(
        name="health-by-layer",
        title=f"Health by layer at {report.site}",
        n=f"n = {counted(neurons, 'neuron')} in {counted(len(layers), 'layer')}, {counted(tokens, 'token')}",
        text=(
            "Left, the share of each layer's neurons (%) in every health class. A neuron has the first class that "
            "holds: dead (a ReLU neuron that is 0 on every token; with other activations, below 0.01 of the layer's "
            "mean |a| on every token), saturated (stuck at an extreme or at one value), sporadic (rare and strong), "
            "missing and weak (mean |a| below 0.01 and 0.1 of the layer's), normal.",
            "Right, the score of each layer, from 0 to 1: 1 less 1.0 × dead, 0.75 × saturated, 0.5 × missing, "
            "0.25 × weak and 0.25 × sporadic, as shares; and the activation rate, the share of (token, neuron) pairs "
            "that fire.",
        ),
        findings=sentences(*report.notes, numbers.grouped(report.summary), report.interpretation, *report.alerts),
        tables={"health-by-layer": table},
        draw=_draw_health,
        inches=(10.0, 4.5),
        facts={"score": report.overall_health_score, "site": report.site, "tokens": tokens, "neurons": neurons},
    )


def _draw_health(figure: "Figure", chart: Chart) -> None:
    table, (left, right) = chart.table, figure.subplots(1, 2)
    layers, neurons = table.column("layer"), np.array(table.column("neurons"))
    below = np.zeros(len(layers))
    for i, name in enumerate(CLASSES):
        shares = 100 * np.array(table.column(name)) / neurons
        look = style.bars(i) if name in FAULTS else style.PLAIN
        left.bar(layers, shares, bottom=below, label=name, **look)
        below += shares
    style.layer_axis(left, layers)
    left.set_ylabel("neurons (% of the layer)")
    left.set_ylim(0, 100)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8, handlelength=2.5)
    right.plot(layers, table.column("score"), label="layer score", **style.line(0))
    rates = [np.nan if rate is None else rate for rate in table.column("activation_rate")]
    right.plot(layers, rates, label="activation rate", **style.line(1))
    style.layer_axis(right, layers)
    right.set_ylabel("0 to 1")
    right.set_ylim(-0.03, 1.05)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8, handlelength=3.5)


def dead_chart(layers: Sequence[DeadLayer]) -> Chart:
    """Dead and near-dead neurons of every layer."""
    neurons, dead, near = (sum(getattr(x, name) for x in layers) for name in ("reached", "dead", "near_dead"))
    tokens, bound = layers[0].tokens, layers[0].rate_upper95
    table = Table.of(
        {
            "layer": "layer, from 0",
            "neurons": "neurons of the layer; of experts only those with a token",
            "dead": "neurons of class dead",
            "dead_percent": "% of the layer's neurons",
            "near_dead": "neurons that fired on fewer than 0.1 % of the tokens and are not dead",
            "near_dead_percent": "% of the layer's neurons",
            "rate_upper95": "95 % upper bound on the share of other tokens on which a dead neuron is alive, 3/n, 0-1",
        },
        [
            (
                x.layer,
                x.reached,
                x.dead,
                percent(x.dead, x.reached),
                x.near_dead,
                percent(x.near_dead, x.reached),
                x.rate_upper95,
            )
            for x in layers
        ],
    )
    found = (
        f"{counted(dead, 'neuron')} of {neurons:,} ({numbers.percent(dead / neurons)}) dead, "
        f"another {near:,} nearly so."
        if dead
        else f"No neuron of {neurons:,} is dead on these {tokens:,} tokens; {near:,} are nearly so."
    )
    absent = sum(x.absent for x in layers)
    if absent:
        found += f" Another {counted(absent, 'neuron')} of experts that no token was routed to are left out."
    return Chart(
        name="dead-by-layer",
        title=f"Dead neurons by layer at {layers[0].site}",
        n=f"n = {counted(neurons, 'neuron')} in {counted(len(layers), 'layer')}, {counted(tokens, 'token')}",
        text=(
            "The share of each layer's neurons (%) that are dead on this text, and above them those that are nearly "
            "dead: they fired on fewer than one token in a thousand.",
            "Dead on n tokens does not mean dead for ever: the 95 % upper bound on the share of other tokens on which "
            "such a neuron comes alive is 3/n" + (f" = {number(bound, digits=2)}." if bound is not None else "."),
        ),
        findings=(found, *sentences(few_tokens(tokens))),
        tables={"dead-by-layer": table},
        draw=_draw_dead,
        facts={"neurons": neurons, "dead": dead, "near_dead": near, "tokens": tokens},
    )


def _draw_dead(figure: "Figure", chart: Chart) -> None:
    table, axes = chart.table, figure.subplots()
    layers = table.column("layer")
    dead, near = (np.array(table.column(name), np.float64) for name in ("dead_percent", "near_dead_percent"))
    axes.bar(layers, dead, label="dead", **style.bars(0))
    axes.bar(layers, near, bottom=dead, label="near-dead (fires on < 0.1 % of the tokens)", **style.bars(1))
    style.layer_axis(axes, layers)
    axes.set_ylabel("neurons (% of the layer)")
    axes.set_ylim(0, max(1.0, 1.15 * float((dead + near).max())))
    if not any(dead + near):
        axes.text(0.5, 0.5, "no neuron is dead or nearly so", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=9, handlelength=3)
