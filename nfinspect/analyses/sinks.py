"""Massive activations: coordinates of the residual stream that are huge on few tokens, which attention then rests on.

Sun, Chen, Kolter & Liu 2024, arXiv 2402.17762: a value is massive above 100 in size and above 1,000 times the median
size of its layer's values. The tokens that carry such values, mostly the first one and delimiters, are the attention
sinks. Candidates are found by each neuron's extremes, which are exact; their values and the layer's median are computed
from the stored values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nfinspect.analyses.analysis_spec import (
    AnalysisSpec,
    Comparison,
    Drawing,
    Field,
    Figures,
    Measure,
    NeuronKind,
    Option,
    RowSet,
    Table,
)
from nfinspect.analyses.fields import LAYER, total
from nfinspect.analyses.fields import numbers as layer_numbers
from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.numbers import number
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.json_values import Document
from nfinspect.present import charts, numbers
from nfinspect.present.charts import Chart, sentences
from nfinspect.present.numbers import counted, percent
from nfinspect.present.plots import LayerBars, LayerPoints, Nothing, Plot, Series, across, sizes_of
from nfinspect_store.errors import StoreError
from nfinspect_store.results import Result
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGE, TIMES = 100.0, 1000.0
"""A massive value exceeds this size, and also so many times the median size in its layer. Sun et al. 2024."""

SHIFT = 11
"""The lowest bits of a float32, which the median ignores: it is exact to one part in 2^12 [own]."""

COUNTED = 1 << 22
"""Values in memory at a time: 16 MB and more [own]."""

TOKENS = 20
"""Different tokens that are listed for each coordinate, those with the most massive values first [own]."""

FACTS = ("site", "tokens", "large", "times", "first_token_share")

READ_TOKENS = "SELECT token, position FROM tokens ORDER BY token_idx"


@dataclass(frozen=True)
class SinkToken(Document):
    """A token with massive values. count: how many of its occurrences have one; max: the largest size there."""

    token: str
    count: int
    max: float


@dataclass(frozen=True)
class Coordinate(Document):
    """A neuron of the site with massive values. max: its largest |a|; median: of its layer; ratio: max / median, None
    where the median is 0; count: tokens on which it is massive; first: how many of them are at position 0. tokens: the
    different ones, the most frequent first, at most TOKENS.
    """

    site: str
    layer: int
    neuron: int
    max: float
    median: float
    ratio: float | None
    count: int
    first: int
    tokens: tuple[SinkToken, ...]


@dataclass(frozen=True)
class LayerSinks(Document):
    """One layer. median, max: of its values' sizes |a|; massive: coordinates with a massive value; sinks: tokens with
    one.
    """

    site: str
    layer: int
    neurons: int
    median: float
    max: float
    massive: int
    sinks: int


@dataclass(frozen=True)
class Sinks(Document):
    """The massive coordinates of a site, the highest ratio first. large, times: the limits that were used.

    first_token_share: of all massive values, those at position 0, 0-1; None where there are none, or where no token at
    position 0 is recorded.
    """

    site: str
    tokens: int
    large: float
    times: float
    first_token_share: float | None
    coordinates: tuple[Coordinate, ...]
    layers: tuple[LayerSinks, ...]

    JSON = (*FACTS, "coordinates", "layers", "notes")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should beware of."""
        if self.site == "resid":
            return ()
        return (f"massive activations are told of the residual stream (resid), and this is {self.site}",)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Sinks":
        """From the document of a saved result."""
        coordinates = (
            Coordinate(**{**one, "tokens": tuple(SinkToken(**token) for token in one["tokens"])})
            for one in document["coordinates"]
        )
        layers = tuple(LayerSinks(**layer) for layer in document["layers"])
        facts = {name: document[name] for name in FACTS}
        return cls(**facts, coordinates=tuple(coordinates), layers=layers)


