"""The four n-gram figures: detectors, what they cover, what of it is new, and neurons by K_n; of a run, and of several
over the depth of their networks. After figures 2 to 4 of Voita, Ferrando & Nalmpantis 2023.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfinspect.analysis.depth import depths
from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.analysis.ngrams import NgramAnalysis
from nfinspect.analysis.triggers import BUCKETS, FEWEST_SEEN, MOST
from nfinspect.present import style
from nfinspect.present.charts import RUN_COLUMNS, Chart, Draw, Table, percent, sentences
from nfinspect.present.drawn import common_legend, overlay
from nfinspect.present.numbers import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "n": "1 token, 2 bigram, 3 trigram",
    "layer": "layer, from 0",
    "neurons": "neurons of the layer",
    "active": "those with an activation",
    "detectors": "neurons that detect n-grams",
    "detectors_percent": "% of the layer's neurons",
    "covered": "n-grams that the layer's detectors cover",
    "cumulative": "n-grams covered up to and including this layer",
    "new_overall": "n-grams covered here and in no earlier layer",
    "new_vs_previous": "n-grams covered here and not in the layer before",
}
DEFINITION = (
    "A neuron is triggered by the n-gram that ends at a token on which it fires. It detects n-grams when few of them "
    f"({MOST[1]} tokens, {MOST[2]} bigrams or {MOST[3]} trigrams at most) hold 95 % of its activations, and so do "
    f"those that it covers: n-grams seen {FEWEST_SEEN} times or more, on 95 % of whose occurrences it fires (Voita et "
    "al. 2023)."
)


def ngram_charts(analyses: Mapping[int, NgramAnalysis]) -> tuple[Chart, ...]:
    """The figures of analyses by n; at least one."""
    rows = [row for n in sorted(analyses) for row in layer_rows(analyses[n])]
    table = Table.of(COLUMNS, rows)
    some = next(iter(analyses.values()))
    neurons = sum(layer.neurons for layer in some.layers)
    seen = ", ".join(f"{a.distinct:,} different {NGRAM_WORDS[n]}s" for n, a in sorted(analyses.items()))
    n_words = f"n = {counted(neurons, 'neuron')}; {seen}"
    findings = (*(finding(analyses[n], neurons) for n in sorted(analyses)), *_said(analyses))
    facts = {"site": some.site, "positions": {str(n): a.positions for n, a in sorted(analyses.items())}}

    def chart(name: str, title: str, text: str, draw: Any, inches: tuple[float, float], more: Any = None) -> Chart:
        columns = ("n", "layer", "neurons", *CHARTED[name])
        held = Table.of({c: COLUMNS[c] for c in columns}, zip(*(table.column(c) for c in columns), strict=True))
        tables = {name: held, **(more or {})}
        return Chart(
            name, f"{title} at {some.site}", n_words, (text, DEFINITION), findings, tables, draw, inches, facts
        )

    return (
        chart(
            "ngram-detectors",
            "N-gram detectors by layer",
            "How many neurons of each layer detect tokens, bigrams or trigrams.",
            draw_detectors,
            (8.0, 4.5),
            {"ngram-detectors-list": _listed(analyses)},
        ),
        chart(
            "ngram-coverage",
            "N-grams covered by layer",
            "How many different n-grams a layer's detectors cover together (left), and how many are covered up to and "
            "including this layer (right).",
            draw_coverage,
            (10.0, 4.5),
        ),
        chart(
            "ngram-new",
            "New n-grams by layer",
            "Of the n-grams that a layer covers, how many no earlier layer covers (left), and how many the layer "
            "before does not cover (right).",
            draw_new,
            (10.0, 4.5),
        ),
        _bucket_chart(analyses, n_words, facts),
    )


CHARTED = {
    "ngram-detectors": ("active", "detectors", "detectors_percent"),
    "ngram-coverage": ("covered", "cumulative"),
    "ngram-new": ("new_overall", "new_vs_previous"),
}


def layer_rows(found: NgramAnalysis) -> list[tuple[Any, ...]]:
    """The values of COLUMNS for every layer of an analysis."""
    return [
        (
            found.n,
            x.layer,
            x.neurons,
            x.active,
            x.detectors,
            percent(x.detectors, x.neurons),
            x.covered,
            x.cumulative,
            x.new_overall,
            x.new_vs_previous,
        )
        for x in found.layers
    ]


def finding(found: NgramAnalysis, neurons: int) -> str:
    """What came out, in a sentence."""
    word = NGRAM_WORDS[found.n]
    if not found.detectors:
        return f"No neuron passed the test for {word}s: of {neurons:,} none is a {word} detector."
    covered = found.layers[-1].cumulative
    return (
        f"{counted(len(found.detectors), f'{word} detector')} among {neurons:,} neurons, covering {covered:,} {word}s."
    )


def _listed(analyses: Mapping[int, NgramAnalysis]) -> Table:
    return Table.of(
        {
            "n": COLUMNS["n"],
            "layer": "layer, from 0",
            "neuron": "neuron, from 0",
            "k": "fewest n-grams that hold 95 % of its activations",
            "activations": "tokens on which it fired",
            "coverage": "share of the activations on the n-grams it covers, 0-1",
            "suppression": "mean direct effect on the logits of its own n-grams; empty: not computed",
            "ngrams": "the n-grams it covers, the most frequent first, separated by spaces, as JSON strings",
        },
        [
            (n, x.layer, x.neuron, x.k, x.activations, x.coverage, x.suppression, _texts(x.ngrams))
            for n in sorted(analyses)
            for x in analyses[n].detectors
        ],
    )


def _texts(ngrams: Sequence[Any]) -> str:
    import json

    return " ".join(json.dumps(ngram.text, ensure_ascii=False) for ngram in ngrams)


def draw_detectors(figure: "Figure", chart: Chart) -> None:
    axes = figure.subplots()
    _lines(axes, chart.table, "detectors", "neurons that detect n-grams")


def draw_coverage(figure: "Figure", chart: Chart) -> None:
    left, right = figure.subplots(1, 2)
    _lines(left, chart.table, "covered", "n-grams covered by the layer")
    _lines(right, chart.table, "cumulative", "n-grams covered up to the layer")


def draw_new(figure: "Figure", chart: Chart) -> None:
    left, right = figure.subplots(1, 2)
    _lines(left, chart.table, "new_overall", "n-grams that no earlier layer covers")
    _lines(right, chart.table, "new_vs_previous", "n-grams that the layer before does not cover")


def _lines(axes: "Axes", table: Table, column: str, name: str) -> None:
    layers = sorted(set(table.column("layer")))
    for n in sorted(set(table.column("n"))):
        rows = table.where("n", n)
        axes.plot(rows.column("layer"), rows.column(column), label=f"{NGRAM_WORDS[n]}s (n = {n})", **style.line(n - 1))
    style.layer_axis(axes, layers)
    style.counted(axes, name)
    if not any(table.column(column)):
        axes.text(0.5, 0.5, "no neuron passed the test", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=8, handlelength=3.5)


def _bucket_chart(analyses: Mapping[int, NgramAnalysis], n: str, facts: Mapping[str, Any]) -> Chart:
    table = Table.of(
        {
            "n": COLUMNS["n"],
            "layer": "layer, from 0",
            "neurons": "neurons of the layer",
            "active": "of them with an activation",
            **{name: f"neurons with K in {name}" for name in BUCKETS},
        },
        [
            (number, x.layer, x.neurons, x.active, *(x.buckets[name] for name in BUCKETS))
            for number in sorted(analyses)
            for x in analyses[number].layers
        ],
    )
    site = facts["site"]
    return Chart(
        name="ngram-buckets",
        title=f"Neurons by how few n-grams set them off, at {site}",
        n=n,
        text=(
            "Every layer's neurons by K, the fewest n-grams that hold 95 % of their activations: the share (%) of the "
            "neurons with at least one activation, those that need few n-grams at the bottom. The rest of a layer "
            "never fired.",
        ),
        findings=(*(_few(analyses[x]) for x in sorted(analyses)), *_said(analyses)),
        tables={"ngram-buckets": table},
        draw=draw_buckets,
        inches=(1.5 + 3.6 * len(analyses), 5.0),
        facts=facts,
    )


def _said(analyses: Mapping[int, NgramAnalysis]) -> tuple[str, ...]:
    """The notes of the analyses, each once, as most say the same."""
    return tuple(dict.fromkeys(one for n in sorted(analyses) for one in sentences(*analyses[n].notes)))


def _few(found: NgramAnalysis) -> str:
    few = sum(layer.buckets["1-5"] for layer in found.layers)
    active = sum(layer.active for layer in found.layers)
    return f"{few:,} of {active:,} active neurons have 95 % of their activations on 5 {NGRAM_WORDS[found.n]}s or fewer."


def draw_buckets(figure: "Figure", chart: Chart) -> None:
    table = chart.table
    numbers = sorted(set(table.column("n")))
    panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    for axes, n in zip(panels, numbers, strict=True):
        stacked(axes, table.where("n", n))
        axes.set_title(f"{NGRAM_WORDS[n]}s (n = {n})", fontsize=10)
    panels[0].set_ylabel("neurons (% of those that fired)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, title="K", loc="outside lower center", ncols=len(names), fontsize=8, handlelength=2)


def stacked(axes: "Axes", table: Table) -> None:
    """The buckets of every layer as stacked bars, in % of the active neurons."""
    layers, active = table.column("layer"), np.array(table.column("active"), np.float64)
    below = np.zeros(len(layers))
    for i, name in enumerate(BUCKETS):
        held = np.array(table.column(name), np.float64)
        shares = np.divide(100 * held, active, out=np.zeros_like(held), where=active > 0)
        axes.bar(layers, shares, bottom=below, label=name, **style.bars(i))
        below += shares
    style.layer_axis(axes, layers)
    axes.set_ylim(0, 100)


# several runs


def compared_charts(runs: Mapping[str, NgramAnalysis]) -> tuple[Chart, ...]:
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
    findings = (*(f"{name}: {finding(found, sizes[name])}" for name, found in runs.items()), *_said_of_runs(runs))

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
            "including this layer (right).",
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


def _said_of_runs(runs: Mapping[str, NgramAnalysis]) -> tuple[str, ...]:
    """The notes of each run's analysis."""
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
            *_said_of_runs(runs),
        ),
        tables={"compared-token-buckets": Table.of(columns, rows)},
        draw=_draw_compared_buckets,
        inches=(max(6.0, 1.5 + 3.6 * min(3, len(runs))), 1.2 + 3.8 * -(-len(runs) // 3)),
    )


def _draw_two(shown: Mapping[str, str]) -> Draw:
    def draw(figure: "Figure", chart: Chart) -> None:
        for axes, (column, name) in zip(figure.subplots(1, 2), shown.items(), strict=True):
            overlay(axes, chart.table, column, name, whole=not column.endswith("percent"))
        common_legend(figure)

    return draw


def _draw_compared_buckets(figure: "Figure", chart: Chart) -> None:
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
