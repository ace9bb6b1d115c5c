"""The six panels on attention neurons: all scores, the largest, activations, a map, the heads, a summary."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nfinspect.analysis.attention_scores import AttentionScores
from nfinspect.analysis.numbers import number
from nfinspect.present import numbers, style
from nfinspect.present.charts import Chart, Table, sentences
from nfinspect.present.numbers import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
TOP = 15

SCORES = {
    "attention_weighted": "the neuron's values weighted by the attention that each position receives from the later "
    "ones, less their plain mean",
    "rollout": "the neuron's values weighted by how much the last token attends to each position through the layers "
    "after the neuron's (Abnar & Zuidema 2020), less their plain mean",
    "gradient_guided": "the sum over the positions of |value × gradient of the loss|",
}


UNITS = {"attention_weighted": "units of a", "rollout": "units of a", "gradient_guided": "nats"}
"""Units of the scores; a is the activation, whose unit is the model's own."""


def attention_chart(found: AttentionScores, prompts: str) -> Chart:
    """prompts: what was read, in words."""
    name = f"attention-{found.method}".replace("_", "-")
    neurons = Table.of(
        {
            "rank": "from 1, by |score|",
            "layer": "layer, from 0",
            "neuron": "neuron, from 0",
            "score": f"mean over the prompts, {UNITS[found.method]}; empty where undefined",
            "importance": "|score|",
            "mean_activation": "mean value at the positions from 1 on",
            "first_activation": "mean value at position 0, which counts in no score",
        },
        [
            (
                row["rank"],
                row["layer"],
                row["neuron"],
                row["score"],
                None if row["score"] is None else abs(row["score"]),
                row["mean_activation"],
                row["first_activation"],
            )
            for row in found.scores.to_pylist()
        ],
    )
    layers = Table.of(
        {
            "layer": "layer, from 0",
            "neurons": "neurons of the layer",
            "heads": "attention heads; in Mamba channels",
            "sink": "share of attention on position 0, 0-1",
            "entropy": "how evenly attention is spread, 0-1",
            "diversity": "how differently the heads attend, 0-1",
        },
        [(x.layer, x.neurons, x.heads, x.sink, x.entropy, x.diversity) for x in found.layers],
    )
    has_map = found.attention_map.num_rows > 0
    drawn = (
        " The map is that of the longest prompt, the mean over heads and layers; it is darkest at the largest weight "
        "on a position from 1 on, as position 0 draws most of the attention."
        if has_map
        else " This method reads no attention: the map and the heads are empty."
    )
    best = found.neurons(1)
    return Chart(
        name=name,
        title=f"Attention neurons at {found.site}, {found.method}",
        n=f"n = {counted(len(neurons.rows), 'neuron')}, {counted(found.samples, 'prompt')} with "
        f"{counted(found.tokens, 'token')}",
        text=(
            f"Every neuron's score: {SCORES[found.method]}; the mean over the prompts ({prompts}). Position 0 counts "
            "in no score.",
            "Top row: the distribution of the scores; the neurons with the largest |score|; each neuron's mean "
            "activation against its importance, |score|. Bottom row: how much each token (query) attends to the "
            "earlier ones (keys); for each layer the evenness of attention (entropy, 0 to 1), the diversity of its "
            f"heads (0 to 1) and the share of attention on position 0; a summary.{drawn}",
        ),
        findings=(
            f"The largest |score| is that of L{best[0].layer}/N{best[0].neuron}: {numbers.number(best[0].score)}."
            if best and best[0].score is not None
            else "No neuron has a defined score.",
            "These are scores, not a test: every list of top neurons has a first one.",
            *sentences(*found.notes),
        ),
        tables={
            name: layers,
            f"{name}-neurons": neurons,
            f"{name}-distribution": _distribution(neurons),
            f"{name}-map": _mean_map(found),
        },
        draw=_draw,
        inches=(13.0, 8.0),
        facts={
            "method": found.method,
            "site": found.site,
            "prompts": found.prompts,
            "samples": found.samples,
            "tokens": found.tokens,
            "neurons": len(neurons.rows),
        },
    )


