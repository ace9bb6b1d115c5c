"""Delta-sensitive neurons: how the result of nfinspect.analysis.delta is saved, printed, shown, compared and drawn."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nfinspect.analyses import fields
from nfinspect.analyses.analysis_spec import (
    AnalysisSpec,
    Comparison,
    Drawing,
    Field,
    Figures,
    Kept,
    Measure,
    NeuronKind,
    Neurons,
    Option,
    Options,
    RowSet,
    Shown,
    Table,
)
from nfinspect.analyses.delta.charts import delta_chart, step_size_chart
from nfinspect.analysis.delta import MIN_RATIO, MIN_STEP, ORDERS, Delta, delta
from nfinspect.analysis.delta_rows import DeltaRow
from nfinspect.analysis.keeping import Made, keep_or_find
from nfinspect.analysis.mamba_channels import ChannelRow
from nfinspect.analysis.substitution import LAGS, Substitution
from nfinspect.analysis.ticks import Reporter, Tick
from nfinspect.present.charts import Absent, Section, sentences
from nfinspect.present.plots import Histogram, LayerBars, Plot
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result

# substituted tokens, which need the model


def _finish(run: RunFile, kept: Result, found: Delta, options: Options, reporter: Reporter) -> Delta:
    """In the order asked for; with --substitute, with the effect of substituted tokens on each neuron."""
    found = found.sorted_by(options["sort"])
    if options["substitute"]:
        return found.with_substitution(_substitution(run, kept, found, options, reporter))
    return found


def _check(options: Options) -> None:
    if options["model"] and not options["substitute"]:
        raise RequestError("--model goes with --substitute: all else is computed from the run")


def _substitution(run: RunFile, kept: Result, found: Delta, options: Options, reporter: Reporter) -> Substitution:
    from nfinspect.experiments.run_model import named_model, require_plain, run_model
    from nfinspect.experiments.substitution import substitution_sensitivity

    model, site, layers = options["model"], found.site, kept.settings["layers"]
    named_model(run, model, "substitution")
    require_plain(run, "--substitute")

    def make(tick: Tick) -> Made:
        loaded = run_model(run, model, "substitution")
        replaced = substitution_sensitivity(
            run, loaded, site, layers, draws=options["draws"], seed=options["seed"], tick=tick
        )
        return replaced.summary(), {"neurons": replaced.table()}

    # The model is no setting: wherever it is, its weights are the run's, and so the result is the same.
    asked = {"draws": options["draws"], "seed": options["seed"], "lags": list(LAGS)}
    return keep_or_find(
        kept.path.parent,
        "substitution",
        {"site": site, "layers": layers, **asked},
        kept.run_id,
        make,
        _read_substitution,
        recompute=options["recompute"],
        what="substituted tokens",
        reporter=reporter,
    )[1]


def _read_substitution(result: Result) -> Substitution:
    return Substitution.from_parts(result.document, result.table("neurons"))


def _joined(found: Delta, kept: Result, results: Callable[[str], Sequence[Result]]) -> Delta:
    """With the newest saved substitution of the same neurons."""
    for other in results("substitution"):
        if other.settings.get("site") == found.site and other.settings.get("layers") == kept.settings["layers"]:
            return found.with_substitution(_read_substitution(other))
    return found


# texts and lists

SENSITIVE = Field("delta_sensitive", "neurons that are delta-sensitive", header="delta-sensitive", form="count")
MEDIAN_STEP = Field(
    "median_step_sensitivity", "median step sensitivity of those that vary", header="median step", digits=3
)
MEDIAN_RATIO = Field(
    "median_von_neumann_ratio", "median von Neumann ratio of those that vary", header="median ratio", digits=3
)
LAYER_FIELDS = (
    fields.LAYER,
    fields.NEURONS,
    SENSITIVE,
    Field("constant", "neurons that never vary", header="never vary", form="count"),
    MEDIAN_STEP,
    MEDIAN_RATIO,
)

FIELDS = (
    fields.NEURON,
    Field("step_sensitivity", "mean |change from one token to the next| in units of its std", title="step", width=7,
          tone="bold"),
    Field("von_neumann_ratio", "mean squared change over variance", title="ratio", width=7, tone="bold"),
    Field("delta_sensitive", "whether both reach the limits", title="sensitive", header="delta-sensitive", form="yes",
          width=10),
)  # fmt: skip


def _fields(found: Delta | None) -> Sequence[Field]:
    lags = found.substitution.lags if found is not None and found.substitution is not None else ()

    def at_lag(place: int) -> Field:
        def value(row: DeltaRow) -> float | None:
            return None if row.substitution_sensitivity is None else row.substitution_sensitivity[place]

        name = f"lag {lags[place]}"
        return Field(name, "mean |change| / std so many tokens after one was replaced", name, width=7, value=value)

    return (*FIELDS, *map(at_lag, range(len(lags))))


CHANNELS = (
    Field("layer", "layer and channel, each from 0", title="channel", form="text", width=13, tone="bold",
          value=lambda row: f"L{row.layer} ch. {row.channel}"),
    Field("mean", "mean step size", title="mean step", digits=4, width=10, tone="bold"),
    Field("cv", "standard deviation / mean", title="CV", width=7),
    Field("surprisal_correlation", "with the token's surprisal", title="surprisal r", width=11),
    Field("n", "tokens, position 0 left out", title="tokens", form="count", width=7),
)  # fmt: skip


def _neurons_of_channel(row: ChannelRow, found: Delta, of: Shown) -> Neurons:
    """A channel of Mamba is the neuron with its number; a head of Mamba-2 is no neuron."""
    channels = sum(1 for other in found.mamba_delta if other.layer == row.layer)
    alike = any(x.layer == row.layer and x.neurons == channels for x in of.layers if x.site == "mixer")
    return ((row.layer, row.channel),) if alike and found.site == "mixer" else ()


def _printed(found: Delta) -> Sequence[Table]:
    tables = []
    if found.neurons:
        title = (
            f"{len(found.delta_sensitive):,} delta-sensitive of {len(found.neurons):,} neurons at {found.site}, from "
            f"{found.pairs:,} steps (ratio at least {found.min_ratio:g}, step at least {found.min_step:g})"
        )
        about = "" if found.substitution is None else _about(found.substitution)
        tables += [Table(LAYER_FIELDS, found.layers, title), Table(_fields(found), found.neurons, about, top=True)]
    return [*tables, *([_channel_table(found.mamba_delta)] if found.mamba_delta else [])]


def _about(found: Substitution) -> str:
    fewest = f", {min(found.samples):,} of them at lag {found.lags[found.samples.index(min(found.samples))]}"
    return (
        f"lag: mean |Δa| / std so many tokens after a token that was replaced, {found.draws:,} draws"
        f"{fewest if min(found.samples) < found.draws else ''} ({found.unchanged:,} drew the same token again)"
    )


def _channel_table(rows: Sequence[ChannelRow]) -> Table:
    """Mamba's Δ layer by layer; the rows are the channels of each."""

    def median(header: str, key: str, spare: int = 0) -> Field:
        def value(here: Sequence[ChannelRow]) -> float | None:
            defined = [found for row in here if (found := getattr(row, key)) is not None]
            return statistics.median(defined) if defined else None

        return Field(key, "", header=header, spare=spare, value=value)

    def strongest(here: Sequence[ChannelRow]) -> ChannelRow | None:
        correlated = [row for row in here if row.surprisal_correlation is not None]
        return max(correlated, key=lambda row: abs(row.surprisal_correlation or 0), default=None)

    def correlation(here: Sequence[ChannelRow]) -> float | None:
        found = strongest(here)
        return None if found is None else found.surprisal_correlation

    def channel(here: Sequence[ChannelRow]) -> int | None:
        found = strongest(here)
        return None if found is None else found.channel

    columns = (
        Field("layer", "", header="layer", form="layer", value=lambda here: here[0].layer),
        Field("channels", "", header="channels", form="count", value=len),
        median("median Δ", "mean"),
        median("median CV", "cv"),
        median("surprisal, median", "surprisal_correlation", spare=1),
        Field("strongest", "", header="strongest", value=correlation),
        Field("channel", "", header="in channel", form="count", value=channel),
    )
    by_layer = [[row for row in rows if row.layer == layer] for layer in dict.fromkeys(row.layer for row in rows)]
    title = f"Mamba's step size Δ over {rows[0].n:,} tokens, and its correlation with the token's surprisal"
    return Table(columns, by_layer, title)


