"""The same analysis of several runs, over the depth of their networks: rows from the saved result of each.

Called in workers. A run without a fitting result has no rows, and says what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import specs
from nfinspect.analyses.analysis_spec import Measure, Variant, made_with, option_words
from nfinspect.analyses.fields import percent_of_layer, said_of_layers
from nfinspect.analysis.depth import depths
from nfinspect.analysis.provenance import whose
from nfinspect_store.edits import edits_text

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result

SIGNS = "ABCDEFGH"
"""The runs in the drawing: capitals at their layers, small letters on the lines between. More runs would look alike."""

Layers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LayerRow:
    """One layer of one run. depth: 0 for the first layer, 1 for the last."""

    run: str
    sign: str
    site: str
    layer: int
    depth: float
    neurons: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class OfRun:
    """One run: its rows and their summary, or what it lacks and whether `r` can compute it."""

    run: str
    sign: str
    site: str = ""
    rows: tuple[LayerRow, ...] = ()
    said: str = ""
    lacks: str = ""
    can_be_made: bool = False


@dataclass(frozen=True)
class Topic:
    """What runs are compared by: their health, or a variant of an analysis. options: of the command that computes it;
    made_with: the settings of a fitting result.
    """

    name: str
    analysis: str
    measures: tuple[Measure, ...]
    said: Callable[[Layers], str]
    options: tuple[str, ...] = ()
    made_with: Mapping[str, Any] = field(default_factory=dict)
    refused: Callable[[Layers], str] = lambda layers: ""
    takes: Callable[[Mapping[str, Any]], bool] = lambda document: True
    needs_model: bool = False

    def figures(self, layer: Mapping[str, Any]) -> dict[str, float | None]:
        """The figures of a layer of a document."""
        return {measure.key: measure.of(layer) for measure in self.measures}

    def fits(self, result: Result) -> bool:
        """Whether a saved result can be compared under this topic."""
        return made_with(result, self.made_with) and self.takes(result.document)


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
    edits = edits_text(session.info.settings)
    of_whom = "; ".join([*([f"edited: {edits}"] if edits else []), *([about] if about else [])])
    return OfRun(session.name, sign, site, rows, f"{topic.said(layers)}{f' ({of_whom})' if of_whom else ''}")


def _layers(session: Session, topic: Topic, site: str) -> tuple[Layers | None, bool, str]:
    """The layers of the newest result over all of them; if there is none, whether the run alone is enough to compute
    it; whose the result is, if not the run's.
    """
    if topic.analysis == "health":
        return [_health(layer) for layer in session.health(site).layer_analyses], False, ""
    every = {layer.layer for layer in session.layers if layer.site == site}
    for result in session.results(topic.analysis):
        d = result.document
        try:
            if d["site"] == site and {x["layer"] for x in d["layers"]} == every and topic.fits(result):
                topic.figures(d["layers"][0])
                return d["layers"], False, whose(result)
        except (KeyError, TypeError, IndexError):  # of another version
            continue
    return None, not topic.needs_model and session.has_values, ""


def _health(layer: Any) -> Mapping[str, Any]:
    counts = {name: layer.count(name) for name in ("dead", "saturated", "sporadic", "missing", "weak")}
    return {"layer": layer.layer, "neurons": layer.neurons, "score": layer.health_score,
            "active": layer.activation_rate, **counts}  # fmt: skip


def _health_measures() -> tuple[Measure, ...]:
    def share(name: str, width: int = 8) -> Measure:
        meaning = f"{name} neurons, % of each layer"
        return Measure(name, name, meaning, percent_of_layer(name), "%", width)

    return (
        share("dead", 7),
        Measure("score", "score", "health score of each layer", lambda x: x["score"]),
        Measure("active", "active", "activation rate of each layer, %",
                lambda x: None if x["active"] is None else 100 * x["active"], "%"),
        *map(share, ("sporadic", "missing", "weak")),
    )  # fmt: skip


def _topics() -> Iterator[Topic]:
    yield Topic("health", "health", _health_measures(), said_of_layers("dead", "dead"))
    for one in specs():
        if one.comparison is None:
            continue
        for variant in one.every_variant() if one.comparison.by_variant else (Variant(one.name, {}, one.title),):
            yield Topic(
                variant.name,
                one.name,
                tuple(one.comparison.measures(variant.name)),
                one.comparison.said,
                option_words(variant.options),
                variant.options,
                one.comparison.refused,
                one.comparison.takes,
                one.needs == "model",
            )


TOPICS = tuple(_topics())

NAMED = 7
"""Topics whose keys have names of their own in a keymap; the others are called by their digit."""


def key_name(place: int) -> str:
    """The name of a topic's key in a keymap."""
    return f"compare.{TOPICS[place].name}" if place < NAMED else f"compare.topic{place + 1}"
