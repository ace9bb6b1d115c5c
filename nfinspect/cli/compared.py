"""The same analysis of several runs, next to each other over the depth of their networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from nfinspect import output
from nfinspect.cli.fields import column, field_table
from nfinspect.cli.options import opened
from nfinspect.cli.progress import CommandLine
from nfinspect.present.numbers import fixed
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.errors import NfinspectError

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import AnalysisSpec, Variant
    from nfinspect_store.reader import RunFile

Found = TypeVar("Found")
RUN_COLUMNS = [Column("depth"), Column("run", text=True), Column("layer"), Column("neurons", spare=2)]


@contextmanager
def opened_runs(store: str | None, names: Sequence[str], *, committed: bool = False) -> "Iterator[dict[str, RunFile]]":
    """The runs by their names, open for reading; a number distinguishes runs of one name from two stores.

    committed: as for `opened`.
    """
    with ExitStack() as stack:
        files: dict[str, RunFile] = {}
        for name in names:
            file = stack.enter_context(opened(store, name, committed=committed))
            files[file.name if file.name not in files else f"{file.name} ({len(files) + 1})"] = file
        yield files


def compare(spec: "AnalysisSpec", store: str | None, names: Sequence[str], as_json: bool, **asked: Any) -> None:
    """Print an analysis of several runs. asked: of nfinspect.results.find_or_compute."""
    from nfinspect.results import find_or_compute

    with opened_runs(store, names) as files:
        found = of_each(files, lambda file: find_or_compute(spec, file, reporter=CommandLine(), **asked)[1])
        edits = {name: file.edits for name, file in files.items()}
    for name, one in found.items():
        note_on(name, edits[name], spec.notes(one))
    for offered in dict.fromkeys(filter(None, map(spec.offers, found.values()))):
        output.note(f"{offered} lists them")
    if as_json:
        variant = _variant(spec, asked)
        documents = [document_of(name, spec.document(one), edits[name]) for name, one in found.items()]
        output.document({**(variant.options if spec.variants else {}), "runs": documents})
    else:
        output.lines(compared_lines(spec, found, _variant(spec, asked).title))


def note_on(name: str, edits: str, notes: Sequence[str]) -> None:
    """On stderr what has to be known of one of several runs."""
    if edits:
        output.note(f"{name} was captured with edits ({edits})")
    for text in notes:
        output.note(f"{name}: {text}")


def _variant(spec: "AnalysisSpec", asked: Mapping[str, Any]) -> "Variant":
    return next(one for one in spec.every_variant() if one.options.items() <= asked.items())


def compared_lines(spec: "AnalysisSpec", found: Mapping[str, Any], title: str) -> list[str]:
    """The runs for people: a summary, then by depth, then what else the analysis compares."""
    comparison, some = spec.comparison, next(iter(found.values()))
    assert comparison is not None
    facts, fields = comparison.facts(some), comparison.layers(some)
    columns = [Column("run", text=True), Column("site", text=True, spare=1), *map(column, facts)]
    rows = [(name, one.site, *(field.written(one) for field in facts)) for name, one in found.items()]
    layers_of = {name: one.layers for name, one in found.items()}
    layers = by_depth(layers_of, lambda layer: [field.written(layer) for field in fields])
    more = comparison.more(found)
    return [
        *wrapped(f"{title} of {len(found)} runs"),
        *table(columns, rows),
        "",
        *wrapped("By depth: 0 is the first layer, 1 the last"),
        *table([*RUN_COLUMNS, *map(column, fields)], layers),
        *(line for one in more for line in ["", *wrapped(one.title), *field_table(one)]),
    ]


def of_each(files: "Mapping[str, RunFile]", make: "Callable[[RunFile], Found]") -> "dict[str, Found]":
    found = {}
    for name, file in files.items():
        try:
            found[name] = make(file)
        except NfinspectError as error:
            raise type(error)(f"{name}: {error}") from error
    return found


def document_of(name: str, document: Mapping[str, object], edits: str, layers_in: str = "layers") -> dict[str, object]:
    """A run's own document with its name, the edits of its model, and the depth of each of its layers."""
    from nfinspect.analysis.depth import depths

    layers = document[layers_in]
    assert isinstance(layers, list)
    placed = [{**layer, "depth": depth} for layer, depth in zip(layers, depths(layers), strict=True)]
    return {"run": name, "edits": edits or None, **document, layers_in: placed}


def by_depth(
    layers_of: Mapping[str, Sequence[Any]], cells: Callable[[Any], Sequence[object]]
) -> list[tuple[object, ...]]:
    """A row for each layer of each run, from the first layers of all to the last. layers_of: by run."""
    from nfinspect.analysis.depth import depths

    rows = [
        (depth, i, (fixed(depth, places=2), name, layer.layer, layer.neurons, *cells(layer)))
        for i, (name, layers) in enumerate(layers_of.items())
        for layer, depth in zip(layers, depths(layers), strict=True)
    ]
    return [row for *_, row in sorted(rows, key=lambda row: row[:2])]
