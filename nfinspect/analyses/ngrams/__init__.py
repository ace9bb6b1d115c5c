"""N-gram detectors: how the result of nfinspect.analysis.ngrams is saved, printed, shown, compared and drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    Option,
    Options,
    RowSet,
    Table,
    Variant,
)
from nfinspect.analyses.ngrams.charts import compared_charts, ngram_charts
from nfinspect.analysis.ngram_layers import LayerNgrams
from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.analysis.ngrams import Detector, NgramAnalysis, ngrams
from nfinspect.analysis.ticks import Reporter
from nfinspect.json_values import jsonable
from nfinspect.model_files import lasting_name
from nfinspect.present.charts import Chart, Section, percent
from nfinspect.present.numbers import counted
from nfinspect.present.plots import LayerBars, Nothing, Plot
from nfinspect_store.errors import NfinspectError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, keep_result

VARIANTS = tuple(Variant(f"{word}s", {"n": n}, f"{word.capitalize()} detectors") for n, word in NGRAM_WORDS.items())

# suppression, which needs the model


def _finish(run: RunFile, kept: Result, found: NgramAnalysis, options: Options, reporter: Reporter) -> NgramAnalysis:
    """With suppressions; unchanged if they are known, or if no model was named and the run's own cannot be loaded."""
    model, known = options["model"], found.suppression_model
    if not found.detectors or (known is not None and (model is None or lasting_name(known) == lasting_name(model))):
        return found
    from nfinspect.experiments.run_model import run_model

    try:
        return keep_suppression(kept, found, run_model(run, model, "it" if model is None else "suppression"))
    except NfinspectError as error:
        if model is not None:
            raise
        reporter.note(f"suppression is left out: {error}")
        return found


def keep_suppression(kept: Result, found: NgramAnalysis, loaded: Any) -> NgramAnalysis:
    """The analysis with its detectors' effect on the logits of their own n-grams, which is saved with it.

    loaded: the run's LoadedModel. Raises what nfinspect.experiments.suppression raises, and StorageFull.
    """
    from nfinspect.experiments.suppression import with_suppression

    suppressing = with_suppression(found, loaded)
    document = jsonable(SPEC.document(suppressing))
    keep_result(kept.path.parent, kept.kind, kept.settings, document, run_id=kept.run_id, in_format=SPEC.format)
    return suppressing


# texts and lists

DETECTORS = Field("detectors", "neurons that detect n-grams", header="detectors", form="count")
CUMULATIVE = Field("cumulative", "n-grams covered up to and including this layer", header="up to here", form="count")
NEW = Field("new_overall", "n-grams covered here and in no earlier layer", header="new", form="count")

FIELDS = (
    fields.NEURON,
    Field("k", "fewest n-grams that hold 95 % of its activations", title="k", header="fewest", form="count", width=3,
          tone="bold"),
    Field("coverage", "share of its activations on the n-grams that it covers", title="covers", header="covered",
          form="percent", width=7),
    Field("activations", "tokens on which it fired", title="fired", form="count", width=6, spare=1),
    Field("suppression", "mean direct effect on the logits of its n-grams' last tokens; undefined: not computed",
          title="suppr.", header="suppression", spare=2),
    Field("ngrams", "the n-grams that it covers, the most frequent first", title="n-grams", form="text", width=20,
          flex=True, sorts=False, value=lambda row: " ".join(f'"{ngram.text}"' for ngram in row.ngrams)),
)  # fmt: skip


def _covered(word: str) -> Field:
    return Field("covered", "n-grams that its detectors cover together", header=f"{word}s", form="count")


def _buckets(layers: Sequence[LayerNgrams]) -> list[Field]:
    def of(name: str) -> Field:
        return Field(name, f"neurons with k in {name}", form="count", header=name, value=lambda x: x.buckets[name])

    return [of(name) for name in layers[0].buckets]


