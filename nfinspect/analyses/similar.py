"""Which neurons are like a given one: by their values over the run's tokens, and by their weights (methods §17).

The command is nfinspect.cli.similar, as weights need the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, Option, Options, RowSet, Table
from nfinspect.analyses.fields import NEURON, total
from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.correlation import CHANCE, WeightCosines, chance_of, correlations, strongest
from nfinspect.analysis.numbers import number as finite
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.json_values import Document
from nfinspect.present.numbers import counted, number
from nfinspect.present.plots import LayerPoints, Nothing, Plot, Series, across, sizes_of
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result

KEPT = 100
"""Neurons in each list [own]."""

WAYS = ("gate", "input", "output")
"""The weights by which neurons are compared."""


@dataclass(frozen=True)
class SimilarNeuron(Document):
    """A neuron beside the given one. correlation: over n tokens, None if it never varies; the cosines: None without
    weights, or where they are not known.
    """

    site: str
    layer: int
    neuron: int
    correlation: float | None
    n: int
    gate_cosine: float | None = None
    input_cosine: float | None = None
    output_cosine: float | None = None


@dataclass(frozen=True)
class LayerCompared(Document):
    """One layer that was searched. constant: neurons that never vary, which have no correlation."""

    site: str
    layer: int
    neurons: int
    constant: int


@dataclass(frozen=True)
class Similar(Document):
    """The neurons of a site that are most like one neuron, KEPT in each list.

    of: the neuron; site: where others were sought; weights: the model whose weights were compared, "" if none were.
    chance: the |r| that independent neurons would reach (correlation.chance_of). neurons: by |correlation|; gate,
    input, output: by the |cosine| of these weights, empty where they were not compared. Ties: layer, neuron.
    """

    of: str
    site: str
    n: int
    chance: float | None
    weights: str
    neurons: tuple[SimilarNeuron, ...]
    gate: tuple[SimilarNeuron, ...]
    input: tuple[SimilarNeuron, ...]
    output: tuple[SimilarNeuron, ...]
    layers: tuple[LayerCompared, ...]
    notes: tuple[str, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Similar":
        """From the document of a saved result."""
        lists: dict[str, Any] = {
            name: tuple(SimilarNeuron(**row) for row in document[name]) for name in ("neurons", *WAYS)
        }
        layers = tuple(LayerCompared(**layer) for layer in document["layers"])
        facts = {name: document[name] for name in ("of", "site", "n", "chance", "weights")}
        return cls(**facts, **lists, layers=layers, notes=tuple(document["notes"]))


def similar(
    run: RunTables,
    neuron: str | Address,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    tick: Tick = silent,
    *,
    weights: WeightCosines | None = None,
) -> Similar:
    """The neurons that are most like one.

    site, layers: where they are sought; the neuron's own site and all its layers if not given. weights: of the same
    neuron and layers (experiments.weight_cosines). tick: neurons done, of all. Raises RequestError for an unknown
    neuron, site or layer, and for a neuron that never varies; StoreError for a run without values.
    """
    own_layer, own = run.resolve(neuron)
    site = own_layer.site if site is None else site
    chosen = chosen_layers(run, site, layers)
    r = correlations(run, (own_layer, own), chosen, tick)
    cosines = (
        dict.fromkeys(WAYS)
        if weights is None
        else dict(zip(WAYS, (weights.gate, weights.inputs, weights.outputs), strict=True))
    )
    constant = tuple(
        LayerCompared(layer.site, layer.layer, layer.neurons, int((part != part).sum()))
        for layer, part in zip(chosen, r, strict=True)
    )

    def rows(values: "Sequence[NDArray[np.float64]] | None") -> tuple[SimilarNeuron, ...]:
        held = strongest(values, KEPT + 1) if values is not None else []
        others = [(at, i) for at, i in held if (chosen[at].layer_id, i) != (own_layer.layer_id, own)]
        return tuple(
            SimilarNeuron(
                chosen[at].site,
                chosen[at].layer,
                i,
                finite(r[at][i]),
                run.tokens,
                *(None if by is None else finite(by[at][i]) for by in cosines.values()),
            )
            for at, i in others[:KEPT]
        )

    compared = sum(layer.neurons - layer.constant for layer in constant) - (own_layer in chosen)
    return Similar(
        of=str(Address(own_layer.layer, own, own_layer.site)),
        site=site,
        n=run.tokens,
        chance=chance_of(run.tokens, compared),
        weights=weights.model if weights is not None else "",
        neurons=rows(r),
        gate=rows(cosines["gate"]),
        input=rows(cosines["input"]),
        output=rows(cosines["output"]),
        layers=constant,
        notes=(*run.value_notes, *(weights.notes if weights is not None else ())),
    )


def full_address(run: RunTables, neuron: str) -> str:
    """The neuron with its site, as results are saved by. Raises RequestError if there is none."""
    layer, number = run.resolve(parse_address(neuron))
    return str(Address(layer.layer, number, layer.site))


def _check(options: Options) -> None:
    if not options["neuron"]:
        raise RequestError("similar to which neuron? expected neuron='L5/N123'")


def _settings(run: "RunFile", options: Options) -> Mapping[str, Any]:
    _check(options)
    return {"neuron": full_address(run, options["neuron"]), "weights": ""}


def _compute(
    run: RunTables, site: str | None, layers: Sequence[int] | None, tick: Tick = silent, *, neuron: str = ""
) -> Similar:
    _check({"neuron": neuron})
    return similar(run, neuron, site, layers, tick)


def _fields(found: Similar | None) -> tuple[Field, ...]:
    def cosine(way: str, meaning: str) -> Field:
        return Field(f"{way}_cosine", f"cosine with its {meaning}", f"{way} cos", "fixed", width=10, spare=1)

    told = (
        cosine("gate", "row of the gate"),
        cosine("input", "row of the projection it is read from"),
        cosine("output", "column of the output projection"),
    )
    return (
        NEURON,
        Field("correlation", "Pearson's r of both neurons' values over the run's tokens", "r", "fixed", digits=4,
              width=8, tone="bold"),
        Field("n", "tokens", "tokens", "count", width=8, spare=2),
        *(one for way, one in zip(WAYS, told, strict=True) if found is None or getattr(found, way)),
    )  # fmt: skip


def _first(found: Similar) -> str:
    if not found.neurons:
        return "none varies"
    one = found.neurons[0]
    return f"first L{one.layer}/N{one.neuron} with r = {number(one.correlation)}"


def _sentence(found: Similar, kept: object) -> str:
    never = sum(layer.constant for layer in found.layers)
    chance = f"; |r| by chance {number(found.chance)}" if found.chance is not None else ""
    constant = f", {never:,} of which never vary" if never else ""
    of = counted(total(found.layers), "neuron")
    return f"{found.of} against {of} of {found.site}{constant}, over {found.n:,} tokens: {_first(found)}{chance}"


def _printed(found: Similar) -> Sequence[Table]:
    titles = {name: f"by the weights of {name}" for name in WAYS if getattr(found, name)}
    lists = (Table(_fields(found), getattr(found, name), title, top=True) for name, title in titles.items())
    return (Table(_fields(found), found.neurons, _sentence(found, None), top=True), *lists)


def _points(found: Similar, row: SimilarNeuron | None) -> Plot:
    if not found.neurons:
        return Nothing("no neuron varies: nothing to draw")
    sizes = sizes_of(found.layers)
    held = {(one.layer, one.neuron): one for one in found.neurons}
    places = {key: (across(*key, sizes), abs(one.correlation or 0.0)) for key, one in held.items()}

    def series(name: str, sign: str, kind: int, negative: bool) -> Series:
        points = [places[key] for key, one in held.items() if ((one.correlation or 0.0) < 0) == negative]
        return Series(name, sign, kind, not negative, tuple(x for x, _ in points), tuple(y for _, y in points))

    return LayerPoints(
        "|r| of each listed neuron, by layer and neuron",
        tuple(sizes),
        (series("r > 0", "+", 0, False), series("r < 0", "-", 1, True)),
        "+ r > 0  - r < 0; X: row",
        places.get((row.layer, row.neuron)) if row is not None else None,
    )


def _list(name: str, rows: str, empty: str) -> RowSet:
    """In the document's order: by size, which no column shows."""
    return RowSet(
        fields=_fields,
        rows=lambda found: getattr(found, rows),
        order=("", False),
        empty=empty,
        name=name,
        there=lambda found: rows == "neurons" or bool(getattr(found, rows)),
    )