def sinks(
    run: RunTables,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    tick: Tick = silent,
    *,
    large: float = LARGE,
    times: float = TIMES,
) -> Sinks:
    """The massive activations of a site. layers: all of them if not given. tick: neurons done, of all.

    large, times: a massive value exceeds this size, and so many times its layer's median size. Raises RequestError for
    an unknown site or layer, StoreError for a run without values.
    """
    chosen = chosen_layers(run, site, layers)
    columns = run.cursor().execute(READ_TOKENS).fetchnumpy()
    texts, positions = columns["token"], np.asarray(columns["position"])
    total, done = sum(layer.neurons for layer in chosen), 0
    found: list[Coordinate] = []
    summaries: list[LayerSinks] = []
    for layer in chosen:
        median = median_size(run, layer)
        statistics = run.statistics(layer.site, layer=layer.layer)
        largest = np.maximum(np.abs(statistics.minimum), np.abs(statistics.maximum))
        limit = max(large, times * median)
        carrying = np.zeros(run.tokens, np.bool_)
        here = []
        for neuron, size in _sizes_of(run, layer, np.flatnonzero(largest > limit)):
            places = np.flatnonzero(size > limit)
            carrying[places] = True
            here.append(_coordinate(layer, neuron, median, size[places], texts[places], positions[places]))
        done += layer.neurons
        tick(done, total)
        found += here
        top = float(largest.max(initial=0.0))
        summaries.append(
            LayerSinks(layer.site, layer.layer, layer.neurons, median, top, len(here), int(carrying.sum()))
        )
    found.sort(key=lambda one: -(one.max / one.median if one.median else np.inf))  # ties by layer and neuron
    massive = sum(one.count for one in found)
    return Sinks(
        site=chosen[0].site,
        tokens=run.tokens,
        large=large,
        times=times,
        first_token_share=sum(one.first for one in found) / massive if massive and run.at_start else None,
        coordinates=tuple(found),
        layers=tuple(summaries),
    )