def _distribution(neurons: Table) -> Table:
    scores = np.array([score for score in neurons.column("score") if score is not None])
    counts, edges = np.histogram(scores, bins=BINS) if len(scores) else (np.zeros(0, int), np.zeros(1))
    columns = {"low": "lower edge of the score", "high": "upper edge, in the last bin included", "neurons": "neurons"}
    return Table.of(columns, zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def _mean_map(found: AttentionScores) -> Table:
    """The map of the longest prompt, as the mean over the layers."""
    columns = {
        "query": "position of the token that attends",
        "key": "position that it attends to",
        "weight": "mean over heads and layers, 0-1",
        "query_token": "text of the token that attends",
    }
    rows = found.attention_map
    if not rows.num_rows:
        return Table.of(columns, [])
    query, key, weight = (rows.column(name).to_numpy() for name in ("query", "key", "weight"))
    size = int(query.max()) + 1
    total = np.zeros((size, size))
    np.add.at(total, (query, key), weight)
    mean = total / len(set(rows.column("layer").to_pylist()))
    tokens = found.map_tokens.column("token").to_pylist()
    return Table.of(columns, [(i, j, number(mean[i, j]), tokens[i]) for i in range(size) for j in range(i + 1)])


def _draw(figure: "Figure", chart: Chart) -> None:
    (scores, top, scatter), (heat, heads, summary) = figure.subplots(2, 3)
    neurons = chart.tables[f"{chart.name}-neurons"]
    unit = UNITS[chart.facts["method"]]
    _draw_scores(scores, chart.tables[f"{chart.name}-distribution"], unit)
    _draw_top(top, neurons, unit)
    x, y = (np.array(neurons.column(name), np.float64) for name in ("mean_activation", "importance"))
    scatter.scatter(x, y, s=7, **style.points(0, filled=False))
    scatter.set_xlabel("mean activation (units of a)")
    scatter.set_ylabel(f"importance (|score|, {unit})")
    scatter.set_title("activation and importance", fontsize=10)
    _draw_map(figure, heat, chart.tables[f"{chart.name}-map"])
    _draw_heads(heads, chart.table)
    summary.axis("off")
    summary.set_title("summary", fontsize=10)
    summary.text(0.02, 0.98, "\n".join(_summary(chart)), transform=summary.transAxes, va="top", fontsize=9)


def _draw_scores(axes: "Axes", table: Table, unit: str) -> None:
    low, high, held = (np.array(table.column(name), np.float64) for name in ("low", "high", "neurons"))
    axes.bar(low, held, width=high - low, align="edge", facecolor="0.75", edgecolor="black", linewidth=0.5)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"score ({unit})")
    axes.set_ylabel("neurons (log scale above 1)")
    axes.set_title(f"distribution of scores ({BINS} bins)", fontsize=10)


def _draw_top(axes: "Axes", neurons: Table, unit: str) -> None:
    first = [row for row in zip(*map(neurons.column, ("layer", "neuron", "score")), strict=True) if row[2] is not None]
    first = first[:TOP]
    axes.barh(range(len(first)), [score for *_, score in first], **style.bars(1))
    axes.set_yticks(range(len(first)), [f"L{layer}/N{neuron}" for layer, neuron, _ in first], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"score ({unit})")
    axes.set_title(f"the {len(first)} largest |scores|", fontsize=10)


def _draw_map(figure: "Figure", axes: "Axes", table: Table) -> None:
    axes.set_title("attention of the longest prompt", fontsize=10)
    axes.set_xlabel("key (position)")
    axes.set_ylabel("query (position)")
    if not table.rows:
        _empty(axes, "reads no attention")
        return
    from matplotlib.ticker import MaxNLocator

    size = max(table.column("query")) + 1
    grid = np.full((size, size), np.nan)
    for query, key, weight, _ in table.rows:
        grid[query, key] = weight
    later = grid[1:, 1:]
    darkest = float(np.nanmax(later)) if later.size else float(np.nanmax(grid))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    image = axes.imshow(grid, cmap="Greys", vmin=0, vmax=darkest, interpolation="nearest", origin="upper")
    figure.colorbar(image, ax=axes, shrink=0.85, label="weight (0-1)", extend="max")


def _draw_heads(axes: "Axes", layers: Table) -> None:
    axes.set_title("evenness, diversity, position 0", fontsize=10)
    places = layers.column("layer")
    names = {"entropy": "evenness (entropy)", "diversity": "diversity of heads", "sink": "on position 0"}
    held = {name: layers.column(name) for name in names}
    style.layer_axis(axes, places)
    axes.set_ylabel("0 to 1")
    axes.set_ylim(-0.03, 1.05)
    if all(value is None for values in held.values() for value in values):
        _empty(axes, "reads no attention")
        return
    for i, (name, shown) in enumerate(names.items()):
        axes.plot(places, [np.nan if v is None else v for v in held[name]], label=shown, **style.line(i))
    axes.legend(fontsize=8, handlelength=3.5)


def _empty(axes: "Axes", why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center")


def _summary(chart: Chart) -> list[str]:
    facts = chart.facts
    neurons = chart.tables[f"{chart.name}-neurons"]
    scores = np.array([s for s in neurons.column("score") if s is not None])
    lines = [
        f"method: {facts['method']}",
        f"site: {style.label(facts['site'])}",
        f"prompts: {facts['samples']} of {facts['prompts']} ({facts['tokens']:,} tokens)",
        f"neurons: {facts['neurons']:,} in {len(chart.table.rows)} layers",
    ]
    if len(scores):
        lines += [
            f"score: {numbers.number(scores.min())} to {numbers.number(scores.max())}",
            f"median |score|: {numbers.number(np.median(np.abs(scores)))}",
            "",
            "median |score| by layer:",
            *_by_layer(neurons),
        ]
    return lines


def _by_layer(neurons: Table) -> list[str]:
    held: dict[int, list[Any]] = {}
    for layer, importance in zip(neurons.column("layer"), neurons.column("importance"), strict=True):
        if importance is not None:
            held.setdefault(layer, []).append(importance)
    lines = [f"  layer {layer}: {numbers.number(np.median(held[layer]))}" for layer in sorted(held)]
    return lines if len(lines) <= 12 else [*lines[:6], "  …", *lines[-5:]]
