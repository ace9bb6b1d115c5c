"""The health of a network, summed up from its layers' classes and scores (methods §2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nfinspect.analysis.classes import FAULTS, HealthOptions, classify
from nfinspect.analysis.classification_cache import kept_classification
from nfinspect.analysis.distribution import Distribution, distribution
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.recommendations import recommendations
from nfinspect.analysis.router import router_load
from nfinspect.analysis.scores import (
    READINGS,
    LayerHealth,
    NetworkParts,
    alerts,
    make_layer_health,
    network_parts,
    reading,
)
from nfinspect.analysis.site_health import SiteHealth, classify_run
from nfinspect.json_values import Document
from nfinspect.text import counted
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

__all__ = [
    "HealthOptions",
    "LayerHealth",
    "NetworkReport",
    "SiteHealth",
    "classify",
    "classify_run",
    "network_report",
    "report_of_layers",
    "stored_layers",
]

DEFAULTS = HealthOptions()

READ_LAYER_HEALTH = """
SELECT layer, activation_rate, dead, missing, weak, saturated, sporadic, scale
FROM layer_health WHERE site = $site ORDER BY layer
"""

READ_MOMENTS = """
SELECT layer, n, coalesce(mean, 0) AS mean, coalesce(std, 0) AS std, coalesce(min, 'inf'::FLOAT) AS min,
    coalesce(max, '-inf'::FLOAT) AS max, approximate
FROM neurons WHERE site = $site ORDER BY layer, neuron
"""


@dataclass(frozen=True)
class NetworkReport(Document):
    """The network report of one site. missing_firing_percentage runs 0-100, the scores 0-1; `reading` is one word;
    tokens: how many were counted, None where layers differ or it is not known.
    """

    site: str
    overall_health_score: float
    parts: NetworkParts
    reading: str
    total_layers: int
    problematic_layers: int
    missing_firing_percentage: float
    summary: str
    interpretation: str
    recommendations: tuple[str, ...]
    alerts: tuple[str, ...]
    layer_analyses: tuple[LayerHealth, ...]
    approximate: bool
    tokens: int | None = None
    notes: tuple[str, ...] = ()  # what the figures leave out, and on how few tokens they rest

    JSON = (
        "site", "overall_health_score", "parts", "total_layers", "problematic_layers", "missing_firing_percentage",
        "summary", "interpretation", "recommendations", "alerts", "layer_analyses", "approximate", "tokens", "notes",
    )  # fmt: skip


def network_report(run: RunTables, site: str | None = None, options: HealthOptions = DEFAULTS) -> NetworkReport:
    """The health of one site of a run. With default options it is read from the run's own tables, else
    recomputed.

    Raises RequestError for an unknown site or when no token is left to count.
    """
    site = run.resolve_site(site)
    layers = stored_layers(run, site) if options == DEFAULTS else ()
    tokens = run.tokens - (run.at_start if options.skip_first else 0)
    report = report_of_layers(layers or kept_classification(run, site, options).layers, tokens)
    notes = (*run.notes, few_tokens(tokens), _tokens_of_experts(run, site, tokens, skip_first=options.skip_first))
    return replace(report, notes=tuple(filter(None, notes)))


def _tokens_of_experts(run: RunTables, site: str, tokens: int, *, skip_first: bool) -> str:
    """The note on how many tokens the experts of a site have; '' where there are none."""
    mixtures = [layer for layer in run.site_layers(site) if layer.experts]
    if not mixtures:
        return ""
    each = [run.statistics(site, layer=x.layer, skip_first=skip_first).n[:: x.width] for x in mixtures]
    used = np.concatenate(each)
    used = used[used > 0]
    return (
        f"an expert has {used.min():,} to {used.max():,} of the {counted(tokens, 'token')}: what is said of its "
        "neurons rests on these"
    )


def report_of_layers(layers: Sequence[LayerHealth], tokens: int | None = None) -> NetworkReport:
    """The report of one site's layers, in order; at least one. tokens: how many were counted in each of them."""
    parts = network_parts(layers)
    word, words = reading(parts.score)
    neurons = sum(layer.neurons for layer in layers)
    counts = {name: sum(layer.count(name) for layer in layers) for name in FAULTS}
    reached = sum(layer.reached_neurons for layer in layers)
    percentage = 100.0 * (counts["dead"] + counts["missing"]) / max(1, reached)
    return NetworkReport(
        site=layers[0].site,
        overall_health_score=parts.score,
        parts=parts,
        reading=word,
        total_layers=len(layers),
        problematic_layers=sum(layer.problematic for layer in layers),
        missing_firing_percentage=percentage,
        summary=_summary(layers, counts, neurons, tokens),
        interpretation=_interpretation(parts, words, layers),
        recommendations=recommendations(layers, parts),
        alerts=alerts(layers, percentage),
        layer_analyses=tuple(layers),
        approximate=any(layer.approximate for layer in layers),
        tokens=tokens,
    )