def _sentence(found: Delta, kept: Result) -> str:
    if not found.neurons:
        return "not every value was kept: Mamba's own step size, but nothing on its neurons"
    limits = f"ratio >= {found.min_ratio:g}, step >= {found.min_step:g}"
    mamba = f"; step size of {len(found.mamba_delta):,} channels" if found.mamba_delta else ""
    sensitive = f"{fields.total(found.layers, 'delta_sensitive'):,} delta-sensitive of {len(found.neurons):,} neurons"
    return f"{sensitive} ({limits}); {found.pairs:,} steps{mamba}"


def _kept(result: Result) -> str:
    d = result.document
    limits = f"ratio from {d['min_ratio']:g}, step from {d['min_step']:g}"
    return f"{d['site']}: {d['delta_sensitive']} delta-sensitive among {fields.among(d['layers'])}; {limits}"


# how it is drawn


def _ratios(found: Delta, row: object) -> Plot:
    what = "neurons by von Neumann ratio (0: frozen, 2: white noise, 4: flips each token)"
    return Histogram(what, found.neurons.von_neumann_ratio, "no neuron varied")


def _steps(found: Delta, row: object) -> Plot:
    what = "neurons by step sensitivity: mean |change from token to token| / std"
    return Histogram(what, found.neurons.step_sensitivity, "no neuron varied")


