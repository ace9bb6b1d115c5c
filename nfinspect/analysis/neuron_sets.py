"""Named sets of neurons, which an ablation cuts out: from a file or a trace; those by kind are in
nfinspect.analyses.neuron_kinds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nfinspect.analysis.trace import trace
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import read_text
from nfinspect_store.reader import RunFile


class EmptySet(RequestError):
    """A set has no neuron, so there is nothing to cut out; other sets can still be."""


@dataclass(frozen=True)
class NeuronSet:
    """Distinct neurons under one name, in order of site, layer and neuron; a site of None is the default one.

    notes: for the user, on how they were chosen.
    """

    name: str
    addresses: tuple[Address, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, addresses: Iterable[Address], notes: tuple[str, ...] = ()) -> "NeuronSet":
        """A set of these addresses, each once. Raises EmptySet if there is none."""
        different = sorted(set(addresses), key=lambda a: (a.site or "", a.layer, a.neuron))
        if not different:
            raise EmptySet(f"the set {name!r} is empty: there is no such neuron")
        return cls(name, tuple(different), notes)


def set_from_file(path: Path) -> NeuronSet:
    """The neurons of a text file, one address (`L5/N123`) a line; blank lines and what follows a # are ignored.

    Its name is the file's stem. Raises RequestError naming the line that is no address, and for an empty file.
    """
    lines = read_text(path, "neurons", RequestError).split("\n")
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


def set_of_trace(
    run: RunFile, concept: str, baseline: str | None = None, top: int = 10, site: str | None = None
) -> NeuronSet:
    """The neurons of a concept's trace, called `trace:CONCEPT`. Raises RequestError as `trace` does."""
    found = trace(run, concept, baseline=baseline, top=top, site=site)
    addresses = [Address(row.layer, row.neuron, row.site) for row in found.neurons]
    return NeuronSet.of(f"trace:{concept}", addresses, found.notes)
