"""The same analysis of several runs, beside each other over the depth of their networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from nfinspect import output
from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.cli.analysis import column, written
from nfinspect.cli.long_work import CommandLine
from nfinspect.cli.ngrams import kept_ngrams
from nfinspect.cli.options import opened
from nfinspect.cli.tables import Column, percent, table, wrapped
from nfinspect_store.errors import NfinspectError

if TYPE_CHECKING:
    from nfinspect.analyses.spec import AnalysisSpec
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect_store.reader import RunFile

Found = TypeVar("Found")
RUN_COLUMNS = [Column("depth"), Column("run", text=True), Column("layer"), Column("neurons", spare=2)]


@contextmanager
def opened_runs(store: str | None, names: Sequence[str]) -> "Iterator[dict[str, RunFile]]":
    """The runs by their names, open for reading; runs of one name from two stores are told apart by a number."""
    with ExitStack() as stack:
        files: dict[str, RunFile] = {}
        for name in names:
            file = stack.enter_context(opened(store, name))
            files[file.name if file.name not in files else f"{file.name} ({len(files) + 1})"] = file
        yield files


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
        found = _of_each(files, lambda file: kept_ngrams(file, n, site, layers, recompute=recompute)[1])
    for name, one in found.items():
        for text in one.notes:
            output.note(f"{name}: {text}")
    if as_json:
        output.document({"n": n, "runs": [_document(name, one.to_json()) for name, one in found.items()]})
    else:
        output.lines(compared_ngram_lines(found))


def compare(spec: "AnalysisSpec", store: str | None, names: Sequence[str], as_json: bool, **asked: Any) -> None:
    """Print an analysis of several runs. asked: of nfinspect.results.find_or_compute."""
    from nfinspect.results import find_or_compute

    with opened_runs(store, names) as files:
        found = _of_each(files, lambda file: find_or_compute(spec, file, reporter=CommandLine(), **asked)[1])
    for name, one in found.items():
        for text in spec.notes(one):
            output.note(f"{name}: {text}")
    for offered in dict.fromkeys(filter(None, map(spec.offers, found.values()))):
        output.note(f"{offered} lists them")
    if as_json:
        output.document({"runs": [_document(name, spec.document(one)) for name, one in found.items()]})
    else:
        output.lines(compared_lines(spec, found))


def compared_lines(spec: "AnalysisSpec", found: Mapping[str, Any]) -> list[str]:
    """The runs for people: in short, then by depth."""
    comparison = spec.comparison
    assert comparison is not None
    columns = [Column("run", text=True), Column("site", text=True, spare=1), *map(column, comparison.facts)]
    rows = [
        (name, one.site, *(written(field, field.of(one)) for field in comparison.facts)) for name, one in found.items()
    ]
    layers = _by_depth(found, lambda layer: [written(field, field.of(layer)) for field in comparison.layers])
    return [
        *wrapped(f"{spec.title} of {len(found)} runs"),
        *table(columns, rows),
        "",
        *wrapped("By depth: 0 is the first layer, 1 the last"),
        *table([*RUN_COLUMNS, *map(column, comparison.layers)], layers),
    ]


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
    by_depth = [Column("detectors"), Column("% of layer"), Column(f"{word}s"), Column("up to here"), Column("new")]
    layers = _by_depth(
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
    shares = [(name, *(percent(_share(one, bucket), 0) for bucket in buckets)) for name, one in found.items()]
    return [
        *wrapped(f"{word.capitalize()} detectors of {len(found)} runs"),
        *table(columns, rows),
        "",
        *wrapped("By depth: 0 is the first layer, 1 the last"),
        *table([*RUN_COLUMNS, *by_depth], layers),
        "",
        *wrapped(f"Neurons that fired, by the fewest {word}s that hold 95% of their activations"),
        *table([Column("run", text=True), *(Column(name) for name in buckets)], shares),
    ]


def _of_each(files: "Mapping[str, RunFile]", make: "Callable[[RunFile], Found]") -> "dict[str, Found]":
    found = {}
    for name, file in files.items():
        try:
            found[name] = make(file)
        except NfinspectError as error:
            raise type(error)(f"{name}: {error}") from error
    return found


def _document(name: str, document: Mapping[str, object]) -> dict[str, object]:
    """A run's own document with its name, and where each of its layers lies."""
    from nfinspect.analysis.depth import depths

    layers = document["layers"]
    assert isinstance(layers, list)
    placed = [{**layer, "depth": depth} for layer, depth in zip(layers, depths(layers), strict=True)]
    return {"run": name, **document, "layers": placed}


def _by_depth(found: Mapping[str, Any], cells: Callable[[Any], Sequence[object]]) -> list[tuple[object, ...]]:
    """A row for each layer of each run, from the first layers of all to the last."""
    from nfinspect.analysis.depth import depths

    rows = [
        (depth, i, (f"{depth:.2f}", name, layer.layer, layer.neurons, *cells(layer)))
        for i, (name, one) in enumerate(found.items())
        for layer, depth in zip(one.layers, depths(one.layers), strict=True)
    ]
    return [row for *_, row in sorted(rows, key=lambda row: row[:2])]


def _sum(one: Any, name: str) -> int:
    return sum(getattr(layer, name) for layer in one.layers)


def _share(one: "NgramAnalysis", bucket: str) -> float | None:
    active = sum(layer.active for layer in one.layers)
    return sum(layer.buckets[bucket] for layer in one.layers) / active if active else None
