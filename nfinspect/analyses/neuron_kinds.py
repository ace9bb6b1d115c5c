"""Neurons by kind: a health class (dead, weak, …), or the neurons in an analysis' saved result.

    dead … normal            the run's own classes
    positional               nfinspect positions
    delta                    nfinspect delta
    ngrams1 ngrams2 ngrams3  nfinspect ngrams --n 1, 2, 3; `ngram` is the newest of them
    attention                nfinspect attention: the neurons with the largest |score|
    massive                  nfinspect sinks

A kind of an analysis comes from its newest saved result over all of the site's layers, a result of the run before one
of its model. It has a strength, by which a share of the site's neurons can be taken; a health class has none.
`dead+positional` are the neurons that are of either kind.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nfinspect.analyses import command_of, formats, specs
from nfinspect.analyses.analysis_spec import AnalysisSpec, NeuronKind, Options, Variant, option_words
from nfinspect.analysis.attention_methods import TOP
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.neuron_sets import EmptySet, NeuronSet
from nfinspect.analysis.neurons import list_neurons
from nfinspect.analysis.provenance import results_about, whose
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result
from nfinspect_store.types import CLASSES


class NoKeptResult(RequestError):
    """The analysis that finds a kind of neurons has no saved result; the message names its command."""


ORDER = ("positions", "delta", "ngrams", "attention")
"""The analyses whose kinds come first where all are listed; the others follow."""


@dataclass(frozen=True)
class Source:
    """An analysis that finds a kind of neurons."""

    spec: AnalysisSpec
    kind: NeuronKind


KEPT_KINDS = {kind.name: Source(one, kind) for one in specs(ORDER) for kind in one.kinds}
SINGLE_KINDS = tuple(name for name, source in KEPT_KINDS.items() if not source.kind.collective)
"""The kinds of one analysis each with its options: all but `ngram`, which is the newest of several."""

KINDS = (*CLASSES, *KEPT_KINDS)


@dataclass(frozen=True)
class Kind:
    """The neurons of a site that are of a kind, in order of layer and neuron.

    name: as asked, in lower case, `dead+positional`. results: the saved results they were taken from. notes: how a
    share was taken, and which results are not the run's own or rest on too little.
    """

    name: str
    site: str
    neurons: tuple[tuple[int, int], ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("+"))

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(Address(layer, neuron, self.site) for layer, neuron in self.neurons)


def check_kinds(kinds: str) -> tuple[str, ...]:
    """The kinds that are joined, as in `dead+positional`. Raises RequestError for an unknown one."""
    names = tuple(name.strip().lower() for name in kinds.split("+"))
    for name in names:
        if name not in KINDS:
            raise RequestError(f"no kind of neurons {name!r}: choose of {', '.join(KINDS)}, joined by +")
    return tuple(dict.fromkeys(names))


def find_kind(run: RunFile, kinds: str, site: str | None = None, top: int = TOP, share: float | None = None) -> Kind:
    """The neurons of a site that are of any of these kinds: `dead`, `dead+positional`; there may be none.

    top: how many neurons `attention` has. share: of each kind that has a strength, only its strongest neurons, as many
    as this share (0-1) of all neurons of the site, so that kinds of different sizes become sets of one size. Raises
    RequestError for an unknown kind or site, NoKeptResult for a kind whose analysis has no saved result, StoreError if
    this run cannot have the kind.
    """
    site = run.resolve_site(site)
    names = check_kinds(kinds)
    found: set[tuple[int, int]] = set()
    results, notes = [], []
    total = sum(layer.neurons for layer in run.site_layers(site))
    most = None if share is None else max(1, round(share * total))
    for name in names:
        if name in CLASSES:
            of_class = list_neurons(run, site, cls=name, limit=None).rows
            found |= {(row.layer, row.neuron) for row in of_class}
            if most is not None:
                notes.append(f"{name}: all of them, a health class has no strength to take a share by")
            if of_class and (few := few_tokens(min(row.n for row in of_class))):
                notes.append(few)
            continue
        result = newest(run, name, site)
        if result is None:
            raise NoKeptResult(f"no saved result at {site} to take {name} neurons from: run {command(run, name)} first")
        ordered = _neurons(run, name, result, most or top)
        found |= set(ordered[:most])
        results.append(result)
        if said := whose(result):
            notes.append(f"{name}: {said}")
        notes += [
            f"{name}: {note}" for note in result.document.get("notes", ())
        ]  # for example that it rests on too little
        if most is not None:
            by = KEPT_KINDS[name].kind.strength or "|score|"
            taken = (
                f"the {most:,} largest by {by}"
                if len(ordered) >= most
                else f"all {len(ordered):,}, there are not {most:,}"
            )
            notes.append(f"{name}: {taken}, {most:,} being a share of {share:g} of the {total:,} neurons at {site}")
    return Kind("+".join(names), site, tuple(sorted(found)), tuple(results), tuple(dict.fromkeys(notes)))


def newest(run: RunFile, kind: str, site: str) -> Result | None:
    """The newest saved result of a kind's analysis over all layers of the site, if there is one."""
    source = KEPT_KINDS[kind]
    fitting = newest_with(run, source.spec, source.kind.options, site)
    return next((r for r in fitting if _lists_neurons(r.document.get(source.kind.rows))), None)