def _printed(found: NgramAnalysis) -> Sequence[Table]:
    word = NGRAM_WORDS[found.n]
    detectors = f"{len(found.detectors):,} {word} detector{'' if len(found.detectors) == 1 else 's'}"
    title = (
        f"{detectors} among {fields.total(found.layers):,} "
        f"neurons at {found.site}, from {found.positions:,} tokens with {found.distinct:,} different {word}s"
    )
    active = Field("active", "those with an activation", header="firing", form="count", spare=1)
    new_to_last = Field(
        "new_vs_previous", "n-grams covered here and not in the layer before", header="new to last", form="count"
    )
    return (
        Table(
            (fields.LAYER, fields.NEURONS, active, DETECTORS, _covered(word), CUMULATIVE, NEW, new_to_last),
            found.layers,
            title,
        ),
        Table(
            (fields.LAYER, *_buckets(found.layers)),
            found.layers,
            f"Neurons by the fewest {word}s that hold 95% of their activations",
        ),
        Table((*FIELDS[:-1], replace(FIELDS[-1], header=f"{word}s")), found.detectors, top=True),
    )


def _sentence(found: NgramAnalysis, kept: Result) -> str:
    word = NGRAM_WORDS[found.n]
    places = f"{found.positions:,} places, {found.distinct:,} different {word}s"
    return f"{counted(len(found.detectors), f'{word} detector')} among {fields.total(found.layers):,} neurons; {places}"


def _kept(result: Result) -> str:
    d = result.document
    return f"n={d['n']} at {d['site']}: {counted(len(d['detectors']), 'detector')} among {fields.among(d['layers'])}"


def _searched(row: Detector) -> str:
    return "\n".join("".join(ngram.tokens) for ngram in row.ngrams)


# how it is drawn


def _by_k(found: NgramAnalysis, row: object) -> Plot:
    names = list(found.layers[0].buckets) if found.layers else []
    parts = {name: tuple(percent(layer.buckets[name], layer.active) for layer in found.layers) for name in names}
    what = f"% of firing neurons by k, the fewest {NGRAM_WORDS[found.n]}s with 95 % of their activations"
    return LayerBars(what, fields.numbers(found.layers), parts, whole=True, key="k: ")


def _detectors(found: NgramAnalysis, row: object) -> Plot:
    counts = tuple(float(layer.detectors) for layer in found.layers)
    word = NGRAM_WORDS[found.n]
    if not any(counts):
        return Nothing(f"no layer has a {word} detector: nothing to draw")
    return LayerBars(f"{word} detectors in each layer", fields.numbers(found.layers), {"": counts}, whole=True)


def _coverage(found: NgramAnalysis, row: object) -> Plot:
    word = NGRAM_WORDS[found.n]
    parts = {
        "covered by no earlier layer": tuple(float(layer.new_overall) for layer in found.layers),
        "by an earlier one, too": tuple(float(layer.covered - layer.new_overall) for layer in found.layers),
    }
    if not any(layer.covered for layer in found.layers):
        return Nothing(f"no {word} is covered by a detector: nothing to draw")
    return LayerBars(
        f"{word}s that each layer's detectors cover together", fields.numbers(found.layers), parts, whole=True
    )


def _charts(kept: Mapping[str, Kept]) -> Sequence[Section]:
    return ngram_charts({one.found.n: one.found for one in kept.values()})


# several runs


def _measures(variant: str) -> Sequence[Measure]:
    word = variant.removesuffix("s")

    def counted(key: str, title: str, meaning: str, width: int = 7) -> Measure:
        return Measure(key, title, meaning, lambda x: x[key], "count", width)

    return (
        Measure("percent", "% layer", f"{word} detectors, % of each layer's neurons",
                fields.percent_of_layer("detectors"), "%"),
        counted("detectors", "detectors", f"{word} detectors of each layer", 9),
        counted("covered", "covered", f"{word}s that each layer's detectors cover together"),
        counted("cumulative", "so far", f"{word}s covered up to and including each layer"),
        counted("new_overall", "new", f"{word}s covered by no earlier layer"),
    )  # fmt: skip


