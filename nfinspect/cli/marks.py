"""Marks, notes and sets of a store: listed, and changed from scripts."""

from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.options import complete_run, json_option, opened, store_option
from nfinspect.present.tables import Column, table
from nfinspect.text import model_name
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError
from nfinspect_store.marks import MARKED, Made, Marks, Subject, check_set_name, with_sites
from nfinspect_store.marks_file import MarksFile, Written, changed, noted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfinspect_store.addresses import Address
    from nfinspect_store.reader import RunFile


@click.command()
@click.argument("directory", metavar="[STORE]", required=False)
@click.option("--run", metavar="RUN", shell_complete=complete_run,
              help="Only neurons of RUN or its model; those that --add, --remove and --note name.")  # fmt: skip
@click.option("--set", "name", metavar="NAME", help="Only this set; the one that --add and --remove change.")
@click.option("--add", metavar="NEURON", multiple=True,
              help="Put L5/N123, the neurons of a FILE or of another @set into the set. Repeatable.")  # fmt: skip
@click.option("--remove", metavar="NEURON", multiple=True, help="Take these out of the set. Repeatable.")
@click.option("--note", "notes", metavar="NEURON TEXT", nargs=2, multiple=True,
              help="Write a note on a neuron in place of the one it has; '' deletes it. Repeatable.")  # fmt: skip
@store_option
@json_option
def marks(
    directory: str | None,
    run: str | None,
    name: str | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    notes: tuple[tuple[str, str], ...],
    store: str | None,
    as_json: bool,
) -> None:
    """List marked neurons, notes and named sets of the store, or change them.

    Without --set, --add and --remove change the set "marked": what Space marks in the app.
    """
    if directory is not None and store is not None:
        raise RequestError(f"expected one store, found {directory!r} and --store")
    path = store_path(directory or store)
    chosen = None if name is None else check_set_name(name)
    if run is None and (add or remove or notes):
        raise RequestError(
            "--add, --remove and --note need a run, as in --run RUN: a neuron is one of a run or its model"
        )
    file = MarksFile(path)
    of = None
    if run is not None:
        with opened(str(path), run) as opened_run:
            subject = Subject.of(opened_run.info, opened_run.name)
            found = file.read()
            changes = _changes(opened_run, subject, found, chosen or MARKED, add, remove, notes)
        found = file.write(changes) if changes else found
        of = found.owner(subject)
    else:
        found = file.read()
    if file.skipped:
        output.note(
            f"{file.skipped:,} lines of {file.path} say nothing that this nfinspect understands; they stay there"
        )
    rows = [row for row in listed(found) if of in (None, row["of"]) and (chosen is None or chosen in row["sets"])]
    if as_json:
        output.document(rows)
    elif not rows:
        output.note(f"nothing marked in {path}: Space marks a neuron in the app, --run RUN --add L5/N123 here")
    else:
        output.lines(_lines(rows))


def _changes(
    run: "RunFile",
    subject: Subject,
    found: Marks,
    name: str,
    add: "Sequence[str]",
    remove: "Sequence[str]",
    notes: "Sequence[tuple[str, str]]",
) -> list[Written]:
    """What the options ask for. Raises RequestError for a neuron that the run does not have."""
    changes = []
    for texts, added in ((add, True), (remove, False)):
        neurons = [a for text in texts for a in neurons_of(run, text)]
        if neurons:
            changes.append(changed(subject, name, with_sites(neurons, run.default_site), added=added))
    for address, text in notes:
        layer, neuron = run.resolve(address)
        was = found.note(found.owner(subject), layer.site, (layer.layer, neuron))
        (place,) = with_sites([_at(layer.layer, neuron, layer.site)], layer.site)
        changes.append(noted(subject, place, text, was))
    return changes


def neurons_of(run: "RunFile", text: str) -> "tuple[Address, ...]":
    """The neurons of a run that `text` names: an address, a set `@name`, or a file with one address a line.

    Raises RequestError where there are none.
    """
    from pathlib import Path

    from nfinspect.analysis.neuron_sets import set_from_file

    if text.startswith("@"):
        found, absent = run.marked_and_absent(text)
        if absent:
            output.note(f"{absent:,} neurons of {text} are at sites or layers that {run.name} does not have: left out")
        return found
    if Path(text).is_file():
        given = set_from_file(Path(text)).addresses
    else:
        from nfinspect_store.addresses import parse_address

        given = (parse_address(text),)
    return tuple(_at(layer.layer, neuron, layer.site) for layer, neuron in map(run.resolve, given))


def _at(layer: int, neuron: int, site: str) -> "Address":
    from nfinspect_store.addresses import Address

    return Address(layer, neuron, site)


def listed(found: Marks) -> "list[dict[str, Any]]":
    """One row for each neuron that is in a set or has a note, by owner, site, layer and neuron."""
    rows: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    for of, site, neuron, made in _every(found):
        row = rows.setdefault(
            (of, site, *neuron),
            {
                "site": site,
                "layer": neuron[0],
                "neuron": neuron[1],
                "sets": [],
                "note": made.text or None,
                "model": made.model,
                "run": made.run,
                "at": made.at,
                "of": of,
            },
        )
        row["note"] = row["note"] or made.text or None
    for name in found.names():
        for of, sites in found.sets[name].items():
            for site, neurons in sites.items():
                for neuron in neurons:
                    rows[of, site, *neuron]["sets"].append(name)
    return [rows[key] for key in sorted(rows)]


def _every(found: Marks) -> "Iterator[tuple[str, str, tuple[int, int], Made]]":
    for owners in (*found.sets.values(), found.notes):
        for of, sites in owners.items():
            for site, neurons in sites.items():
                for neuron, made in neurons.items():
                    yield of, site, neuron, made


def _lines(rows: "list[dict[str, Any]]") -> list[str]:
    columns = [
        Column("neuron", text=True, whole=True),
        Column("sets", text=True),
        Column("run", text=True),
        Column("model", text=True, spare=2),
        Column("note", text=True, spare=1),
    ]
    cells = [
        (
            f"{row['site']}:L{row['layer']}/N{row['neuron']}",
            " ".join(f"@{name}" for name in row["sets"]),
            row["run"],
            model_name(row["model"]),
            row["note"] or "",
        )
        for row in rows
    ]
    return table(columns, cells)