def _kept(result: "Result") -> str:
    d = result.document
    return f"{d['of']} at {d['site']}{', with weights' if d['weights'] else ''}: {_first(Similar.from_json(d))}"


SPEC = AnalysisSpec(
    name="similar",
    of_values=lambda sites: True,
    of_neuron=True,
    does="Neurons like a given one: by values over the run's tokens, and by weights.",
    answers="neurons like a given one",
    explains=(
        "r: Pearson's correlation of the two neurons' values over all tokens of the run; the list is by its size |r|, "
        f"so that opposite neurons are in it. By chance: the |r| that the largest of as many independent normal "
        f"neurons exceeds with a probability of {CHANCE:g} (Fisher's z, Bonferroni's bound); tokens of one text are "
        "not independent, so that more than that is needed. With --weights (nfinspect similar -h): cosines of the raw "
        "weights, of gated MLPs the rows of gate and up and the columns of down apart; no norm is folded in. A "
        "neuron that never varies has no correlation. Enter goes to the neuron."
    ),
    what=lambda options: f"neurons like {options['neuron']}",
    options=(Option("neuron", "The neuron.", type=str, default="", metavar="L5/N123"),),
    check=_check,
    settings=_settings,
    compute=_compute,
    read=lambda result: Similar.from_json(result.document),
    printed=_printed,
    lists=(
        _list("correlation", "neurons", "no other neuron varies"),
        *(_list(f"{name} weights", name, "these weights were not compared") for name in WAYS),
    ),
    sentence=_sentence,
    kept=_kept,
    drawings=(Drawing("|r| by layer", _points, follows=True),),
)
