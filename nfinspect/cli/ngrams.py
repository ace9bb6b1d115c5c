"""Neurons that detect tokens, bigrams or trigrams."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.analysis.ticks import Tick
from nfinspect.cli.capture import layer_list
from nfinspect.cli.compared import RUN_COLUMNS, by_depth, document_of, of_each, opened_runs
from nfinspect.cli.options import (
    json_option,
    layers_option,
    one_run,
    opened,
    optional_run_argument,
    run_names,
    runs_option,
    site_option,
    store_option,
)
from nfinspect.cli.progress import find_or_compute, recompute_option
from nfinspect.cli.run_model import run_model
from nfinspect.json_values import jsonable
from nfinspect.model_files import lasting_name
from nfinspect.present.numbers import number, percent
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.errors import NfinspectError, RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.ngrams import CoveredNgram, NgramAnalysis
    from nfinspect.models import LoadedModel
    from nfinspect.results import Made
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result


@click.command()
@optional_run_argument
@runs_option
@click.option("--n", type=click.IntRange(1, 3), default=1, show_default=True, help="Tokens, bigrams or trigrams.")
@layers_option
@click.option("--model", metavar="M", help="The run's model, for the suppression; where the run says if not given.")
@click.option("--top", metavar="K", type=click.IntRange(min=0), default=20, show_default=True, help="Detectors shown.")
@site_option
@recompute_option
@store_option
@json_option
def ngrams(
    run: str | None,
    runs: str | None,
    n: int,
    layers: str | None,
    model: str | None,
    top: int,
    site: str | None,
    recompute: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Neurons that detect tokens, bigrams or trigrams, and what each layer adds."""
    if runs is not None:
        if model is not None:
            raise RequestError("--model goes with one run: what is compared is without suppression")
        compare_ngrams(store, run_names(run, runs), n, site, layer_list(layers), recompute, as_json)
        return
    with opened(store, one_run(run)) as file:
        kept, found = kept_ngrams(file, n, site, layer_list(layers), recompute=recompute)
        found = _with_suppression(file, kept, found, model)
    for note in found.notes:
        output.note(note)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(ngram_lines(found, top))


def kept_ngrams(
    file: "RunFile", n: int, site: str | None = None, layers: Sequence[int] | None = None, *, recompute: bool = False
) -> "tuple[Result, NgramAnalysis]":
    """The kept analysis, or a new one, which is kept."""
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect.analysis.ngrams import ngrams as analyse
    from nfinspect_store.results import run_results

    chosen = chosen_layers(file, site, layers)
    settings = {"n": n, "site": chosen[0].site, "layers": [layer.layer for layer in chosen]}

    def make(tick: Tick) -> "Made":
        return analyse(file, n, site, layers, tick).to_json(), {}

    folder, what = run_results(file.path), f"{NGRAM_WORDS[n]} detectors"
    run_id = file.info.run_id

    def read(result: "Result") -> NgramAnalysis:
        return NgramAnalysis.from_json(result.document)

    return find_or_compute(folder, "ngrams", settings, run_id, make, read, recompute=recompute, what=what)


def _with_suppression(file: "RunFile", kept: "Result", found: "NgramAnalysis", model: str | None) -> "NgramAnalysis":
    """The analysis with suppressions, or itself where they are known, or where the run's own model cannot be had."""
    known = found.suppression_model
    if not found.detectors or (known is not None and (model is None or lasting_name(known) == lasting_name(model))):
        return found
    try:
        return keep_suppression(kept, found, run_model(file, model, "it" if model is None else "suppression"))
    except NfinspectError as error:
        if model is not None:
            raise
        output.note(f"suppression is left out: {error}")
        return found


def keep_suppression(kept: "Result", found: "NgramAnalysis", loaded: "LoadedModel") -> "NgramAnalysis":
    """The analysis with what its detectors do to the logits of their own n-grams, which is kept with it."""
    from nfinspect.experiments.suppression import with_suppression
    from nfinspect_store.results import keep_result

    suppressing = with_suppression(found, loaded)
    document = jsonable(suppressing.to_json())
    keep_result(kept.path.parent, kept.kind, kept.settings, document, run_id=kept.run_id)
    return suppressing