def _by_layer(found: Delta, row: object) -> Plot:
    medians = tuple(layer.median_von_neumann_ratio for layer in found.layers)
    what = "median von Neumann ratio of each layer's neurons (2: white noise)"
    return LayerBars(what, fields.numbers(found.layers), {"": medians})


def _step_size(found: Delta, row: object) -> Plot:
    layers = tuple(sorted({channel.layer for channel in found.mamba_delta}))

    def median(layer: int) -> float:
        means = [one.mean for one in found.mamba_delta if one.layer == layer and one.mean is not None]
        return statistics.median(means or [0.0])

    what = f"step size by layer: median over channels of the mean over {found.mamba_delta[0].n:,} tokens"
    return LayerBars(what, layers, {"": tuple(map(median, layers))})


def _charts(kept: Mapping[str, Kept]) -> Sequence[Section]:
    (found,) = (one.found for one in kept.values())
    neurons: Section = (
        delta_chart(found) if found.neurons else Absent(FIGURE.name, SPEC.title, *sentences(found.notes[0]))
    )
    return [neurons, *([step_size_chart(found)] if found.mamba_delta else [])]


FIGURE = Figures(_charts, "delta-sensitive-neurons")


# several runs


MEASURES = (
    Measure("ratio", "ratio", "median von Neumann ratio of each layer's neurons (2: white noise)",
            lambda x: x["median_von_neumann_ratio"]),
    Measure("step", "step", "median step sensitivity of each layer's neurons", lambda x: x["median_step_sensitivity"]),
    Measure("percent", "% layer", "delta-sensitive neurons, % of each layer",
            fields.percent_of_layer("delta_sensitive"), "%"),
    Measure("sensitive", "sensitive", "delta-sensitive neurons of each layer", lambda x: x["delta_sensitive"],
            "count", 9),
)  # fmt: skip

FACTS = (
    Field("pairs", "neighbouring tokens compared", header="steps", form="count"),
    Field("neurons", "neurons of the layers", header="neurons", form="count", value=lambda found: len(found.neurons)),
    Field("delta_sensitive", "of them delta-sensitive", header="delta-sensitive", form="count",
          value=lambda found: len(found.delta_sensitive)),
)  # fmt: skip


