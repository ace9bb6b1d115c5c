"""Attention neurons: how the result of nfinspect.experiments.attention is printed, shown, compared and drawn.

The command is nfinspect.cli.attention: it takes a model and what it reads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nfinspect.analyses.analysis_spec import (
    AnalysisSpec,
    Comparison,
    Drawing,
    Field,
    Figures,
    Kept,
    Measure,
    NeuronKind,
    Option,
    RowSet,
    Table,
    Variant,
)
from nfinspect.analyses.attention.charts import attention_chart
from nfinspect.analyses.fields import LAYER, NEURON, NEURONS, numbers
from nfinspect.analysis.attention_methods import METHODS, TOP
from nfinspect.analysis.attention_scores import AttentionLayer, AttentionScores, NeuronScore
from nfinspect.analysis.provenance import read_from, whose
from nfinspect.present.charts import Section
from nfinspect.present.numbers import counted
from nfinspect.present.plots import LayerBars, Matrix, Nothing, Plot, Shading
from nfinspect_store.results import Result

HEADS = 128
"""Heads of a layer that are drawn one by one, at most."""

SHORT = {"attention_weighted": "weighted", "gradient_guided": "gradient", "rollout": "rollout"}
VARIANTS = tuple(Variant(word, {"method": method}, "Attention neurons") for method, word in SHORT.items())

# texts and lists

RANK = Field("rank", "place by |score|, from 1", title="#", form="count", width=7, ascending=True, tone="dim")
SCORE = Field("score", "mean over the prompts", title="score", digits=4, width=9, tone="bold")
MEAN = Field("mean_activation", "mean value at the positions from 1 on", title="mean", header="mean value", width=9)
FIRST = Field("first_activation", "mean value at position 0", title="at pos. 0", header="at position 0", width=10)
FIRST_SCORE = Field("first_score", "score at position 0", title="score at 0", header="score at 0", width=11, spare=1)


def _scored_at_first(found: AttentionScores | None) -> tuple[Field, ...]:
    """Only gradients give position 0 a score of its own."""
    return (FIRST_SCORE,) if found is not None and found.method == "gradient_guided" else ()


def _fields(found: AttentionScores | None) -> Sequence[Field]:
    return (NEURON, RANK, SCORE, MEAN, FIRST, *_scored_at_first(found))


def _rows(found: AttentionScores) -> Sequence[NeuronScore]:
    return found.neurons(found.scores.num_rows)


def _printed(found: AttentionScores) -> Sequence[Table]:
    def of(header: str, value: Callable[[AttentionLayer], float | None], digits: int = 4, spare: int = 0) -> Field:
        return Field(header, "", header=header, digits=digits, spare=spare, value=value)

    fields = [
        LAYER,
        NEURONS,
        of("lowest", lambda x: x.scores.min),
        of("median", lambda x: x.scores.percentiles["50"], spare=1),
        of("highest", lambda x: x.scores.max),
    ]
    if any(layer.heads is not None for layer in found.layers):
        fields += [
            Field("heads", "", header="heads", form="count", spare=3),
            Field("sink", "", header="on position 0", form="percent"),
            of("evenness", lambda x: x.entropy, 3),
            of("diversity", lambda x: x.diversity, 3),
        ]
    title = (
        f"{found.method} at {found.site}, mean over {found.samples:,} prompts ({found.tokens:,} tokens); position 0 is "
        "left out of the scores"
    )
    neurons = (RANK, NEURON, SCORE, MEAN, FIRST, *_scored_at_first(found))
    return (Table(fields, found.layers, title), Table(neurons, _rows(found), top=True))


def _sentence(found: AttentionScores, kept: Result) -> str:
    return f"{found.method}: mean over {counted(found.samples, 'prompt')} of {read_from(kept)}, {found.tokens:,} tokens"


def _kept(result: Result) -> str:
    d = result.document
    of = "" if whose(result) else f"; of {read_from(result)}"
    return f"{d['method']} at {d['site']}: {d['samples']} prompts, {d['tokens']:,} tokens{of}"


def _strongest(result: Result, top: int) -> Sequence[Mapping[str, Any]]:
    """The document has the first few, the table all of them."""
    rows: Sequence[Mapping[str, Any]] = result.document["neurons"]
    if len(rows) == TOP < top:
        rows = result.table("scores").slice(0, top).select(["layer", "neuron"]).to_pylist()
    return rows[:top]


# how it is drawn


def _scores(found: AttentionScores, row: object) -> Plot:
    def largest(layer: AttentionLayer) -> float | None:
        return max((abs(x) for x in (layer.scores.min, layer.scores.max) if x is not None), default=None)

    return LayerBars("largest |score| in each layer", numbers(found.layers), {"": tuple(map(largest, found.layers))})


def _share(what: str, key: str) -> Callable[[AttentionScores, object], Plot]:
    def plot(found: AttentionScores, row: object) -> Plot:
        shares = tuple(_percent(getattr(layer, key)) for layer in found.layers)
        return LayerBars(what, numbers(found.layers), {"": shares}, whole=True)

    return plot


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _map(found: AttentionScores, row: NeuronScore | None) -> Plot:
    """The saved map, the mean over heads, of the layer of the neuron under the cursor."""
    layer = row.layer if row is not None else found.layers[0].layer
    table = found.attention_map.to_pydict()
    here = [i for i, of in enumerate(table["layer"]) if of == layer]
    if not here:
        return Nothing(f"no attention map of L{layer} is saved")
    size = max(table["query"][i] for i in here) + 1
    weights = np.full((size, size), np.nan)
    for i in here:
        weights[table["query"][i], table["key"][i]] = table["weight"][i]
    tokens = tuple(found.map_tokens.column("token").to_pylist())
    return Matrix(f"L{layer}, mean of heads: rows attend to columns, tokens 0-{size - 1}", weights, tokens)


def _by_head(what: str, key: str) -> Callable[[AttentionScores, NeuronScore | None], Plot]:
    """A row for each layer, a column for each of its heads. An undefined share is blank, as 0 is."""

    def plot(found: AttentionScores, row: NeuronScore | None) -> Plot:
        table = found.heads.select(["layer", "head", key]).to_pydict()
        held = {(layer, head): share for layer, head, share in zip(*table.values(), strict=True)}
        layers = numbers(found.layers)
        shares = tuple(tuple(held.get((n, head)) or 0.0 for head in range(_most_heads(found))) for n in layers)
        here = layers.index(row.layer) if row is not None and row.layer in layers else None
        return Shading(f"{what}: a row a layer, a column a head", tuple(f"L{n}" for n in layers), shares, here)

    return plot


def _most_heads(found: AttentionScores) -> int:
    return max((layer.heads or 0 for layer in found.layers), default=0)


def _has_heads(found: AttentionScores) -> bool:
    """Not of Mamba, whose heads are channels: no screen has room for them."""
    return 0 < _most_heads(found) <= HEADS and bool(found.heads.num_rows)


def _has_map(found: AttentionScores) -> bool:
    return bool(found.attention_map.num_rows)


def _charts(kept: Mapping[str, Kept]) -> Sequence[Section]:
    by_method = {one.found.method: one for one in kept.values()}
    return [
        attention_chart(by_method[method].found, whose(result) or f"of {read_from(result)}")
        for method in METHODS
        if method in by_method and (result := by_method[method].result)
    ]


# several runs


MEASURES = (
    Measure("sink", "sink %", "% of each layer's attention that goes to position 0, the sink",
            lambda x: _percent(x["sink"]), "%"),
    Measure("evenness", "even %", "how evenly each layer spreads its attention, %",
            lambda x: _percent(x["entropy"]), "%"),
    Measure("diversity", "divers %", "how differently each layer's heads attend, %",
            lambda x: _percent(x["diversity"]), "%", 8),
)  # fmt: skip


def _said(layers: Sequence[Mapping[str, Any]]) -> str:
    return f"{max((x['heads'] or 0 for x in layers), default=0):,} heads or channels a layer"


SPEC = AnalysisSpec(
    name="attention",
    needs="model",
    answers="neurons that attention singles out",
    explains=(
        "weighted: the mean of the neuron's values, weighted by the attention that each position receives, less their "
        "plain mean. rollout: the same, weighted by what the last token attends to through all later layers. gradient: "
        "the sum of |value x gradient of the NLL|, mean over prompts. #: place by |score|; mean: of its values. "
        "Position 0, where idle heads look, is left out of the scores and shown separately. Mamba's attention is the "
        "hidden one of its scan. The map, a mean over heads, is that of the longest prompt in the layer of the neuron "
        "under the cursor. r reads the run's own prompts; R edits the command, for example to --prompts FILE."
    ),
    title="Attention neurons",
    what=lambda options: f"attention neurons, {options['method']}",
    options=(
        Option("method", "By values where attention goes, the loss's gradient, or values where the last token looks.",
               type=str, default=METHODS[0], choices=METHODS),
    ),
    tables=AttentionScores.tables,
    read=lambda result: AttentionScores.from_json(result.document, result.table),
    printed=_printed,
    lists=(RowSet(_fields, _rows, ("rank", False), "no neuron"),),
    sentence=_sentence,
    kept=_kept,
    drawings=(
        Drawing("scores", _scores),
        Drawing("map", _map, follows=True, there=_has_map),
        Drawing("sink", _share("% of each layer's attention that goes to position 0, the sink", "sink"),
                there=_has_map),
        Drawing("diversity", _share("how differently a layer's heads attend, % (0: alike, 100: as much as they can)",
                                    "diversity"), there=_has_map),
        Drawing("sink by head", _by_head("share of attention on position 0", "sink"), follows=True, there=_has_heads),
        Drawing("evenness by head", _by_head("how evenly attention is spread", "entropy"), follows=True,
                there=_has_heads),
    ),
    variants=VARIANTS,
    kinds=(NeuronKind("attention", "neurons", strongest=_strongest),),
    figure=Figures(_charts, "attention", each=False),
    comparison=Comparison(
        measures=lambda variant: MEASURES,
        said=_said,
        # Gradients read no attention: there is nothing to see in their layers.
        takes=lambda document: document["method"] != "gradient_guided",
    ),
)  # fmt: skip
