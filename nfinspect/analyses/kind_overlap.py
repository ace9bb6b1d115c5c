"""How much kinds of neurons share, compared with chance (methods §4).

A pair is counted among the neurons that could be of either kind: the site's live ones. If `dead` is one of the two,
these are all of the site's neurons [own], as a set must lie within the population of its test. What the test says is
then known beforehand: a dead ReLU neuron never fires, so it is not positional, not delta-sensitive and no n-gram
detector, and two health classes exclude each other; such a pair shares nothing by definition, and its p of 1 is no
finding. Dead neurons of other activations have small values that may pass a test; for pairs without `dead` they are
left out of both sets [own]. Neurons of experts that no token was routed to are of no kind: they are in no population.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from nfinspect.analyses.neuron_kinds import KEPT_KINDS, Kind, find_kind
from nfinspect.analysis.attention_methods import TOP
from nfinspect.analysis.neurons import list_neurons
from nfinspect.analysis.overlap import against_chance
from nfinspect.analysis.provenance import whose
from nfinspect.json_values import Document
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import ABSENT, CLASSES, RELU_FAMILY

OF_FIRING = ("ngrams", "positions", "delta")
"""Analyses whose kinds have no neuron that never fires."""


@dataclass(frozen=True)
class KindSize(Document):
    """One kind. neurons: how many it has; dead: how many of these are dead, too; results: those it was taken from:
    kind, settings and, if a result is not the run's own, whose it is.
    """

    kind: str
    neurons: int
    dead: int
    results: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class KindPair:
    """Two kinds: how many of the `eligible` neurons are of each, and of both; None where undefined."""

    a: str
    b: str
    neurons_a: int
    neurons_b: int
    eligible: int
    overlap: int
    jaccard: float | None
    expected: float | None
    p_value: float | None
    shared: tuple[Address, ...]

    def to_json(self) -> dict[str, object]:
        shared = [
            {"address": f"L{one.layer}/N{one.neuron}", "site": one.site, "layer": one.layer, "neuron": one.neuron}
            for one in self.shared
        ]
        return {**vars(self), "shared": shared}


@dataclass(frozen=True)
class KindOverlap(Document):
    """Every pair of the kinds, in their order. neurons: how many the site has; alive: those that are not dead
    or absent.

    top: how many neurons `attention` has. notes: for the user.
    """

    kinds: tuple[str, ...]
    site: str
    top: int
    neurons: int
    alive: int
    sets: tuple[KindSize, ...]
    pairs: tuple[KindPair, ...]
    notes: tuple[str, ...] = ()

    def pair(self, a: str, b: str) -> KindPair:
        """The pair of two kinds, in either order."""
        return next(pair for pair in self.pairs if {pair.a, pair.b} == {a, b})


def overlap_of_kinds(run: RunFile, kinds: Sequence[str], site: str | None = None, top: int = TOP) -> KindOverlap:
    """What two or more kinds of neurons of a site share, pair by pair; a kind may be joined: `dead+positional`.

    Raises RequestError for fewer than two kinds or one named twice, and what find_kind raises.
    """
    found = [find_kind(run, kind, site, top) for kind in kinds]
    names = [kind.name for kind in found]
    if len(names) < 2 or len({frozenset(kind.parts) for kind in found}) < len(names):
        raise RequestError(f"an overlap needs two or more different kinds, found {', '.join(names) or 'none'}")
    dead = set(find_kind(run, "dead", site).neurons)
    total = sum(layer.neurons for layer in run.site_layers(site))
    of_class = list_neurons(run, found[0].site, cls=ABSENT, limit=None).rows
    absent = {(row.layer, row.neuron) for row in of_class}
    return KindOverlap(
        kinds=tuple(names),
        site=found[0].site,
        top=top,
        neurons=total,
        alive=total - len(dead) - len(absent),
        sets=tuple(_size(kind, dead) for kind in found),
        pairs=tuple(_pair(a, b, dead, absent, total) for a, b in combinations(found, 2)),
        notes=tuple(dict.fromkeys((*(note for kind in found for note in kind.notes), *_excluding(run, found)))),
    )


def _excluding(run: RunFile, kinds: Sequence[Kind]) -> tuple[str, ...]:
    """A note on the pairs that share nothing by definition."""
    never_fires = all(layer.activation in RELU_FAMILY for layer in run.site_layers(kinds[0].site))

    def exclude(a: str, b: str) -> bool:
        if a in CLASSES and b in CLASSES:
            return a != b
        other = b if a == "dead" else a if b == "dead" else ""
        return never_fires and other in KEPT_KINDS and KEPT_KINDS[other].spec.name in OF_FIRING

    pairs = [
        f"{a.name} and {b.name}"
        for a, b in combinations(kinds, 2)
        if all(exclude(one, other) for one in a.parts for other in b.parts)
    ]
    return (f"these kinds exclude each other by definition: {', '.join(pairs)}",) if pairs else ()


def _size(kind: Kind, dead: set[tuple[int, int]]) -> KindSize:
    results: tuple[dict[str, object], ...] = tuple(
        {"kind": result.kind, "settings": dict(result.settings), "not_of_run": whose(result) or None}
        for result in kind.results
    )
    return KindSize(kind.name, len(kind.neurons), len(dead.intersection(kind.neurons)), results)


def _pair(a: Kind, b: Kind, dead: set[tuple[int, int]], absent: set[tuple[int, int]], total: int) -> KindPair:
    in_a, in_b, eligible = set(a.neurons) - absent, set(b.neurons) - absent, total - len(absent)
    if "dead" not in (*a.parts, *b.parts):
        in_a, in_b, eligible = in_a - dead, in_b - dead, eligible - len(dead)
    both = sorted(in_a & in_b)
    chance = against_chance(len(both), len(in_a), len(in_b), eligible)
    return KindPair(
        a=a.name,
        b=b.name,
        neurons_a=len(in_a),
        neurons_b=len(in_b),
        eligible=eligible,
        overlap=len(both),
        jaccard=chance.jaccard,
        expected=chance.expected,
        p_value=chance.p_value,
        shared=tuple(Address(layer, neuron, a.site) for layer, neuron in both),
    )
