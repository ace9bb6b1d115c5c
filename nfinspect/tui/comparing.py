"""The same analysis of several runs beside each other, over the depth of their networks: what is kept of each, as rows.

Called in workers. A run of which nothing fitting is kept has no rows, and says what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import specs
from nfinspect.analyses.spec import AnalysisSpec
from nfinspect.analyses.spec import Comparison as SpecComparison
from nfinspect.analysis.depth import depths
from nfinspect.analysis.provenance import whose
from nfinspect.present.numbers import counted

if TYPE_CHECKING:
    from nfinspect.tui.engine import Session
    from nfinspect_store.results import Result

SIGNS = "ABCDEFGH"
"""A run's layers in the drawing; the line between two of them is of the small letter. More runs look alike."""

Layers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Measure:
    """A figure of a layer. unit: of what stands in the row: %, a count (of whole numbers), or neither."""

    key: str
    title: str
    says: str
    unit: str = ""
    width: int = 7


@dataclass(frozen=True)
class LayerRow:
    """One layer of one run. depth: 0 of the first layer, 1 of the last."""

    run: str
    sign: str
    site: str
    layer: int
    depth: float
    neurons: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class OfRun:
    """What is known of a run: its rows with what they say in short, or what it lacks and whether `r` can make it."""

    run: str
    sign: str
    site: str = ""
    rows: tuple[LayerRow, ...] = ()
    said: str = ""
    lacks: str = ""
    can_be_made: bool = False


@dataclass(frozen=True)
class Topic:
    """An analysis to compare by. figures: from a layer of its document; said: in short, from all of them; refused: why
    they say nothing, else "".
    """

    name: str
    analysis: str
    measures: tuple[Measure, ...]
    figures: Callable[[Mapping[str, Any]], Mapping[str, float | None]]
    said: Callable[[Layers], str]
    n: int = 0
    refused: Callable[[Layers], str] = lambda layers: ""

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command that makes it."""
        return ("--n", str(self.n)) if self.n else ()

    def takes(self, result: Result) -> bool:
        if self.analysis == "attention":  # gradients read no attention: there is nothing to see in their layers
            return bool(result.document["method"] != "gradient_guided")
        return not self.n or result.document["n"] == self.n


@dataclass(frozen=True)
class Comparison:
    """One topic of several runs, in the order in which they were chosen."""

    topic: Topic
    runs: tuple[OfRun, ...]

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """By depth; at the same depth in the order of the runs."""
        return tuple(sorted((row for one in self.runs for row in one.rows), key=lambda row: row.depth))

    def to_json(self) -> dict[str, object]:
        def of(row: LayerRow) -> dict[str, object]:
            return {"layer": row.layer, "depth": row.depth, "neurons": row.neurons, **row.figures}

        return {
            "analysis": self.topic.name,
            "runs": [
                {"run": one.run, "site": one.site, "layers": [of(row) for row in one.rows]}
                for one in self.runs
                if one.rows
            ],
        }


def of_run(session: Session, sign: str, topic: Topic, site: str | None) -> OfRun:
    """site: the run's default one if not given."""
    site = site or session.default_site
    if site not in session.sites:
        return OfRun(session.name, sign, site, lacks=f"no site {site}")
    layers, made, about = _layers(session, topic, site)
    if layers is None:
        return OfRun(session.name, sign, site, lacks=f"no {topic.name} kept", can_be_made=made)
    if why := topic.refused(layers):
        return OfRun(session.name, sign, site, lacks=why)
    rows = tuple(
        LayerRow(session.name, sign, site, layer["layer"], depth, layer["neurons"], topic.figures(layer))
        for layer, depth in zip(layers, depths(layers), strict=True)
    )
    return OfRun(session.name, sign, site, rows, f"{topic.said(layers)}{f' ({about})' if about else ''}")


def _layers(session: Session, topic: Topic, site: str) -> tuple[Layers | None, bool, str]:
    """The layers of the newest result over all of them; whether the analysis can be made of the run alone; whose the
    result is, if not the run's.
    """
    if topic.analysis == "health":
        return [_health(layer) for layer in session.health(site).layer_analyses], False, ""
    every = {layer.layer for layer in session.layers if layer.site == site}
    for result in session.results(topic.analysis):
        d = result.document
        try:
            if d["site"] == site and {x["layer"] for x in d["layers"]} == every and topic.takes(result):
                topic.figures(d["layers"][0])
                return d["layers"], False, whose(result)
        except (KeyError, TypeError, IndexError):  # of another version
            continue
    return None, topic.analysis != "attention" and session.has_values, ""


