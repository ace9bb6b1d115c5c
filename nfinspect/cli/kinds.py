"""What kinds of neurons share: `overlap --kinds`."""

from typing import TYPE_CHECKING

from nfinspect import output
from nfinspect.analyses.kinds import SPEC
from nfinspect.cli.analysis import lines
from nfinspect.cli.progress import CommandLine
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect_store.reader import RunFile


def make_kind(file: "RunFile", site: str | None, kind: str) -> None:
    """Compute and save the analysis of a kind, one that needs no model. Raises what the analysis raises."""
    from nfinspect.analyses.neuron_kinds import KEPT_KINDS
    from nfinspect.results import find_or_compute

    source = KEPT_KINDS[kind]
    find_or_compute(source.spec, file, site, reporter=CommandLine(), **source.kind.options)


def made_from_runs() -> tuple[str, ...]:
    """The kinds whose analysis needs no model."""
    from nfinspect.analyses.neuron_kinds import KEPT_KINDS, SINGLE_KINDS

    return tuple(name for name in SINGLE_KINDS if KEPT_KINDS[name].spec.needs == "run")


def show_kinds(file: "RunFile", kinds: str, site: str | None, top: int | None, as_json: bool) -> None:
    """Print the overlap of kinds `A,B,C`, after the analyses that are missing and need no model."""
    from nfinspect.analyses.kind_overlap import overlap_of_kinds
    from nfinspect.analyses.neuron_kinds import check_kinds, newest
    from nfinspect.analysis.attention_methods import TOP

    names = [name.strip() for name in kinds.split(",") if name.strip()]
    parts = {part for name in names for part in check_kinds(name)}
    if len(names) < 2:
        raise RequestError(f"expected two kinds or more, as in --kinds dead,positional; found {kinds!r}")
    place = file.resolve_site(site)
    for part in made_from_runs():
        if part in parts and newest(file, part, place) is None:
            make_kind(file, site, part)
    found = overlap_of_kinds(file, names, site, top or TOP)
    for note in found.notes:
        output.note(note)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(lines(SPEC, found))
