"""What kinds of neurons share: the part of `overlap` that goes by kinds."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nfinspect import output
from nfinspect.cli.delta import kept_delta
from nfinspect.cli.ngrams import kept_ngrams
from nfinspect.cli.positions import kept_positions
from nfinspect.cli.tables import Column, figure, table, wrapped
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.kind_overlap import KindOverlap
    from nfinspect_store.reader import RunFile

FROM_THE_STORE: dict[str, "Callable[[RunFile, str | None], object]"] = {
    "positional": lambda file, site: kept_positions(file, None, site),
    "delta": lambda file, site: kept_delta(file, site),
    "ngrams1": lambda file, site: kept_ngrams(file, 1, site),
    "ngrams2": lambda file, site: kept_ngrams(file, 2, site),
    "ngrams3": lambda file, site: kept_ngrams(file, 3, site),
}
"""Kinds whose analysis needs no model, and what makes and keeps it; a bare `ngram` asks for what is there."""

SHOWN = 8
"""Shared neurons in a line for people; the JSON has all of them."""


def show_kinds(file: "RunFile", kinds: str, site: str | None, top: int | None, as_json: bool) -> None:
    """Print the overlap of kinds `A,B,C`, after the analyses that are missing and need no model."""
    from nfinspect.analysis.attention_scores import TOP
    from nfinspect.analysis.kind_overlap import overlap_of_kinds
    from nfinspect.analysis.kinds import check_kinds, newest

    names = [name.strip() for name in kinds.split(",") if name.strip()]
    parts = {part for name in names for part in check_kinds(name)}
    if len(names) < 2:
        raise RequestError(f"expected two kinds or more, as in --kinds dead,positional; found {kinds!r}")
    place = file.resolve_site(site)
    for part in (part for part in FROM_THE_STORE if part in parts):
        if newest(file, part, place) is None:
            FROM_THE_STORE[part](file, site)
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
                figure(pair.jaccard, 3),
                figure(pair.expected, 2),
                figure(pair.p_value, 2),
                shared + (" …" if len(pair.shared) > SHOWN else ""),
            )
        )
    sizes = ", ".join(f"{one.kind} {one.neurons}" for one in found.sets)
    title = (
        f"Kinds of neurons at {found.site}: {sizes}. Pairs are counted among the {found.alive} live neurons, with dead "
        f"as one of the two among all {found.neurons}"
    )
    return [*wrapped(title), *table(columns, rows)]