def _health(layer: Any) -> Mapping[str, Any]:
    counts = {name: layer.count(name) for name in ("dead", "saturated", "sporadic", "missing", "weak")}
    return {"layer": layer.layer, "neurons": layer.neurons, "score": layer.health_score,
            "active": layer.activation_rate, **counts}  # fmt: skip


def _percent(part: float | None, whole: float = 1) -> float | None:
    return None if part is None or not whole else 100 * part / whole


def _sum(layers: Layers, key: str) -> int:
    return sum(layer[key] for layer in layers)


def _of(layers: Layers, key: str, what: str) -> str:
    return f"{_sum(layers, key):,} {what} of {counted(_sum(layers, 'neurons'), 'neuron')}"


def _ngrams(n: int, word: str) -> Topic:
    measures = (
        Measure("percent", "% layer", f"{word} detectors, % of each layer's neurons", "%"),
        Measure("detectors", "detectors", f"{word} detectors of each layer", "count", 9),
        Measure("covered", "covered", f"{word}s that each layer's detectors cover together", "count"),
        Measure("cumulative", "so far", f"{word}s covered up to and with each layer", "count"),
        Measure("new_overall", "new", f"{word}s covered by no earlier layer", "count"),
    )
    counts = tuple(measure.key for measure in measures if measure.unit == "count")
    return Topic(
        f"{word}s",
        "ngrams",
        measures,
        lambda x: {"percent": _percent(x["detectors"], x["neurons"]), **{key: x[key] for key in counts}},
        lambda layers: _of(layers, "detectors", "detectors"),
        n,
    )


def _shares(names: Sequence[str]) -> tuple[Measure, ...]:
    return tuple(Measure(name, name, f"{name} neurons, % of each layer", "%", 8) for name in names)


CLASSES = ("dead", "sporadic", "missing", "weak")


def _specified(one: AnalysisSpec, comparison: SpecComparison) -> Topic:
    return Topic(
        one.name,
        one.name,
        tuple(Measure(x.key, x.title, x.meaning, x.unit, x.width) for x in comparison.measures),
        lambda layer: {x.key: x.of(layer) for x in comparison.measures},
        comparison.said,
        refused=comparison.refused,
    )


_FIRST = ("positions",)
_SPECIFIED = [
    _specified(one, one.comparison)
    for one in sorted(specs(), key=lambda one: one.name not in _FIRST)
    if one.comparison is not None
]

TOPICS = (
    Topic(
        "health",
        "health",
        (
            Measure("dead", "dead", "dead neurons, % of each layer", "%"),
            Measure("score", "score", "health score of each layer"),
            Measure("active", "active", "activation rate of each layer, %", "%"),
            *_shares(CLASSES[1:]),
        ),
        lambda x: {
            "score": x["score"],
            "active": _percent(x["active"]),
            **{name: _percent(x[name], x["neurons"]) for name in CLASSES},
        },
        lambda layers: _of(layers, "dead", "dead"),
    ),
    _ngrams(1, "token"),
    _ngrams(2, "bigram"),
    _ngrams(3, "trigram"),
    *_SPECIFIED[:1],
    Topic(
        "delta",
        "delta",
        (
            Measure("ratio", "ratio", "median von Neumann ratio of each layer's neurons (2: white noise)"),
            Measure("step", "step", "median step sensitivity of each layer's neurons"),
            Measure("percent", "% layer", "delta-sensitive neurons, % of each layer", "%"),
            Measure("sensitive", "sensitive", "delta-sensitive neurons of each layer", "count", 9),
        ),
        lambda x: {
            "ratio": x["median_von_neumann_ratio"],
            "step": x["median_step_sensitivity"],
            "percent": _percent(x["delta_sensitive"], x["neurons"]),
            "sensitive": x["delta_sensitive"],
        },
        lambda layers: _of(layers, "delta_sensitive", "delta-sensitive"),
    ),
    Topic(
        "attention",
        "attention",
        (
            Measure("sink", "sink %", "% of each layer's attention that goes to position 0, the sink", "%"),
            Measure("evenness", "even %", "how evenly each layer spreads its attention, %", "%"),
            Measure("diversity", "divers %", "how differently each layer's heads attend, %", "%", 8),
        ),
        lambda x: {
            "sink": _percent(x["sink"]),
            "evenness": _percent(x["entropy"]),
            "diversity": _percent(x["diversity"]),
        },
        lambda layers: f"{max((x['heads'] or 0 for x in layers), default=0):,} heads or channels a layer",
    ),
    *_SPECIFIED[1:],
)

NAMED = 7
"""Topics whose keys have names of their own in a keymap; the others are called by their digit."""


def key_name(place: int) -> str:
    """The name of a topic's key in a keymap."""
    return f"compare.{TOPICS[place].name}" if place < NAMED else f"compare.topic{place + 1}"
