"""Delta-sensitive neurons: how they change from token to token."""

from typing import TYPE_CHECKING

import numpy as np

from nfinspect.analysis.delta import Delta
from nfinspect.present import style
from nfinspect.present.charts import Chart, Table, percent, sentences
from nfinspect.present.numbers import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def delta_chart(found: Delta) -> Chart:
    """Delta-sensitive neurons by layer, and every neuron by its two measures."""
    rows = sorted(found.neurons, key=lambda row: (row.layer, row.neuron))
    neurons = Table.of(
        {
            "layer": "layer, from 0",
            "neuron": "neuron, from 0",
            "step_sensitivity": "mean |step| / standard deviation; empty: it never varied",
            "von_neumann_ratio": "mean squared step / variance: 2 for white noise, near 0 for what hardly moves",
            "delta_sensitive": "whether both are large enough",
        },
        [(x.layer, x.neuron, x.step_sensitivity, x.von_neumann_ratio, x.delta_sensitive) for x in rows],
    )
    layers = Table.of(
        {
            "layer": "layer, from 0",
            "neurons": "neurons of the layer",
            "constant": "neurons that never varied",
            "delta_sensitive": "delta-sensitive neurons",
            "delta_sensitive_percent": "% of the layer's neurons",
            "median_step_sensitivity": "over the neurons that varied",
            "median_von_neumann_ratio": "over the neurons that varied",
        },
        [
            (
                x.layer,
                x.neurons,
                x.constant,
                x.delta_sensitive,
                percent(x.delta_sensitive, x.neurons),
                x.median_step_sensitivity,
                x.median_von_neumann_ratio,
            )
            for x in found.layers
        ],
    )
    sensitive = len(found.delta_sensitive)
    return Chart(
        name="delta-sensitive-neurons",
        title=f"Delta-sensitive neurons at {found.site}",
        n=f"n = {counted(len(rows), 'neuron')}, {counted(found.pairs, 'pair')} of neighbouring tokens",
        text=(
            "Left, the share of each layer's neurons (%) that are delta-sensitive. Right, every neuron that varied at "
            "all: the step sensitivity, mean |step from a token to the next| / standard deviation, and the von Neumann "
            "ratio, mean squared step / variance, which is 2 for white noise and near 0 for what hardly moves.",
            f"A neuron counts as delta-sensitive (filled) from a ratio of {found.min_ratio:g} and a step sensitivity "
            f"of {found.min_step:g} on, the dotted lines; these limits are this project's own.",
        ),
        findings=(
            f"{counted(sensitive, 'neuron')} of {len(rows):,} delta-sensitive."
            if sensitive
            else f"No neuron passed the test: of {len(rows):,} none is delta-sensitive.",
            *sentences(*found.notes),
        ),
        tables={"delta-sensitive-neurons": layers, "delta-sensitive-neurons-scatter": neurons},
        draw=_draw,
        inches=(10.0, 4.5),
        facts={"site": found.site, "pairs": found.pairs, "min_ratio": found.min_ratio, "min_step": found.min_step},
    )


def _draw(figure: "Figure", chart: Chart) -> None:
    left, right = figure.subplots(1, 2)
    table, neurons = chart.table, chart.tables["delta-sensitive-neurons-scatter"]
    left.bar(table.column("layer"), table.column("delta_sensitive_percent"), **style.bars(1))
    style.layer_axis(left, table.column("layer"))
    left.set_ylabel("delta-sensitive neurons (% of the layer)")
    left.set_ylim(0, max(1.0, left.get_ylim()[1]))
    for sensitive, name in ((False, "not"), (True, "delta-sensitive")):
        chosen = neurons.where("delta_sensitive", sensitive)
        x, y = (np.array(chosen.column(c), np.float64) for c in ("step_sensitivity", "von_neumann_ratio"))
        right.scatter(x, y, s=9, label=name, **style.points(0 if sensitive else 2, filled=sensitive))
    style.threshold(right, chart.facts["min_ratio"], f"ratio {chart.facts['min_ratio']:g}")
    style.threshold(right, chart.facts["min_step"], f"step {chart.facts['min_step']:g}", upright=True)
    right.set_xlabel("step sensitivity (standard deviations)")
    right.set_ylabel("von Neumann ratio")
    right.set_xlim(left=0)
    right.set_ylim(bottom=0)
    right.legend(fontsize=8)


def step_size_chart(found: Delta) -> Chart:
    """Mamba's own Δ: one box for each layer."""
    rows = found.mamba_delta
    table = Table.of(
        {
            "layer": "layer, from 0",
            "channel": "channel (Mamba-2: head), from 0",
            "n": "tokens, position 0 left out",
            "mean": "mean step size Δ",
            "cv": "standard deviation / mean",
            "surprisal_correlation": "with the token's surprisal, -1 to 1; empty where undefined",
        },
        [(x.layer, x.channel, x.n, x.mean, x.cv, x.surprisal_correlation) for x in rows],
    )
    correlated = [x for x in rows if x.surprisal_correlation is not None]
    strongest = max(correlated, key=lambda x: abs(x.surprisal_correlation or 0), default=None)
    said = (
        f"The strongest correlation with the surprisal is {strongest.surprisal_correlation:.3f}, in channel "
        f"{strongest.channel} of layer {strongest.layer}."
        if strongest is not None
        else "The correlation with the surprisal is undefined in every channel."
    )
    return Chart(
        name="mamba-step-size",
        title="Mamba's step size Δ by layer",
        n=f"n = {counted(len(rows), 'channel')}, {counted(rows[0].n, 'token')}",
        text=(
            "The step size Δ with which each channel (head in Mamba-2) takes in a token, counted while the run was "
            "captured: its mean over the tokens, its coefficient of variation, and its correlation with the token's "
            "surprisal, -ln p. A box spans the middle half of a layer's channels, the line is the median, the whiskers "
            "reach to the farthest channel within 1.5 times the box, the circles are the channels beyond.",
        ),
        findings=(said,),
        tables={"mamba-step-size": table},
        draw=_draw_step_size,
        inches=(11.0, 4.0),
        facts={"tokens": rows[0].n},
    )


def _draw_step_size(figure: "Figure", chart: Chart) -> None:
    layers = sorted(set(chart.table.column("layer")))
    names = {"mean": "mean Δ", "cv": "coefficient of variation", "surprisal_correlation": "correlation with surprisal"}
    black = {"color": "black"}
    for axes, (column, name) in zip(figure.subplots(1, 3), names.items(), strict=True):
        held = [[v for v in chart.table.where("layer", layer).column(column) if v is not None] for layer in layers]
        axes.boxplot(held, positions=layers, widths=0.5, medianprops=black, flierprops={"markersize": 3})
        style.layer_axis(axes, layers)
        axes.set_xticklabels([f"{tick:g}" for tick in axes.get_xticks()])
        axes.set_ylabel(name)
