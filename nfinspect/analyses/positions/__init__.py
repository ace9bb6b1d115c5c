"""Positional neurons: how the result of nfinspect.analysis.positions is saved, printed, shown, compared and drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfinspect.analyses import fields
from nfinspect.analyses.analysis_spec import (
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
from nfinspect.analyses.positions.charts import SIGNS, position_chart, position_overlay, series_of
from nfinspect.analysis.positions import PositionalNeuron, PositionAnalysis, positions
from nfinspect.analysis.profiles import TYPES
from nfinspect.analysis.sequences import ENOUGH, read_sequences
from nfinspect.present.numbers import counted
from nfinspect.present.plots import Curve, LayerBars, LayerPoints, Nothing, Plot, across, sizes_of
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result

# what is read and saved


def _settings(run: RunFile, options: Options) -> dict[str, object]:
    return {"length": read_sequences(run, options["length"]).length, "allow_few": options["allow_few"]}


def _read(result: Result) -> PositionAnalysis:
    return PositionAnalysis.from_json(result.document, result.table("profiles"))


def _kept(result: Result) -> str:
    d = result.document
    sequences = _read_in(d["sequences"], d["length"])
    return f"{d['site']}: {len(d['neurons']):,} positional among {fields.among(d['layers'])} in {sequences}"


def _read_in(sequences: int, length: int) -> str:
    """On how much the neurons rest: with too few sequences they may be chance."""
    few = f"only {counted(sequences, 'sequence')} (it takes {ENOUGH})"
    return f"{few if sequences < ENOUGH else counted(sequences, 'sequence')} of {length:,} tokens"


# texts and lists

MUTUAL_INFORMATION = Field(
    "mutual_information",
    "between firing and position, in nats, less the plug-in bias",
    title="MI nats",
    header="information",
    digits=4,
    tone="bold",
)
NEURON_FIELDS = (
    fields.NEURON,
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


WOULD_PASS = Field(
    "would_pass",
    "those above the threshold, which may be chance if too few sequences were read",
    header="would pass, perhaps by chance",
    form="count",
)
POSITIONAL_FIELD = Field("positional", "neurons listed as positional", header="positional", form="count")
STRONG = Field("strong", "those of them that are strong", header="strong", form="count", spare=1)


CHART_LAYERS = (fields.LAYER, fields.NEURONS, WOULD_PASS, POSITIONAL_FIELD, STRONG)


def _printed(found: PositionAnalysis) -> Sequence[Table]:
    neurons = f"{len(found.neurons):,} positional neuron{'' if len(found.neurons) == 1 else 's'}"
    title = f"{neurons} at {found.site} in {_read_in(found.sequences, found.length)}"
    types = [WOULD_PASS] if found.held_back else [POSITIONAL_FIELD, STRONG, *map(_type_field, found.layers[0].types)]
    return (
        Table((fields.LAYER, fields.NEURONS, *types), found.layers, title),
        Table(NEURON_FIELDS, found.neurons, top=True),
    )


def _sentence(found: PositionAnalysis, kept: Result) -> str:
    return (
        f"{counted(len(found.neurons), 'positional neuron')} of {fields.total(found.layers):,} in "
        f"{_read_in(found.sequences, found.length)}"
    )


# how it is drawn


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
        fields.numbers(found.layers),
        series_of(found),
        ", ".join(f"{sign} {name}" for name, sign in SIGNS.items()) + "; capital: strong; X: row",
        None if row is None else (across(row.layer, row.neuron, sizes_of(found.layers)), row.mutual_information),
    )


def _by_layer(found: PositionAnalysis, row: object) -> Plot:
    if not found.neurons:
        return Nothing("no layer has a positional neuron: nothing to draw")
    parts = {
        "strong": tuple(float(layer.strong) for layer in found.layers),
        "weak": tuple(float(layer.positional - layer.strong) for layer in found.layers),
    }
    return LayerBars("positional neurons in each layer", fields.numbers(found.layers), parts, whole=True)


# several runs


def _refused(layers: Sequence[Mapping[str, Any]]) -> str:
    held_back = fields.total(layers, "would_pass") > fields.total(layers, "positional")
    return "too few sequences to tell positional neurons from chance" if held_back else ""


def _highest(found: PositionAnalysis) -> float | None:
    return found.neurons[0].mutual_information if found.neurons else None


SPEC = AnalysisSpec(
    name="positions",
    of_values=lambda sites: True,
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
    tables=lambda found: {"profiles": found.profile_table()},
    read=_read,
    printed=_printed,
    lists=(
        RowSet(lambda found: NEURON_FIELDS, lambda found: found.neurons, ("mutual_information", True),
                "no neuron is positional", searched=lambda row: f"{row.type} {row.strength}"),
    ),
    sentence=_sentence,
    offers=lambda found: "--allow-few" if found.held_back else "",
    kept=_kept,
    drawings=(
        Drawing("profile", _profile, follows=True),
        Drawing("information", _scatter, follows=True),
        Drawing("layers", _by_layer),
    ),
    kinds=(NeuronKind("positional", "neurons", "mutual_information"),),
    figure=Figures(
        lambda kept: [position_chart(one.found, NEURON_FIELDS, CHART_LAYERS) for one in kept.values()],
        "positional-neurons",
    ),
    comparison=Comparison(
        facts=lambda found: (
            Field("sequences", "sequences read", header="sequences", form="count"),
            Field("length", "tokens of each", header="tokens each", form="count"),
            Field("neurons", "neurons of the layers", header="neurons", form="count",
                  value=lambda found: fields.total(found.layers)),
            Field("positional", "those listed as positional", header="positional", form="count",
                  value=lambda found: len(found.neurons)),
            Field("highest", "highest mutual information, nats", header="highest", value=_highest),
        ),
        layers=lambda found: (
            POSITIONAL_FIELD,
            fields.share_of_layer("positional"),
            STRONG,
            *map(_type_field, TYPES),
        ),
        measures=lambda variant: (
            Measure("percent", "% layer", "positional neurons, % of each layer",
                    fields.percent_of_layer("positional"), "%"),
            Measure("positional", "positional", "positional neurons of each layer", lambda x: x["positional"],
                    "count", 10),
            Measure("strong", "strong", "strongly positional neurons of each layer", lambda x: x["strong"], "count"),
        ),
        said=fields.said_of_layers("positional", "positional"),
        refused=_refused,
        figures=lambda runs: [position_overlay(runs)],
    ),
)  # fmt: skip