def newest_with(run: RunFile, spec: AnalysisSpec, options: Options, site: str) -> Iterator[Result]:
    """The saved results of an analysis with these options over all layers of the site, ordered as
    `kept_over_all_layers` does.
    """
    for result in kept_over_all_layers(run, spec, site):
        if all(result.document.get(name, result.settings.get(name)) == value for name, value in options.items()):
            yield result


def kind_of(spec: AnalysisSpec, variant: Variant) -> str:
    """The kind that a variant of an analysis finds; empty if it finds none."""
    return next((kind.name for kind in spec.kinds if kind.options == variant.options), "")


def _lists_neurons(rows: Any) -> bool:
    """Whether these are rows about neurons, as every document of a kind has them."""
    return isinstance(rows, list) and all(isinstance(row, dict) and {"layer", "neuron"} <= row.keys() for row in rows)


def kept_over_all_layers(run: RunFile, spec: AnalysisSpec, site: str) -> tuple[Result, ...]:
    """The saved results of an analysis that cover every layer of the site: the run's own first, then the newest first.

    If the analysis needs the model, also those of the run's model in the same store.
    """
    covers = spec.covers or _covers
    found = results_about(run, spec.result_kind, formats())
    return tuple(x for x in found if (spec.needs == "model" or x.run_id is not None) and covers(run, x, site))


def command(run: RunFile, kind: str, site: str | None = None) -> str:
    """The command that computes a kind's result."""
    spec, usual = KEPT_KINDS[kind].spec, KEPT_KINDS[kind].spec.defaults()
    options = KEPT_KINDS[kind].kind.options
    given = option_words({name: value for name, value in options.items() if value != usual.get(name)})
    what = f"{run.info.model or 'MODEL'} --from {run.name}" if spec.needs == "model" else run.name
    where = [] if site in (None, run.default_site) else [f"--site {site}"]
    return " ".join(["nfinspect", command_of(spec.name), what, *given, *where])


def _covers(run: RunFile, result: Result, site: str) -> bool:
    if (result.document.get("site") or result.settings.get("site") or site) != site:
        return False
    layers = run.site_layers(site)
    asked = result.settings.get("layers")
    if asked is not None and set(asked) != {layer.layer for layer in layers}:
        return False
    # Two models of one name share a folder; layers of different sizes tell them apart.
    rows = result.document.get("layers") or []
    sizes = {(row["layer"], row["neurons"]) for row in rows if "neurons" in row}
    return not sizes or sizes == {(layer.layer, layer.neurons) for layer in layers}


def _neurons(run: RunFile, kind: str, result: Result, top: int) -> list[tuple[int, int]]:
    """(layer, neuron) of a result, the strongest first; equally strong ones by layer and neuron. Raises StoreError if
    the result cannot tell.
    """
    of = KEPT_KINDS[kind].kind
    if why := of.refused(result.document):
        raise StoreError(f"{run.name}: {why}")
    rows = result.document[of.rows] if of.strongest is None else of.strongest(result, top)
    rows = [row for row in rows if of.counts(row)]
    if of.strength:
        rows = sorted(rows, key=lambda row: (-_strength(row.get(of.strength)), row["layer"], row["neuron"]))
    return [(row["layer"], row["neuron"]) for row in rows]


def _strength(value: float | None) -> float:
    """Undefined is weakest."""
    return -math.inf if value is None else value


def set_of_kinds(run: RunFile, kinds: str, site: str | None = None, share: float | None = None) -> NeuronSet:
    """The neurons of a site that are of any of these kinds: `dead`, `dead+positional`.

    share: only the strongest, as find_kind takes them; the set is then called `delta 15%`. Raises what find_kind
    raises, and EmptySet if no neuron is of these kinds.
    """
    found = find_kind(run, kinds, site, share=share)
    if not found.neurons:
        kind = " or ".join(found.parts)
        why = "; ".join(found.notes) or "there is nothing to take"
        raise EmptySet(f"no neuron of {run.name} at {found.site} is {kind}: {why}")
    name = found.name if share is None or not found.results else f"{found.name} {100 * share:g}%"
    return NeuronSet.of(name, found.addresses, found.notes)
