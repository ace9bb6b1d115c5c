"""Positional neurons: those whose firing tells where in the sequence a token stands (methods §6).

Voita, Ferrando & Nalmpantis 2023, arXiv 2309.04827, §5. Each neuron's firing is counted by position over sequences of
one length; how much that tells of the position, and what shape it has, is worked out in `profiles`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analyses.spec import (
    AnalysisSpec,
    Comparison,
    Drawing,
    Field,
    Figures,
    Measure,
    NeuronKind,
    Option,
    Options,
    RowSet,
    Table,
)
from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.depth import depths
from nfinspect.analysis.firing import fired_chunks
from nfinspect.analysis.profiles import TYPES, Strength, Type, mutual_information, profile_strength, profile_type
from nfinspect.analysis.sequences import Sequences, read_sequences
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.present import charts
from nfinspect.present.charts import RUN_COLUMNS, Chart, percent, sentences
from nfinspect.present.numbers import counted, number
from nfinspect.present.plots import Curve, LayerBars, LayerPoints, Nothing, Plot, Series, across, sizes_of
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITIONAL = 0.05
"""The mutual information, in nats, above which a neuron is positional. Voita et al. 2023."""


@dataclass(frozen=True)
class PositionalNeuron:
    """A neuron whose firing depends on the position. mutual_information: in nats, without the plug-in bias.

    firing_rate: over all positions.
    """

    site: str
    layer: int
    neuron: int
    mutual_information: float
    type: Type
    strength: Strength
    firing_rate: float

    @property
    def address(self) -> str:
        """`L5/N123`; the site stands in `site`."""
        return f"L{self.layer}/N{self.neuron}"

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class LayerPositions:
    """How many of a layer's neurons are positional, and of which type.

    would_pass: how many have the mutual information for it; they are not positional where too few sequences were read.
    """

    site: str
    layer: int
    neurons: int
    would_pass: int
    positional: int
    strong: int
    types: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "types": dict(self.types)}


@dataclass(frozen=True)
class PositionAnalysis:
    """The positional neurons of a site, the highest mutual information first.

    length: T, tokens of each sequence; sequences: S. profiles: float64[listed neurons, length], how often each fired
    at each position, 0-1, in the order of `neurons`. notes: what the user should be told.
    """

    site: str
    length: int
    sequences: int
    neurons: tuple[PositionalNeuron, ...]
    layers: tuple[LayerPositions, ...]
    notes: tuple[str, ...]
    profiles: NDArray[np.float64]

    def to_json(self) -> dict[str, object]:
        """Without the profiles, which are a table of their own."""
        return {
            "site": self.site,
            "length": self.length,
            "sequences": self.sequences,
            "neurons": [neuron.to_json() for neuron in self.neurons],
            "layers": [layer.to_json() for layer in self.layers],
            "notes": list(self.notes),
        }

    def profile_table(self) -> pa.Table:
        """One row for each listed neuron and position: site, layer, neuron, position, rate."""
        length = self.length
        return pa.table(
            {
                "site": pa.array([neuron.site for neuron in self.neurons for _ in range(length)], pa.string()),
                "layer": np.repeat(np.array([neuron.layer for neuron in self.neurons], np.int32), length),
                "neuron": np.repeat(np.array([neuron.neuron for neuron in self.neurons], np.int32), length),
                "position": np.tile(np.arange(length, dtype=np.int32), len(self.neurons)),
                "rate": self.profiles.reshape(-1),
            }
        )

    @property
    def held_back(self) -> bool:
        """Whether neurons passed that are not listed: `allow_few` lists them."""
        return any(layer.would_pass > layer.positional for layer in self.layers)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], profiles: pa.Table) -> Self:
        """From the document of a kept result and its table of profiles."""
        neurons = tuple(PositionalNeuron(**neuron) for neuron in document["neurons"])
        rates = np.asarray(profiles.column("rate").to_numpy(), np.float64)
        return cls(
            **{
                **document,
                "neurons": neurons,
                "layers": tuple(LayerPositions(**layer) for layer in document["layers"]),
                "notes": tuple(document["notes"]),
                "profiles": rates.reshape(len(neurons), document["length"]),
            }
        )


@dataclass(frozen=True)
class _Found:
    """A positional neuron with its counts, int64[length]."""

    row: PositionalNeuron
    counts: NDArray[np.int64]


def positions(
    run: RunTables,
    length: int | None = None,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    tick: Tick = silent,
    *,
    allow_few: bool = False,
) -> PositionAnalysis:
    """The neurons of a site whose firing depends on the position. layers: all of them if not given.

    length: take every sequence at least that long, cut to it; without it the sequences of the run's greatest length.
    allow_few: list neurons although there are fewer than 100 sequences; else none is, as any may be chance.
    tick: neurons done, of all. Raises RequestError for an unknown site or layer and where no sequence is that long;
    StoreError for a run without values.
    """
    chosen = chosen_layers(run, site, layers)
    sequences = read_sequences(run, length)
    total = sum(layer.neurons for layer in chosen)
    found: list[_Found] = []
    summaries: list[LayerPositions] = []
    done = 0
    for layer in chosen:
        of_layer: list[_Found] = []
        for chunk in fired_chunks(run, layer):
            of_layer += _positional(layer, chunk.first, sequences.count(chunk.fired), sequences)
            done += len(chunk.fired)
            tick(done, total)
        listed = of_layer if sequences.enough or allow_few else []
        summaries.append(_summary(layer, len(of_layer), [one.row for one in listed]))
        found += listed
    # The sort is stable: equal neurons stay in order of layer and neuron.
    found.sort(key=lambda one: -one.row.mutual_information)
    profiles = [one.counts / sequences.number for one in found]
    return PositionAnalysis(
        site=chosen[0].site,
        length=sequences.length,
        sequences=sequences.number,
        neurons=tuple(one.row for one in found),
        layers=tuple(summaries),
        notes=_notes(sequences, summaries, allow_few),
        profiles=np.array(profiles).reshape(len(found), sequences.length),
    )


def _positional(layer: Layer, first: int, counts: NDArray[np.int64], sequences: Sequences) -> list[_Found]:
    """The positional ones among neurons from `first` on: int64[neurons, length] of sequences that fired."""
    of = sequences.number
    information = mutual_information(counts, of)
    return [
        _Found(
            PositionalNeuron(
                site=layer.site,
                layer=layer.layer,
                neuron=first + int(i),
                mutual_information=float(information[i]),
                type=profile_type(counts[i], of),
                strength=profile_strength(counts[i], of),
                firing_rate=float(counts[i].sum()) / (of * sequences.length),
            ),
            counts[i],
        )
        for i in np.flatnonzero(information > POSITIONAL)
    ]


def _notes(sequences: Sequences, layers: Sequence[LayerPositions], allow_few: bool) -> tuple[str, ...]:
    if sequences.enough:
        return ()
    passing, neurons = sum(layer.would_pass for layer in layers), sum(layer.neurons for layer in layers)
    if allow_few:
        return (f"{sequences.few}: what is listed may be chance{sequences.longer}",)
    would = f"{passing:,} of {neurons:,} neurons would pass, which may be chance, and none is listed"
    said = would if passing else f"none of {neurons:,} neurons would pass"
    return (f"{sequences.few}: {said}{sequences.longer}",)


def _summary(layer: Layer, would_pass: int, rows: Sequence[PositionalNeuron]) -> LayerPositions:
    return LayerPositions(
        site=layer.site,
        layer=layer.layer,
        neurons=layer.neurons,
        would_pass=would_pass,
        positional=len(rows),
        strong=sum(row.strength == "strong" for row in rows),
        types={name: sum(row.type == name for row in rows) for name in TYPES},
    )


# what is read and kept


def _settings(run: RunFile, options: Options) -> dict[str, object]:
    return {"length": read_sequences(run, options["length"]).length, "allow_few": options["allow_few"]}


def _read(result: Result) -> PositionAnalysis:
    return PositionAnalysis.from_json(result.document, result.table("profiles"))


def _kept(document: Mapping[str, Any]) -> str:
    neurons, layers = sum(layer["neurons"] for layer in document["layers"]), len(document["layers"])
    return (
        f"{document['site']}: {len(document['neurons'])} positional among {neurons:,} neurons of {layers} layers; "
        f"{document['sequences']:,} sequences of {document['length']} tokens"
    )


# what it says and lists

MUTUAL_INFORMATION = Field(
    "mutual_information",
    "between firing and position, in nats, less the plug-in bias",
    title="MI nats",
    header="information",
    digits=4,
    tone="bold",
)
NEURON_FIELDS = (
    Field("neuron", "layer and neuron, each from 0", title="neuron", form="neuron", width=11),
    MUTUAL_INFORMATION,
    Field("type", "shape of the firing rate over the positions", title="type", form="text", width=13, ascending=True),
    Field(
        "strength",
        "strong: the rate reaches 0.001 or 0.999 at a position; else weak",
        title="strength",
        form="text",
        width=9,
        ascending=True,
    ),
    Field("firing_rate", "over all positions, 0-1", title="fires", header="firing", form="percent", width=6),
)


def _type_field(name: str) -> Field:
    meaning = f"positional neurons of the type {name}"
    return Field(name, meaning, header=name, form="count", spare=1, value=lambda layer: layer.types[name])


LAYER = Field("layer", "layer, from 0", header="layer", form="layer")
NEURONS = Field("neurons", "neurons of the layer", header="neurons", form="count", spare=2)
WOULD_PASS = Field(
    "would_pass",
    "of them above the threshold, which may be chance where too few sequences were read",
    header="would pass, perhaps by chance",
    form="count",
)
POSITIONAL_FIELD = Field("positional", "of these", header="positional", form="count")
STRONG = Field("strong", "of these", header="strong", form="count", spare=1)


def _printed(found: PositionAnalysis) -> Sequence[Table]:
    neurons = f"{len(found.neurons)} positional neuron{'' if len(found.neurons) == 1 else 's'}"
    title = f"{neurons} at {found.site} in {found.sequences} sequences of {found.length} tokens"
    types = [WOULD_PASS] if found.held_back else [POSITIONAL_FIELD, STRONG, *map(_type_field, found.layers[0].types)]
    return (Table((LAYER, NEURONS, *types), found.layers, title), Table(NEURON_FIELDS, found.neurons, top=True))


def _sentence(found: PositionAnalysis, kept: Result) -> str:
    neurons = sum(layer.neurons for layer in found.layers)
    return (
        f"{counted(len(found.neurons), 'positional neuron')} of {neurons:,}; "
        f"{counted(found.sequences, 'sequence')} of {found.length:,} tokens"
    )


# how it is drawn

SIGNS: Mapping[Type, str] = {"oscillatory": "o", "both extremes": "b", "one extreme": "e", "other": "t"}
"""Of the types in the scatter; capitals are strong neurons."""


def _profile(found: PositionAnalysis, row: PositionalNeuron | None) -> Plot:
    if row is None:
        return Nothing("no positional neuron: nothing to draw")
    rates = tuple(found.profiles[found.neurons.index(row)].tolist())
    sequences = counted(found.sequences, "sequence")
    return Curve(f"{row.address}: share of {sequences} in which it fires, by position", rates, 0.0, 1.0)


def _scatter(found: PositionAnalysis, row: PositionalNeuron | None) -> Plot:
    if not found.neurons:
        return Nothing("no positional neuron: nothing to draw")
    return LayerPoints(
        "mutual information of firing and position, nats, by layer and neuron",
        tuple(layer.layer for layer in found.layers),
        _series(found),
        ", ".join(f"{sign} {name}" for name, sign in SIGNS.items()) + "; capital: strong; X: row",
        None if row is None else (across(row.layer, row.neuron, sizes_of(found.layers)), row.mutual_information),
    )


def _series(found: PositionAnalysis) -> tuple[Series, ...]:
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


def _by_layer(found: PositionAnalysis, row: object) -> Plot:
    if not found.neurons:
        return Nothing("no layer has a positional neuron: nothing to draw")
    parts = {
        "strong": tuple(float(layer.strong) for layer in found.layers),
        "weak": tuple(float(layer.positional - layer.strong) for layer in found.layers),
    }
    layers = tuple(layer.layer for layer in found.layers)
    return LayerBars("positional neurons in each layer", layers, parts, whole=True)


def position_chart(found: PositionAnalysis) -> Chart:
    """A point for each positional neuron."""
    neurons = sum(layer.neurons for layer in found.layers)
    strong = sum(row.strength == "strong" for row in found.neurons)
    result = (
        f"{counted(len(found.neurons), 'neuron')} of {neurons:,} positional, {strong} of them strong: "
        + ", ".join(f"{sum(row.type == name for row in found.neurons)} {name}" for name in TYPES)
        + f". The highest is L{found.neurons[0].layer}/N{found.neurons[0].neuron} with "
        f"{number(found.neurons[0].mutual_information, digits=3)} nats."
        if found.neurons
        else f"No neuron passed the test: of {neurons:,} none has more than {POSITIONAL} nats."
        if not any(layer.would_pass for layer in found.layers)
        else "No neuron is listed: too few sequences were read to tell one from chance."
    )
    layer_field = Field("layer", "layer, from 0")
    return Chart(
        name="positional-neurons",
        title=f"Positional neurons at {found.site}",
        n=f"n = {counted(neurons, 'neuron')}, {counted(found.sequences, 'sequence')} of "
        f"{counted(found.length, 'token')}",
        text=(
            "Every positional neuron by its layer and by the mutual information, in nats, between its firing and the "
            f"position of the token. A neuron is positional above {POSITIONAL} nats (Voita et al. 2023), the dotted "
            "line. Within its layer a point stands farther to the right the higher the neuron's number.",
            "The marker is the type, the shape of the firing rate over the positions: oscillatory (crosses one half "
            "three times or more), both extremes (almost always off for 32 positions in a row, and almost always on), "
            "one extreme, other. A filled marker is a strong neuron, whose rate reaches 0.001 or 0.999.",
        ),
        findings=(result, *sentences(*found.notes)),
        tables={
            "positional-neurons": charts.Table.of_fields(
                (layer_field, Field("neuron", "neuron, from 0"), *NEURON_FIELDS[1:]), found.neurons
            ),
            "positional-neurons-layers": charts.Table.of_fields(
                (LAYER, NEURONS, WOULD_PASS, POSITIONAL_FIELD, STRONG), found.layers
            ),
        },
        draw=lambda figure, chart: _draw(figure, found),
        facts={"site": found.site, "length": found.length, "sequences": found.sequences, "threshold": POSITIONAL},
    )


def _draw(figure: "Figure", found: PositionAnalysis) -> None:
    from nfinspect.present import style
    from nfinspect.present.drawn import draw_points

    axes = figure.subplots()
    draw_points(axes, tuple(layer.layer for layer in found.layers), _series(found))
    style.threshold(axes, POSITIONAL, f"positional above {POSITIONAL} nats")
    axes.set_ylabel("mutual information (nats)")
    axes.set_ylim(0, max(2 * POSITIONAL, axes.get_ylim()[1] if found.neurons else 0))
    if not found.neurons:
        axes.text(0.5, 0.75, "no neuron is listed", transform=axes.transAxes, ha="center")
    axes.legend(fontsize=8)


# several runs


def position_overlay(runs: Mapping[str, PositionAnalysis]) -> Chart:
    """The share of positional neurons of several runs."""
    from nfinspect.present.drawn import over_depth

    rows = [
        (name, x.layer, depth, x.neurons, x.positional, percent(x.positional, x.neurons), x.strong)
        for name, found in runs.items()
        for x, depth in zip(found.layers, depths(found.layers), strict=True)
    ]
    columns = {
        "neurons": "neurons of the layer",
        "positional": "of them positional",
        "positional_percent": "% of the layer's neurons",
        "strong": "of the positional ones strong",
    }
    findings = []
    for name, found in runs.items():
        neurons = sum(x.neurons for x in found.layers)
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
            f"{name} {counted(sum(x.neurons for x in found.layers), 'neuron')}, "
            f"{counted(found.sequences, 'sequence')} of {counted(found.length, 'token')}"
            for name, found in runs.items()
        ),
        text=(
            "The share of each layer's neurons (%) whose firing tells more than "
            f"{POSITIONAL} nats of the position of the token, over the depth of the network.",
        ),
        findings=tuple(findings),
        tables={"compared-positional": charts.Table.of({**RUN_COLUMNS, **columns}, rows)},
        draw=over_depth("positional_percent", "positional neurons (% of the layer)"),
    )


def _said(layers: Sequence[Mapping[str, Any]]) -> str:
    found, neurons = (sum(layer[key] for layer in layers) for key in ("positional", "neurons"))
    return f"{found:,} positional of {counted(neurons, 'neuron')}"


def _refused(layers: Sequence[Mapping[str, Any]]) -> str:
    passing, listed = (sum(layer[key] for layer in layers) for key in ("would_pass", "positional"))
    return "too few sequences to tell positional neurons from chance" if passing > listed else ""


def _highest(found: PositionAnalysis) -> float | None:
    return found.neurons[0].mutual_information if found.neurons else None


SPEC = AnalysisSpec(
    name="positions",
    format=1,
    does="Neurons whose firing tells where in the sequence a token stands.",
    answers="neurons that tell where a token stands",
    explains=(
        "MI: mutual information of firing and position, in nats, less its bias; above 0.05 a neuron is positional. "
        "The profile is the share of the sequences in which the neuron fires at each position. type, of the profile "
        "smoothed over 32 positions: oscillatory (crosses one half three times or more), both extremes (at most 0.05 "
        "and at least 0.95, each for 32 positions), one extreme, other. strong: the profile itself reaches 0.001 or "
        "0.999. It takes sequences of one length; --length T cuts prompts of mixed lengths to T tokens. "
        "After Voita et al. 2023."
    ),
    title="Positional neurons",
    what=lambda options: "positional neurons",
    options=(
        Option(
            "length",
            "Take every sequence of T tokens or more, cut to T; else those of the run's greatest length.",
            metavar="T",
            least=1,
        ),
        Option("allow_few", "List neurons although fewer than 100 sequences were read.", type=bool, default=False),
    ),
    settings=_settings,
    compute=positions,
    document=PositionAnalysis.to_json,
    tables=lambda found: {"profiles": found.profile_table()},
    read=_read,
    printed=_printed,
    lists=(
        RowSet(lambda found: NEURON_FIELDS, lambda found: found.neurons, ("mutual_information", True),
                "no neuron is positional", searched=lambda row: f"{row.type} {row.strength}"),
    ),
    sentence=_sentence,
    notes=lambda found: found.notes,
    offers=lambda found: "--allow-few" if found.held_back else "",
    kept=_kept,
    drawings=(
        Drawing("profile", _profile, follows=True),
        Drawing("information", _scatter, follows=True),
        Drawing("layers", _by_layer),
    ),
    kinds=(NeuronKind("positional", "neurons", "mutual_information"),),
    figure=Figures(lambda kept: [position_chart(one.found) for one in kept.values()], "positional-neurons"),
    comparison=Comparison(
        facts=lambda found: (
            Field("sequences", "sequences read", header="sequences", form="count"),
            Field("length", "tokens of each", header="tokens each", form="count"),
            Field("neurons", "neurons of the layers", header="neurons", form="count",
                  value=lambda found: sum(layer.neurons for layer in found.layers)),
            Field("positional", "of them positional", header="positional", form="count",
                  value=lambda found: len(found.neurons)),
            Field("highest", "mutual information, nats", header="highest", value=_highest),
        ),
        layers=lambda found: (
            POSITIONAL_FIELD,
            Field("percent", "of the layer's neurons", header="% of layer", form="percent",
                  value=lambda layer: layer.positional / layer.neurons),
            STRONG,
            *map(_type_field, TYPES),
        ),
        measures=lambda variant: (
            Measure("percent", "% layer", "positional neurons, % of each layer",
                    lambda x: percent(x["positional"], x["neurons"]), "%"),
            Measure("positional", "positional", "positional neurons of each layer", lambda x: x["positional"],
                    "count", 10),
            Measure("strong", "strong", "strongly positional neurons of each layer", lambda x: x["strong"], "count"),
        ),
        said=_said,
        refused=_refused,
        figures=lambda runs: [position_overlay(runs)],
    ),
)  # fmt: skip