def _settings(run: RunFile, options: Options) -> dict[str, object]:
    return {"min_ratio": options["min_ratio"], "min_step": options["min_step"]}


def _refused(document: Mapping[str, Any]) -> str:
    if document["neurons"]:
        return ""
    return "it did not keep every value (--keep all) and cannot say what is delta-sensitive"


SPEC = AnalysisSpec(
    name="delta",
    of_values=lambda sites: "mixer" not in sites,  # Mamba's own step is recorded with statistics, too
    does="Neurons that change with every token, and Mamba's step size.",
    answers="neurons that change with every token",
    explains=(
        "step: step sensitivity, mean |change from one token to the next| in units of the neuron's std. ratio: von "
        "Neumann ratio, mean squared change over variance (0: frozen, 2: white noise, it keeps nothing of the token "
        "before). sensitive: both reach the limits of the command (2 and 0.2). Both leave out position 0 and never "
        "cross prompts. lag N: mean |change| / std N tokens after one was replaced (delta --substitute, needs "
        "the model). Mamba's step size is how much of a token each channel lets into its state: its mean, its "
        "coefficient of variation, its correlation with the token's surprisal."
    ),
    title="Delta-sensitive neurons",
    what=lambda options: "delta-sensitive neurons",
    options=(
        Option("sort", "Order.", type=str, default=ORDERS[0], choices=ORDERS, afterwards=True),
        Option("min_ratio", "Von Neumann ratio from which a neuron counts as delta-sensitive.", type=float,
               default=MIN_RATIO),
        Option("min_step", "Step sensitivity that it needs, too.", type=float, default=MIN_STEP),
        Option("substitute", "Also replace tokens and read the neurons again: needs the model.", type=bool,
               default=False, afterwards=True),
        Option("model", "The run's model, for --substitute; as the run names it if not given.", type=str, metavar="M",
               afterwards=True),
        Option("draws", "How many tokens to replace.", default=256, metavar="N", least=1, afterwards=True),
        Option("seed", "Draws the tokens to replace, and those to put there.", default=0, afterwards=True),
    ),
    settings=_settings,
    compute=delta,
    read=lambda result: Delta.from_json(result.document),
    check=_check,
    finish=_finish,
    joined=_joined,
    printed=_printed,
    lists=(
        RowSet(_fields, lambda found: found.delta_sensitive, ("von_neumann_ratio", True),
                "no neuron is delta-sensitive", name="delta-sensitive"),
        RowSet(_fields, lambda found: found.neurons, ("von_neumann_ratio", True), "no neuron", name="all neurons"),
        RowSet(lambda found: CHANNELS, lambda found: found.mamba_delta, ("mean", True), "no channel",
                name="channels of Mamba's step", there=lambda found: bool(found.mamba_delta),
                named=("layer", "channel"), neurons=_neurons_of_channel),
    ),
    sentence=_sentence,
    kept=_kept,
    drawings=(
        Drawing("ratio", _ratios, there=lambda found: bool(found.neurons)),
        Drawing("step", _steps, there=lambda found: bool(found.neurons)),
        Drawing("layers", _by_layer, there=lambda found: bool(found.neurons)),
        Drawing("Mamba's step size", _step_size, there=lambda found: bool(found.mamba_delta)),
    ),
    kinds=(
        NeuronKind("delta", "neurons", "step_sensitivity", refused=_refused,
                   counts=lambda row: row.get("delta_sensitive", True)),
    ),
    figure=FIGURE,
    comparison=Comparison(
        facts=lambda found: FACTS,
        layers=lambda found: (SENSITIVE, fields.share_of_layer("delta_sensitive"), MEDIAN_STEP, MEDIAN_RATIO),
        measures=lambda variant: MEASURES,
        said=fields.said_of_layers("delta_sensitive", "delta-sensitive"),
    ),
)  # fmt: skip
