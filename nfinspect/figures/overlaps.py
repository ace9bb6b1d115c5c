"""What the traces of concepts, and kinds of neurons, share: a heat map each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfinspect.analyses.kind_overlap import KindOverlap
from nfinspect.analysis.overlap import Overlap
from nfinspect.present import style
from nfinspect.present.charts import Chart, Table, sentences
from nfinspect.present.numbers import counted, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "a": "one set",
    "b": "the other",
    "neurons_a": "neurons of a that are eligible",
    "neurons_b": "neurons of b that are eligible",
    "eligible": "neurons that could be in both",
    "overlap": "neurons in both",
    "jaccard": "share of those in either, 0-1; empty: both sets are empty",
    "expected": "neurons in both by chance",
    "p_value": "hypergeometric P(X >= overlap)",
}
READING = (
    "In a cell: how many neurons are in both sets, how many would be by chance (|A| · |B| / N), and the hypergeometric "
    "p = P(X >= shared). The darker, the larger the Jaccard index, shared / in either. On the diagonal: the size of a "
    "set."
)


def concept_chart(found: Overlap) -> Chart:
    """The overlap of the concepts' traces."""
    top = found.top
    rows = [(x.a, x.b, top, top, x.eligible, x.overlap, x.jaccard, x.expected, x.p_value) for x in found.pairs]
    sizes = [(name, top) for name in found.concepts]
    against = f"against {found.baseline}" if found.baseline else "without a baseline (raw values)"
    return Chart(
        name="concept-overlap",
        title=f"What the traces of concepts share at {found.site}",
        n=f"n = {counted(found.eligible, 'live neuron')}, the top {found.top} of each concept {against}",
        text=(
            f"The trace of a concept is the {found.top} neurons of the site that are among the highest in most of its "
            f"prompts, {against}, by the mean over a prompt's {found.tokens} tokens.",
            READING,
        ),
        findings=(*_findings(rows), *sentences(*found.notes)),
        tables={"concept-overlap": Table.of(COLUMNS, rows), "concept-overlap-sets": _sets(sizes)},
        draw=_draw,
        inches=_inches(len(sizes)),
        facts={"baseline": found.baseline, "tokens": found.tokens, "top": found.top, "eligible": found.eligible},
    )


def kind_chart(found: KindOverlap) -> Chart:
    """The overlap of kinds of neurons."""
    rows = [
        (x.a, x.b, x.neurons_a, x.neurons_b, x.eligible, x.overlap, x.jaccard, x.expected, x.p_value)
        for x in found.pairs
    ]
    empty = [one.kind for one in found.sets if not one.neurons]
    return Chart(
        name="kind-overlap",
        title=f"What kinds of neurons share at {found.site}",
        n=f"n = {counted(found.alive, 'live neuron')}; in pairs with dead, {counted(found.neurons, 'neuron')}",
        text=(
            "Kinds of neurons: dead as in the health figures, positional, delta-sensitive and n-gram neurons as in "
            f"theirs, attention for the {found.top} neurons with the largest |score| in the newest saved result.",
            READING,
            "A pair is counted among the neurons that are not dead, a pair with dead among all of them. A dead ReLU "
            "neuron never fires, so it is of none of the other kinds by definition: an overlap of 0 with dead is no "
            "finding.",
        ),
        findings=(
            *((f"No neuron is of kind {', '.join(empty)}.",) if empty else ()),
            *_findings(rows),
            *sentences(*found.notes),
        ),
        tables={
            "kind-overlap": Table.of(COLUMNS, rows),
            "kind-overlap-sets": _sets([(one.kind, one.neurons) for one in found.sets]),
        },
        draw=_draw,
        inches=_inches(len(found.sets)),
        facts={"alive": found.alive, "neurons": found.neurons, "top": found.top},
    )


def _findings(rows: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    tests = len(rows)
    more = [(a, b, shared, p) for a, b, *_, shared, _j, _e, p in rows if p is not None and p * tests < 0.05]
    if not more:
        return (f"No pair of {tests} shares more than chance would (p < 0.05 / {tests}).",)
    said = "; ".join(f"{a} and {b} share {shared} (p = {number(p, digits=2)})" for a, b, shared, p in more)
    return (f"More than chance would (p < 0.05 / {tests} pairs): {said}.",)


def _sets(sizes: Sequence[tuple[str, int]]) -> Table:
    return Table.of({"set": "name", "neurons": "how many neurons it has"}, sizes)


def _inches(sets: int) -> tuple[float, float]:
    side = 2.2 + 1.15 * sets
    return side + 1.0, side


def _draw(figure: "Figure", chart: Chart) -> None:
    axes, sets = figure.subplots(), chart.tables[f"{chart.name}-sets"]
    names = sets.column("set")
    grid = np.full((len(names), len(names)), np.nan)
    texts: dict[tuple[int, int], str] = {}
    for a, b, _na, _nb, _n, shared, jaccard, expected, p in chart.table.rows:
        i, j = names.index(a), names.index(b)
        text = f"{shared}\nchance {number(expected, digits=3)}\np {number(p, digits=2)}"
        for place in ((i, j), (j, i)):
            grid[place] = np.nan if jaccard is None else jaccard
            texts[place] = text
    darkest = max(0.05, float(np.nanmax(grid))) if np.isfinite(grid).any() else 0.05
    image = axes.imshow(grid, cmap="Greys", vmin=0, vmax=darkest)
    for (i, j), text in texts.items():
        dark = np.isfinite(grid[i, j]) and grid[i, j] > 0.55 * darkest
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    for i, size in enumerate(sets.column("neurons")):
        axes.text(i, i, f"{size:,}\nneurons", ha="center", va="center", fontsize=8, style="italic")
        axes.fill([i - 0.5, i + 0.5, i + 0.5, i - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5], fill=False, hatch="..",
                  edgecolor="0.8", linewidth=0)  # fmt: skip
    axes.set_xticks(range(len(names)), [style.label(name, 18) for name in names], rotation=30, ha="right")
    axes.set_yticks(range(len(names)), [style.label(name, 18) for name in names])
    figure.colorbar(image, ax=axes, shrink=0.8, label="Jaccard index (0-1)")
