"""What kinds of neurons share: the part of `overlap` that goes by kinds."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nfinspect import output
from nfinspect.cli.delta import kept_delta
from nfinspect.cli.ngrams import kept_ngrams
from nfinspect.cli.progress import CommandLine
from nfinspect.present.numbers import fixed, number
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analyses.kind_overlap import KindOverlap
    from nfinspect.analyses.spec import AnalysisSpec, Options
    from nfinspect_store.reader import RunFile

OWN_COMMANDS: dict[str, "Callable[[RunFile, str | None], object]"] = {
    "delta": lambda file, site: kept_delta(file, site),
    "ngrams1": lambda file, site: kept_ngrams(file, 1, site),
    "ngrams2": lambda file, site: kept_ngrams(file, 2, site),
    "ngrams3": lambda file, site: kept_ngrams(file, 3, site),
}
"""Kinds whose analysis has a command of its own, and what makes and keeps it; `ngram` asks for what is there."""


def makers() -> dict[str, "Callable[[RunFile, str | None], object]"]:
    """Kinds whose analysis needs no model, and what makes and keeps it."""
    from nfinspect.analyses import specs

    def maker(spec: "AnalysisSpec", options: "Options") -> "Callable[[RunFile, str | None], object]":
        def make(file: "RunFile", site: str | None) -> object:
            from nfinspect.results import find_or_compute

            return find_or_compute(spec, file, site, reporter=CommandLine(), **options)

        return make

    known = {kind.name: maker(spec, kind.options) for spec in specs() if spec.needs == "run" for kind in spec.kinds}
    return {**known, **OWN_COMMANDS}


SHOWN = 8
"""Shared neurons in a line for people; the JSON has all of them."""


def show_kinds(file: "RunFile", kinds: str, site: str | None, top: int | None, as_json: bool) -> None:
    """Print the overlap of kinds `A,B,C`, after the analyses that are missing and need no model."""
    from nfinspect.analyses.kind_overlap import overlap_of_kinds
    from nfinspect.analyses.kinds import check_kinds, newest
    from nfinspect.analysis.attention_scores import TOP

    names = [name.strip() for name in kinds.split(",") if name.strip()]
    parts = {part for name in names for part in check_kinds(name)}
    if len(names) < 2:
        raise RequestError(f"expected two kinds or more, as in --kinds dead,positional; found {kinds!r}")
    place = file.resolve_site(site)
    for part, make in makers().items():
        if part in parts and newest(file, part, place) is None:
            make(file, site)
    found = overlap_of_kinds(file, names, site, top or TOP)
    for note in found.notes:
        output.note(note)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(kind_lines(found))


def kind_lines(found: "KindOverlap") -> list[str]:
    """The overlap for people."""
    columns = [
        Column("a", text=True),
        Column("of it", spare=1),
        Column("b", text=True),
        Column("of it", spare=1),
        Column("shared"),
        Column("Jaccard"),
        Column("by chance", spare=2),
        Column("p"),
        Column("neurons", text=True),
    ]
    rows = []
    for pair in found.pairs:
        shared = " ".join(f"L{one.layer}/N{one.neuron}" for one in pair.shared[:SHOWN])
        rows.append(
            (
                pair.a,
                pair.neurons_a,
                pair.b,
                pair.neurons_b,
                pair.overlap,
                fixed(pair.jaccard),
                number(pair.expected, digits=3),
                number(pair.p_value, digits=2),
                shared + (" …" if len(pair.shared) > SHOWN else ""),
            )
        )
    sizes = ", ".join(f"{one.kind} {one.neurons:,}" for one in found.sets)
    title = (
        f"Kinds of neurons at {found.site}: {sizes}. Pairs are counted among the {found.alive:,} live neurons, with "
        f"dead as one of the two among all {found.neurons:,}"
    )
    return [*wrapped(title), *table(columns, rows)]
