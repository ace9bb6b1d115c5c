"""Named sets of neurons: from a file, by kind, from a trace. What is cut out in an ablation is such a set.

A kind is a health class (dead, weak, …), or a kind that an analysis found and kept: ngram, positional, delta,
attention. `dead+positional` are the neurons that are either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nfinspect.analysis.classes import CLASSES
from nfinspect.analysis.neurons import list_neurons
from nfinspect.analysis.trace import trace
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, list_results, model_results, run_results


@dataclass(frozen=True)
class Source:
    """Where a kind that an analysis found is kept: the result's kind, and the list in its document.

    of_model: beside the other results about the run's model, as the analysis goes without a run.
    """

    result: str
    field: str
    command: str
    of_model: bool = False


KEPT_KINDS = {
    "ngram": Source("ngrams", "detectors", "nfinspect ngrams RUN"),
    "positional": Source("positions", "neurons", "nfinspect positions RUN"),
    "delta": Source("delta", "neurons", "nfinspect delta RUN"),
    "attention": Source("attention", "neurons", "nfinspect attention MODEL", of_model=True),
}
KINDS = (*CLASSES, *KEPT_KINDS)


@dataclass(frozen=True)
class NeuronSet:
    """Different neurons under one name, in order of site, layer and neuron; a site of None is the default one.

    notes: what the user should be told of how they were chosen.
    """

    name: str
    addresses: tuple[Address, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, addresses: Iterable[Address], notes: tuple[str, ...] = ()) -> "NeuronSet":
        """Raises RequestError for an empty set: there is nothing to cut out."""
        different = sorted(set(addresses), key=lambda a: (a.site or "", a.layer, a.neuron))
        if not different:
            raise RequestError(f"the set {name!r} is empty: there is no such neuron")
        return cls(name, tuple(different), notes)


def set_from_file(path: Path) -> NeuronSet:
    """The neurons of a text file, one address (`L5/N123`) a line; blank lines and what follows a # do not count.

    Its name is the file's stem. Raises RequestError naming the line that is no address, and for an empty file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"expected addresses such as L5/N123 in {path}, found bytes that are no text") from error
    except OSError as error:
        raise RequestError(f"cannot read neurons from {path}: {error.strerror or error}") from error
    addresses = []
    for number, line in enumerate(lines, start=1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        try:
            addresses.append(parse_address(written))
        except RequestError as error:
            raise RequestError(f"{path}:{number}: {error}") from error
    if not addresses:
        raise RequestError(f"expected neurons in {path}, one address such as L5/N123 a line, found none")
    return NeuronSet.of(path.stem, addresses)


def set_of_kinds(run: RunFile, kinds: str, site: str | None = None) -> NeuronSet:
    """The neurons of a site that are of any of these kinds: `dead`, `dead+positional`.

    What an analysis found is taken from its newest kept result at that site. Raises RequestError for an unknown kind,
    a kind without a kept result, and where no neuron is of these kinds.
    """
    site = run.resolve_site(site)
    names = [name.strip().lower() for name in kinds.split("+")]
    addresses: list[Address] = []
    for name in names:
        if name in CLASSES:
            rows = list_neurons(run, site, cls=name, limit=None).rows
            addresses += [Address(row.layer, row.neuron, site) for row in rows]
        elif name in KEPT_KINDS:
            addresses += _kept(run, KEPT_KINDS[name], site)
        else:
            raise RequestError(f"no kind of neurons {name!r}: choose of {', '.join(KINDS)}, joined by +")
    if not addresses:
        raise RequestError(f"no neuron of {run.name} at {site} is {' or '.join(names)}: there is nothing to take")
    return NeuronSet.of("+".join(names), addresses)


def set_of_trace(
    run: RunFile, concept: str, baseline: str | None = None, top: int = 10, site: str | None = None
) -> NeuronSet:
    """The neurons of a concept's trace, called `trace:CONCEPT`. Raises RequestError as `trace` does."""
    found = trace(run, concept, baseline=baseline, top=top, site=site)
    addresses = [Address(row.layer, row.neuron, row.site) for row in found.neurons]
    return NeuronSet.of(f"trace:{concept}", addresses, found.notes)


def _kept(run: RunFile, source: Source, site: str) -> list[Address]:
    for result in _results(run, source):  # the newest first
        at = result.document.get("site") or result.settings.get("site") or site
        rows = result.document.get(source.field)
        if at == site and isinstance(rows, list):
            # `delta` lists every neuron and says which of them count.
            return [Address(row["layer"], row["neuron"], site) for row in rows if row.get("delta_sensitive", True)]
    command = source.command.replace("RUN", run.name).replace("MODEL", run.info.model)
    raise RequestError(f"no kept result at {site} to take these neurons from: run {command} first")


def _results(run: RunFile, source: Source) -> list[Result]:
    if source.of_model:
        found = list_results(model_results(run.path.parent, run.info.model))
    else:
        found = list_results(run_results(run.path), run.info.run_id)
    return [result for result in found if result.kind == source.result]