def ngram_lines(found: "NgramAnalysis", top: int) -> list[str]:
    """The analysis for people, with the first `top` detectors."""
    word = NGRAM_WORDS[found.n]
    neurons = sum(layer.neurons for layer in found.layers)
    title = (
        f"{len(found.detectors)} {word} detector{'' if len(found.detectors) == 1 else 's'} among {neurons} neurons "
        f"at {found.site}, "
        f"from {found.positions} tokens with {found.distinct} different {word}s"
    )
    columns = [
        Column("layer"),
        Column("neurons", spare=2),
        Column("firing", spare=1),
        Column("detectors"),
        Column(f"{word}s"),
        Column("up to here"),
        Column("new"),
        Column("new to last"),
    ]
    rows = [
        (
            layer.layer,
            layer.neurons,
            layer.active,
            layer.detectors,
            layer.covered,
            layer.cumulative,
            layer.new_overall,
            layer.new_vs_previous,
        )
        for layer in found.layers
    ]
    lines = [*wrapped(title), *table(columns, rows), "", *_bucket_lines(found)]
    return lines + (["", *_detector_lines(found, top)] if found.detectors and top else [])


def _bucket_lines(found: "NgramAnalysis") -> list[str]:
    names = list(found.layers[0].buckets)
    rows = [(layer.layer, *layer.buckets.values()) for layer in found.layers]
    title = f"Neurons by the fewest {NGRAM_WORDS[found.n]}s that hold 95% of their activations"
    return [*wrapped(title), *table([Column("layer"), *(Column(name) for name in names)], rows)]


def _detector_lines(found: "NgramAnalysis", top: int) -> list[str]:
    columns = [
        Column("neuron", text=True),
        Column("fewest"),
        Column("covered"),
        Column("fired", spare=1),
        Column("suppression", spare=2),
        Column(f"{NGRAM_WORDS[found.n]}s", text=True),
    ]
    rows = [
        (
            detector.address,
            detector.k,
            percent(detector.coverage),
            detector.activations,
            number(detector.suppression, digits=3),
            " ".join(map(_quoted, detector.ngrams)),
        )
        for detector in found.detectors[:top]
    ]
    more = len(found.detectors) - len(rows)
    return [*table(columns, rows), *([f"and {more} more (--top {len(found.detectors)})"] if more else [])]


def _quoted(ngram: "CoveredNgram") -> str:
    return f'"{ngram.text}"'


# several runs


def compare_ngrams(
    store: str | None,
    names: Sequence[str],
    n: int,
    site: str | None,
    layers: Sequence[int] | None,
    recompute: bool,
    as_json: bool,
) -> None:
    """Print the n-gram detectors of several runs, without suppression."""
    with opened_runs(store, names) as files:
        found = of_each(files, lambda file: kept_ngrams(file, n, site, layers, recompute=recompute)[1])
    for name, one in found.items():
        for text in one.notes:
            output.note(f"{name}: {text}")
    if as_json:
        output.document({"n": n, "runs": [document_of(name, one.to_json()) for name, one in found.items()]})
    else:
        output.lines(compared_ngram_lines(found))


def compared_ngram_lines(found: "Mapping[str, NgramAnalysis]") -> list[str]:
    """The runs for people: in short, then by depth, then all neurons by K."""
    some = next(iter(found.values()))
    word = NGRAM_WORDS[some.n]
    columns = [
        Column("run", text=True),
        Column("site", text=True, spare=1),
        Column("tokens"),
        Column(f"{word}s seen", spare=2),
        Column("neurons"),
        Column("detectors"),
        Column(f"{word}s covered"),
    ]
    rows = [
        (
            name,
            one.site,
            one.positions,
            one.distinct,
            _sum(one, "neurons"),
            len(one.detectors),
            one.layers[-1].cumulative,
        )
        for name, one in found.items()
    ]
    shown = [Column("detectors"), Column("% of layer"), Column(f"{word}s"), Column("up to here"), Column("new")]
    layers = by_depth(
        found,
        lambda layer: (
            layer.detectors,
            percent(layer.detectors / layer.neurons),
            layer.covered,
            layer.cumulative,
            layer.new_overall,
        ),
    )
    buckets = list(some.layers[0].buckets)
    shares = [(name, *(percent(_share(one, bucket), places=0) for bucket in buckets)) for name, one in found.items()]
    return [
        *wrapped(f"{word.capitalize()} detectors of {len(found)} runs"),
        *table(columns, rows),
        "",
        *wrapped("By depth: 0 is the first layer, 1 the last"),
        *table([*RUN_COLUMNS, *shown], layers),
        "",
        *wrapped(f"Neurons that fired, by the fewest {word}s that hold 95% of their activations"),
        *table([Column("run", text=True), *(Column(name) for name in buckets)], shares),
    ]


def _sum(one: Any, name: str) -> int:
    return sum(getattr(layer, name) for layer in one.layers)


def _share(one: "NgramAnalysis", bucket: str) -> float | None:
    active = sum(layer.active for layer in one.layers)
    return sum(layer.buckets[bucket] for layer in one.layers) / active if active else None