def _facts(found: NgramAnalysis) -> Sequence[Field]:
    word = NGRAM_WORDS[found.n]

    def of(key: str, meaning: str, header: str, value: Callable[[NgramAnalysis], int], spare: int = 0) -> Field:
        return Field(key, meaning, header=header, form="count", spare=spare, value=value)

    return (
        of("positions", "tokens at which an n-gram was counted", "tokens", lambda x: x.positions),
        of("distinct", "different n-grams", f"{word}s seen", lambda x: x.distinct, 2),
        of("neurons", "neurons of the layers", "neurons", lambda x: fields.total(x.layers)),
        of("detectors", "those that detect n-grams", "detectors", lambda x: len(x.detectors)),
        of("covered", "n-grams that they cover together", f"{word}s covered", lambda x: x.layers[-1].cumulative),
    )


def _compared_layers(found: NgramAnalysis) -> Sequence[Field]:
    return (DETECTORS, fields.share_of_layer("detectors"), _covered(NGRAM_WORDS[found.n]), CUMULATIVE, NEW)


def _more(found: Mapping[str, NgramAnalysis]) -> Sequence[Table]:
    some = next(iter(found.values()))

    def share(one: NgramAnalysis, bucket: str) -> float | None:
        active = fields.total(one.layers, "active")
        return sum(layer.buckets[bucket] for layer in one.layers) / active if active else None

    def of(bucket: str) -> Field:
        return Field(bucket, f"of the neurons that fired, k in {bucket}", header=bucket, form="percent", digits=0,
                     value=lambda item: share(item[1], bucket))  # fmt: skip

    run = Field("run", "name of the run", header="run", form="text", value=lambda item: item[0])
    title = f"Neurons that fired, by the fewest {NGRAM_WORDS[some.n]}s that hold 95% of their activations"
    return (Table((run, *map(of, some.layers[0].buckets)), list(found.items()), title),)


def _compared(found: Mapping[str, NgramAnalysis]) -> Sequence[Chart]:
    return compared_charts(found)


SPEC = AnalysisSpec(
    name="ngrams",
    of_values=lambda sites: True,
    does="Neurons that detect tokens, bigrams or trigrams, and what each layer adds.",
    answers="neurons that fire on a few n-grams only",
    explains=(
        "A neuron that is active at a token is triggered by the n-gram that ends there. k: the fewest n-grams that "
        "hold 95 % of its activations. A detector has a small k (5 tokens, 50 bigrams or trigrams) and covers "
        "n-grams: it fires on at least 95 % of their occurrences, and they hold at least 95 % of its activations. "
        "covers: that share. fired: its activations. suppr.: what it adds to the logits of the last tokens of its "
        "n-grams, per unit of its value (negative: it suppresses them; a dash: not computed, as that takes the "
        "model). After Voita et al. 2023."
    ),
    title="N-gram detectors",
    what=lambda options: f"{NGRAM_WORDS[options['n']]} detectors",
    options=(
        Option("n", "Tokens, bigrams or trigrams.", default=1, least=1, most=3),
        Option("model", "The run's model, for the suppression; as the run names it if not given.", type=str,
               metavar="M", afterwards=True),
    ),
    settings=lambda run, options: {"n": options["n"]},
    compute=ngrams,
    read=lambda result: NgramAnalysis.from_json(result.document),
    finish=_finish,
    printed=_printed,
    lists=(
        RowSet(lambda found: FIELDS, lambda found: found.detectors, ("layer", False),
                "no neuron is a detector: the nearest are named above", searched=_searched),
    ),
    sentence=_sentence,
    kept=_kept,
    drawings=(Drawing("by k", _by_k), Drawing("detectors", _detectors), Drawing("covered", _coverage)),
    variants=VARIANTS,
    kinds=(
        *(NeuronKind(f"ngrams{n}", "detectors", "coverage", {"n": n}) for n in NGRAM_WORDS),
        NeuronKind("ngram", "detectors", "coverage", collective=True),
    ),
    figure=Figures(_charts),
    comparison=Comparison(
        facts=_facts,
        layers=_compared_layers,
        measures=_measures,
        said=fields.said_of_layers("detectors", "detectors"),
        figures=_compared,
        more=_more,
        by_variant=True,
    ),
)  # fmt: skip