def _summary(layers: Sequence[LayerHealth], counts: dict[str, int], neurons: int, tokens: int | None) -> str:
    absent = sum(layer.absent_neurons for layer in layers)
    reached = max(1, neurons - absent)
    held = [f"{counts[name]} {name} ({100 * counts[name] / reached:.1f} %)" for name in FAULTS if counts[name]]
    problematic = sum(layer.problematic for layer in layers)
    if absent:
        held.append(f"{absent} absent, of experts that no token was routed to: shares are of the others")
    found = ", ".join(held) if held else "all normal"
    where = f"{counted(neurons, 'neuron')} in {counted(len(layers), 'layer')} at {layers[0].site}"
    seen = f", over {counted(tokens, 'token')}" if tokens is not None else ""
    return f"{where}{seen}: {found}; {problematic} of {counted(len(layers), 'layer')} problematic"


def _interpretation(parts: NetworkParts, words: str, layers: Sequence[LayerHealth]) -> str:
    problematic = sum(layer.problematic for layer in layers)
    if problematic and parts.score >= READINGS[0][0]:  # the mean hides them
        words += f" on average, with issues in {problematic} of {counted(len(layers), 'layer')}"
    return (
        f"{words[0].upper()}{words[1:]}: {parts.score:.2f} = mean layer score {parts.mean_layer_score:.2f}"
        f" - {parts.problematic_penalty:.2f} for problematic layers"
        f" - {parts.degradation_penalty:.2f} for the fall from the first to the last layers"
    )


def stored_layers(run: RunTables, site: str) -> tuple[LayerHealth, ...]:
    """A site's layers from the tables `layer_health` and `neurons`; empty if the capture did not get that far."""
    rows = run.cursor().execute(READ_LAYER_HEALTH, {"site": site}).fetchall()
    layers = {layer.layer: layer for layer in run.layers if layer.site == site}
    if len(rows) != len(layers):
        return ()
    moments = run.cursor().execute(READ_MOMENTS, {"site": site}).fetchnumpy()
    of_layer = np.asarray(moments["layer"])
    found = []
    for number, rate, dead, missing, weak, saturated, sporadic, scale in rows:
        here = {name: np.asarray(column)[of_layer == number] for name, column in moments.items()}
        found.append(
            make_layer_health(
                layer_name=layers[number].module or f"{site} L{number}",
                site=site,
                layer=number,
                neurons=layers[number].neurons,
                counts={
                    "dead": dead,
                    "missing": missing,
                    "weak": weak,
                    "saturated": saturated,
                    "sporadic": sporadic,
                },
                activation_rate=rate,
                threshold_activation_rate=DEFAULTS.threshold_activation_rate,
                scale=scale,
                activation=layers[number].activation,
                approximate=bool(here["approximate"].any()),
                distribution=_distribution(run, layers[number], here),
                absent=int((here["n"] == 0).sum()) if layers[number].experts else 0,
                router=router_load(layers[number], here["n"].astype(np.int64)),
            )
        )
    return tuple(found)


def _distribution(run: RunTables, layer: Layer, columns: dict[str, np.ndarray]) -> Distribution:
    n = columns["n"].astype(np.int64)
    m2 = columns["std"] ** 2 * np.maximum(n - 1, 0)
    counts = run.histograms(layer.site, layer.layer).sum(axis=0)
    return distribution(n, columns["mean"], m2, columns["min"], columns["max"], counts)
