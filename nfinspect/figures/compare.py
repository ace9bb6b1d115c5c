"""Several runs in one figure: the same analysis of each, over the depth of its network.

Networks of different depth lie on one axis, nfinspect.analysis.depth. The n-gram figures are those of single tokens,
after figures 2 to 4 of Voita, Ferrando & Nalmpantis 2023.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.analysis.dead import DeadLayer
from nfinspect.analysis.depth import depths
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.ngrams import NgramAnalysis
from nfinspect.analysis.triggers import BUCKETS
from nfinspect.figures.ngrams import COLUMNS, DEFINITION, finding, layer_rows, stacked
from nfinspect.present import style
from nfinspect.present.charts import RUN_COLUMNS, Chart, Draw, Table, percent, sentences
from nfinspect.present.drawn import common_legend, over_depth, overlay
from nfinspect.present.numbers import counted
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_runs(names: list[str]) -> list[str]:
    """Raises RequestError for more runs than a figure can tell apart."""
    if len(names) > style.MOST_LINES:
        raise RequestError(f"expected {style.MOST_LINES} runs or fewer, found {len(names)}: more lines look alike")
    return names


def dead_overlay(runs: Mapping[str, Sequence[DeadLayer]]) -> Chart:
    """The share of dead neurons of several runs."""
    rows = [
        (name, x.layer, depth, x.neurons, x.dead, percent(x.dead, x.neurons))
        for name, layers in runs.items()
        for x, depth in zip(layers, depths(layers), strict=True)
    ]
    columns = {"neurons": "neurons of the layer", "dead": "of them dead", "dead_percent": "% of the layer's neurons"}
    findings = []
    for name, layers in runs.items():
        dead, neurons = sum(x.dead for x in layers), sum(x.neurons for x in layers)
        findings.append(f"{name}: {dead:,} of {neurons:,} neurons dead." if dead else f"{name}: no neuron is dead.")
        findings += sentences(few_tokens(layers[0].tokens), of=name)
    return Chart(
        name="compared-dead",
        title="Dead neurons by depth",
        n="n = "
        + "; ".join(
            f"{name} {counted(sum(x.neurons for x in layers), 'neuron')}, {counted(layers[0].tokens, 'token')}"
            for name, layers in runs.items()
        ),
        text=(
            "The share of each layer's neurons (%) that are dead on the run's own text, over the depth of the network.",
        ),
        findings=tuple(findings),
        tables={"compared-dead": Table.of({**RUN_COLUMNS, **columns}, rows)},
        draw=over_depth("dead_percent", "dead neurons (% of the layer)"),
    )


def ngram_overlays(runs: Mapping[str, NgramAnalysis]) -> tuple[Chart, ...]:
    """Token detectors, what they cover, what of it is new, and the neurons by K, of several runs."""
    sizes = {name: sum(layer.neurons for layer in found.layers) for name, found in runs.items()}
    n = "n = " + "; ".join(
        f"{name} {counted(sizes[name], 'neuron')}, {found.positions:,} tokens, {found.distinct:,} different"
        for name, found in runs.items()
    )
    rows = [
        (name, values[1], depth, *values[2:])
        for name, found in runs.items()
        for values, depth in zip(layer_rows(found), depths(found.layers), strict=True)
    ]
    columns = {**RUN_COLUMNS, **{c: text for c, text in COLUMNS.items() if c not in ("n", "layer")}}
    whole = Table.of(columns, rows)
    findings = (*(f"{name}: {finding(found, sizes[name])}" for name, found in runs.items()), *_said(runs))

    def chart(name: str, title: str, text: str, shown: Mapping[str, str]) -> Chart:
        kept = (*RUN_COLUMNS, "neurons", *shown)
        table = Table.of({c: columns[c] for c in kept}, zip(*map(whole.column, kept), strict=True))
        return Chart(name, title, n, (text, DEFINITION), findings, {name: table}, _draw_two(shown), (10.0, 4.8))

    return (
        chart(
            "compared-token-detectors",
            "Token-detecting neurons by depth",
            "How many neurons of each layer detect tokens (left), and which share of the layer they are (right).",
            {"detectors": "token-detecting neurons", "detectors_percent": "% of the layer's neurons"},
        ),
        chart(
            "compared-coverage",
            "Tokens covered by depth",
            "How many different tokens a layer's detectors cover together (left), and how many are covered up to and "
            "with this layer (right).",
            {"covered": "tokens covered by the layer", "cumulative": "tokens covered up to the layer"},
        ),
        chart(
            "compared-new-tokens",
            "New tokens by depth",
            "Of the tokens that a layer covers, how many no earlier layer covers (left), and how many the layer before "
            "does not cover (right).",
            {
                "new_overall": "tokens that no earlier layer covers",
                "new_vs_previous": "not covered by the layer before",
            },
        ),
        _bucket_overlay(runs, n),
    )


def _said(runs: Mapping[str, NgramAnalysis]) -> tuple[str, ...]:
    """What each run's analysis rests on, where that is little."""
    return tuple(one for name, found in runs.items() for one in sentences(*found.notes, of=name))


def _bucket_overlay(runs: Mapping[str, NgramAnalysis], n: str) -> Chart:
    columns = {
        **RUN_COLUMNS,
        "neurons": "neurons of the layer",
        "active": "of them with an activation",
        **{name: f"neurons with K in {name}" for name in BUCKETS},
    }
    rows = [
        (name, x.layer, depth, x.neurons, x.active, *(x.buckets[bucket] for bucket in BUCKETS))
        for name, found in runs.items()
        for x, depth in zip(found.layers, depths(found.layers), strict=True)
    ]
    return Chart(
        name="compared-token-buckets",
        title="Neurons by how few tokens set them off",
        n=n,
        text=(
            "Every layer's neurons by K, the fewest tokens that hold 95 % of their activations: the share (%) of the "
            "neurons with at least one activation. One panel for each run, by its own layers.",
        ),
        findings=(
            *(
                f"{name}: {sum(x.buckets['1-5'] for x in found.layers):,} of {sum(x.active for x in found.layers):,} "
                "active neurons have 95 % of their activations on 5 tokens or fewer."
                for name, found in runs.items()
            ),
            *_said(runs),
        ),
        tables={"compared-token-buckets": Table.of(columns, rows)},
        draw=_draw_buckets,
        inches=(max(6.0, 1.5 + 3.6 * min(3, len(runs))), 1.2 + 3.8 * -(-len(runs) // 3)),
    )


def _draw_two(shown: Mapping[str, str]) -> Draw:
    def draw(figure: "Figure", chart: Chart) -> None:
        for axes, (column, name) in zip(figure.subplots(1, 2), shown.items(), strict=True):
            overlay(axes, chart.table, column, name, whole=not column.endswith("percent"))
        common_legend(figure)

    return draw


def _draw_buckets(figure: "Figure", chart: Chart) -> None:
    runs: list[Any] = list(dict.fromkeys(chart.table.column("run")))
    columns = min(3, len(runs))
    panels = figure.subplots(-(-len(runs) // columns), columns, sharey=True, squeeze=False)
    for axes, run in zip(panels.flat, runs, strict=False):
        stacked(axes, chart.table.where("run", run))
        axes.set_title(style.label(run), fontsize=10)
    for axes in list(panels.flat)[len(runs) :]:
        axes.set_visible(False)
    figure.supylabel("neurons (% of those that fired)", fontsize=10)
    handles, names = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, title="K", loc="outside lower center", ncols=5, fontsize=8, handlelength=2)
