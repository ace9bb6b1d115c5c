"""What kinds of neurons share: how the result of nfinspect.analyses.kind_overlap is printed, shown and drawn. Rows are
pairs of kinds.

The command is `overlap RUN --kinds A,B,C` (nfinspect.cli.kinds). It is counted from saved results, and not saved
itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, Neurons, RowSet, Shown, Table
from nfinspect.present.plots import Grid, Plot

if TYPE_CHECKING:
    from nfinspect.analyses.kind_overlap import KindOverlap, KindPair

SHOWN = 8
"""Shared neurons in a line for people; the JSON has all of them."""


def _kind(key: str) -> tuple[Field, Field]:
    return (
        Field(key, f"kind {key}", key, "text", width=10, ascending=True, tone="bold"),
        Field(f"neurons_{key}", f"neurons of the kind {key}", "of it", width=7, spare=1),
    )


FIELDS = (
    *_kind("a"),
    *_kind("b"),
    Field("overlap", "neurons of both kinds", "shared", width=7, tone="bold"),
    Field("jaccard", "shared / neurons of either kind", "jaccard", "fixed", header="Jaccard"),
    Field("expected", "how many would be shared by chance", "by chance", width=10, spare=2),
    Field("p_value", "probability of as many or more by chance, hypergeometric", "p", digits=2, ascending=True),
)


def _shared(pair: "KindPair") -> str:
    shown = " ".join(f"L{one.layer}/N{one.neuron}" for one in pair.shared[:SHOWN])
    return shown + (" …" if len(pair.shared) > SHOWN else "")


def _sizes(found: "KindOverlap") -> str:
    return ", ".join(f"{one.kind} {one.neurons:,}" for one in found.sets)


def _printed(found: "KindOverlap") -> Sequence[Table]:
    title = (
        f"Kinds of neurons at {found.site}: {_sizes(found)}. Pairs are counted among the {found.alive:,} live neurons, "
        f"pairs with dead among all {found.neurons:,}"
    )
    shared = Field("shared", "the neurons of both kinds", "neurons", "text", value=_shared)
    return [Table((*FIELDS, shared), found.pairs, title)]


def _sentence(found: "KindOverlap", kept: object) -> str:
    return f"{_sizes(found)}; {found.alive:,} live of {found.neurons:,} neurons"


def _neurons(row: "KindPair", found: object, of: Shown) -> Neurons:
    return tuple((one.layer, one.neuron) for one in row.shared)


def _map(found: "KindOverlap", row: object) -> Plot:
    return Grid(
        "neurons that two kinds share; the filling is their Jaccard index",
        {one.kind: one.neurons for one in found.sets},
        {(pair.a, pair.b): (pair.jaccard or 0.0, pair.overlap) for pair in found.pairs},
    )


SPEC = AnalysisSpec(
    name="kinds",
    keeps="",
    answers="how many neurons two kinds share",
    explains=(
        "How many neurons each pair of kinds shares, next to what chance would give: expected count and P(as many or "
        "more), hypergeometric. Only live neurons are counted; in pairs with dead, all. A kind is here if its analysis "
        "is saved for all layers; r computes those that need no model. attention: the 20 neurons with the largest "
        "|score| in the newest result, this run's before its model's. Enter goes to the first neuron of a pair, J and "
        "K along all of them; Space marks them."
    ),
    printed=_printed,
    lists=(
        RowSet(lambda found: FIELDS, lambda found: found.pairs, ("", False), "no pair",
               searched=lambda row: f"{row.a} {row.b}", named=(), neurons=_neurons),
    ),
    sentence=_sentence,
    drawings=(Drawing("map", _map),),
)  # fmt: skip