def _sizes_of(run: RunTables, layer: Layer, neurons: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """|a| of each of these neurons of a layer on every token: float32[tokens]. Raises StoreError."""
    step = max(1, COUNTED // max(1, run.tokens))
    for start in range(0, len(neurons), step):
        part = neurons[start : start + step]
        sizes = np.empty((len(part), run.tokens), np.float32)
        there = 0
        for rows in run.blocks(layer, neurons=part.tolist()):
            sizes[np.searchsorted(part, rows.neuron), rows.tokens] = np.abs(rows.values)
            there += rows.values.size
        if there != sizes.size:
            raise StoreError(
                f"expected {sizes.size:,} values in the blocks, found {there:,}: the run is damaged "
                "(nfinspect verify says more)"
            )
        yield from zip(part.tolist(), sizes, strict=True)


def median_size(run: RunTables, layer: Layer) -> float:
    """The median of |a| over all neurons and tokens of a layer, to one part in 2^12. Raises StoreError."""
    counts = np.zeros(1 << (31 - SHIFT), np.int64)
    waiting: list[NDArray[np.uint32]] = []

    def count() -> None:
        counts[:] += np.bincount(np.concatenate([np.empty(0, np.uint32), *waiting]), minlength=len(counts))
        waiting.clear()

    for rows in run.blocks(layer):
        bits = np.ascontiguousarray(rows.values, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
        waiting.append((bits >> np.uint32(SHIFT)).ravel())
        if sum(part.size for part in waiting) >= COUNTED:  # each time costs as much as some million values
            count()
    count()
    values = int(counts.sum())
    if not values:
        return 0.0
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, [(values + 1) // 2, values // 2 + 1])  # the two in the middle, or the one twice
    edges = (np.stack([places, places + 1]).astype(np.uint32) << np.uint32(SHIFT)).view(np.float32)
    return float(np.where(places > 0, edges.mean(axis=0, dtype=np.float64), 0.0).mean())


def _coordinate(
    layer: Layer,
    neuron: int,
    median: float,
    size: NDArray[np.float32],
    texts: NDArray[np.object_],
    positions: NDArray[np.int64],
) -> Coordinate:
    """The row of one neuron. size, texts, positions: its massive values, float32[massive], and their tokens."""
    held: dict[str, list[float]] = {}
    for text, value in zip(texts.tolist(), size.tolist(), strict=True):
        held.setdefault(text, []).append(value)
    tokens = sorted((SinkToken(text, len(of), max(of)) for text, of in held.items()), key=lambda x: (-x.count, -x.max))
    top = float(size.max())
    return Coordinate(
        site=layer.site,
        layer=layer.layer,
        neuron=neuron,
        max=top,
        median=median,
        ratio=number(top / median) if median else None,
        count=len(size),
        first=int((positions == 0).sum()),
        tokens=tuple(tokens[:TOKENS]),
    )


FIELDS = (
    Field("neuron", "coordinate: layer and number, each from 0", title="neuron", form="neuron", width=11),
    Field("max", "its largest |a|", title="max |a|", digits=4, width=9, tone="bold"),
    Field("ratio", "max / median |a| of its layer; undefined where that is 0", title="medians", width=9),
    Field("count", "tokens on which it is massive", title="tokens", form="count", width=7),
    Field("first", "of these, at position 0", title="first", header="at position 0", form="count", width=6),
    Field(
        "tokens",
        "the tokens, the most frequent first",
        title="on",
        form="text",
        width=24,
        value=lambda row: " ".join(f'"{one.token}"' for one in row.tokens[:8]),
    ),
)
NEURONS = Field("neurons", "coordinates of the layer", header="neurons", form="count", spare=2)
MEDIAN = Field("median", "median |a|", header="median |a|")
LARGEST = Field("max", "largest |a|", header="max |a|", digits=4)
MASSIVE = Field("massive", "coordinates with a massive value", header="massive", form="count")
SINK_TOKENS = Field("sinks", "tokens with a massive value", header="sink tokens", form="count")
LAYER_FIELDS = (LAYER, NEURONS, MEDIAN, LARGEST, MASSIVE, SINK_TOKENS)


def _share(found: Sinks) -> str:
    return "" if found.first_token_share is None else f", {percent(found.first_token_share)} of them at position 0"


def _limits(found: Sinks) -> str:
    return f"|a| above {found.large:g} and above {found.times:,g} medians of its layer"


def _printed(found: Sinks) -> Sequence[Table]:
    values = counted(sum(one.count for one in found.coordinates), "massive value")
    where = f"at {found.site} in {counted(found.tokens, 'token')}"
    massive = counted(len(found.coordinates), "massive coordinate")
    title = f"{massive} {where} ({_limits(found)}): {values}{_share(found)}"
    return (Table(LAYER_FIELDS, found.layers, title), Table(FIELDS, found.coordinates, top=True))


def _sentence(found: Sinks, kept: Result) -> str:
    massive = counted(len(found.coordinates), "massive coordinate")
    first = found.first_token_share
    share = "" if first is None else f"; {percent(first)} of their massive values at position 0"
    return f"{massive} of {total(found.layers):,} ({_limits(found)}){share}"


def _kept(result: Result) -> str:
    d = result.document
    limits = f"above {d['large']:g} and {d['times']:,g} medians"
    return f"{d['site']}: {len(d['coordinates']):,} massive coordinates in {d['tokens']:,} tokens, {limits}"


def _sizes(found: Sinks, row: Coordinate | None) -> Plot:
    if not found.coordinates:
        return Nothing("no massive activation: nothing to draw")
    sizes = sizes_of(found.layers)
    places = {one: (across(one.layer, one.neuron, sizes), one.max) for one in found.coordinates}
    xs, ys = zip(*places.values(), strict=True)
    return LayerPoints(
        "largest |a| of each massive coordinate, by layer and neuron",
        tuple(sizes),
        (Series("massive", "o", 0, True, xs, ys),),
        "o massive; X: row",
        places.get(row) if row is not None else None,
    )


def _by_layer(found: Sinks, row: object) -> Plot:
    return LayerBars(
        "largest |a| in each layer", layer_numbers(found.layers), {"max": tuple(layer.max for layer in found.layers)}
    )


def sinks_chart(found: Sinks) -> Chart:
    """The largest and the median size in each layer, and the massive coordinates."""
    listed = ", ".join(f"L{one.layer}/N{one.neuron} ({numbers.number(one.max)})" for one in found.coordinates[:5])
    result = f"{_printed(found)[0].title}. {f'The largest: {listed}.' if listed else 'None exceeds both limits.'}"
    return Chart(
        name="massive-activations",
        title=f"Massive activations at {found.site}",
        n=f"n = {counted(total(found.layers), 'coordinate')}, {counted(found.tokens, 'token')}",
        text=(
            f"The largest and the median |a| in each layer. A value is massive above {found.large:g} in size and above "
            f"{found.times:,g} times its layer's median (Sun et al. 2024: {LARGE:g} and {TIMES:,g}). The tokens "
            "that carry such values are those that attention rests on (attention sinks).",
        ),
        findings=(result, *sentences(*found.notes)),
        tables={
            "massive-activations": charts.Table.of_fields(LAYER_FIELDS, found.layers),
            "massive-coordinates": charts.Table.of_fields(
                (LAYER, Field("neuron", "coordinate, from 0"), *FIELDS[1:]), found.coordinates
            ),
        },
        draw=_draw,
        facts={name: getattr(found, name) for name in FACTS},
    )


def _draw(figure: "Figure", chart: Chart) -> None:
    from nfinspect.present import style

    axes, table = figure.subplots(), chart.table
    layers = table.column("layer")
    for i, (name, says) in enumerate((("max", "largest |a|"), ("median", "median |a|"))):
        axes.plot(layers, table.column(name), label=says, **style.line(i))
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("|a|")
    style.layer_axis(axes, layers)
    axes.legend(fontsize=8)


SPEC = AnalysisSpec(
    name="sinks",
    of_values=lambda sites: True,
    does="Massive activations, and the tokens that carry them: attention sinks.",
    answers="coordinates that are huge on few tokens",
    explains=(
        "In the residual stream (resid, which the capture has to record: --sites mlp,resid). A value is massive if its "
        "size |a| exceeds 100, and also 1,000 times the median |a| of the layer's values. max: the largest |a|. "
        "medians: max / that median. tokens: on how many tokens the coordinate is massive. first: how many of these "
        "are at position 0. The tokens with massive values are those that attention rests on. After Sun et al. 2024."
    ),
    title="Massive activations",
    what=lambda options: "massive activations",
    site="resid",
    options=(
        Option("large", "Size that a massive value exceeds.", type=float, default=LARGE, metavar="A"),
        Option("times", "Times its layer's median size that a massive value exceeds.", type=float, default=TIMES,
               metavar="N"),
    ),
    settings=lambda run, options: dict(options),
    compute=sinks,
    read=lambda result: Sinks.from_json(result.document),
    printed=_printed,
    lists=(
        RowSet(lambda found: FIELDS, lambda found: found.coordinates, ("ratio", True), "no coordinate is massive",
                searched=lambda row: " ".join(one.token for one in row.tokens)),
    ),
    sentence=_sentence,
    kept=_kept,
    drawings=(Drawing("sizes", _sizes, follows=True), Drawing("layers", _by_layer)),
    kinds=(NeuronKind("massive", "coordinates", "ratio"),),
    figure=Figures(lambda kept: [sinks_chart(one.found) for one in kept.values()], "massive-activations"),
    comparison=Comparison(
        facts=lambda found: (
            Field("tokens", "tokens read", header="tokens", form="count"),
            Field("massive", "massive coordinates", header="massive", form="count",
                  value=lambda found: len(found.coordinates)),
            Field("first_token_share", "of the massive values at position 0", header="at position 0", form="percent"),
        ),
        layers=lambda found: (MEDIAN, LARGEST, MASSIVE, SINK_TOKENS),
        measures=lambda variant: (
            Measure("max", "max |a|", "largest |a| of each layer", lambda x: x["max"], width=9),
            Measure("median", "median", "median |a| of each layer", lambda x: x["median"]),
            Measure("massive", "massive", "massive coordinates of each layer", lambda x: x["massive"], "count", 8),
            Measure("sinks", "sinks", "tokens with a massive value in each layer", lambda x: x["sinks"], "count"),
        ),
        said=lambda layers: f"{total(layers, 'massive'):,} massive coordinates",
    ),
)  # fmt: skip
