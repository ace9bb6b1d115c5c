"""Which figures there are of a run, and of several: made from kept results, or absent with the command that makes them."""

from collections.abc import Callable, Mapping, Sequence

from nfinspect.analysis.attention_scores import METHODS, AttentionScores
from nfinspect.analysis.comparison import BASELINE
from nfinspect.analysis.dead import dead_by_layer
from nfinspect.analysis.delta import Delta
from nfinspect.analysis.health import network_report
from nfinspect.analysis.kind_overlap import overlap_of_kinds
from nfinspect.analysis.kinds import KEPT_KINDS, command, kept_over_all_layers, newest
from nfinspect.analysis.ngrams import NgramAnalysis
from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.positions import PositionAnalysis
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.figures.ablation import ablation_chart
from nfinspect.figures.attention import attention_chart
from nfinspect.figures.charts import Absent, Section
from nfinspect.figures.compare import dead_overlay, ngram_overlays
from nfinspect.figures.delta import delta_chart, step_size_chart
from nfinspect.figures.health import dead_chart, health_chart
from nfinspect.figures.histograms import histogram_chart
from nfinspect.figures.ngrams import WORDS, ngram_charts
from nfinspect.figures.overlaps import concept_chart, kind_chart
from nfinspect.figures.positions import position_chart
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, list_results, run_results

OVERLAPPED = ("dead", "positional", "delta", "ngrams1", "ngrams2", "ngrams3", "attention")
MOST_CONCEPTS = 10
"""Concepts of the heat map: those with the most prompts, where a run has more."""


def sections_of(run: RunFile, site: str, tick: Tick = silent) -> list[Section]:
    """The figures of a run at a site, in the order of the page. tick: parts read, of all."""
    parts: tuple[Callable[[RunFile, str], list[Section]], ...] = (
        _health,
        _histograms,
        _positions,
        _ngrams,
        _delta,
        _attention,
        _concepts,
        _kinds,
        _ablation,
    )
    found: list[Section] = []
    for done, part in enumerate(parts, 1):
        found += part(run, site)
        tick(done, len(parts))
    return found


def compared_sections(runs: Mapping[str, RunFile], site: str | None, tick: Tick = silent) -> list[Section]:
    """The overlays of several runs by their names. site: each run's own default if not given. tick: runs read."""
    dead, analyses, absent = {}, {}, []
    for done, (name, run) in enumerate(runs.items(), 1):
        place = run.resolve_site(site)
        dead[name] = dead_by_layer(run, place)
        result = newest(run, "ngrams1", place)
        if result is None:
            why = f"{name} has no kept result of its token detectors: it is left out of the figures on tokens."
            absent.append(Absent(f"no-ngrams-{done}", f"Token detectors of {name}", why, command(run, "ngrams1", site)))
        else:
            analyses[name] = NgramAnalysis.from_json(result.document)
        tick(done, len(runs))
    return [dead_overlay(dead), *(ngram_overlays(analyses) if analyses else ()), *absent]


def _health(run: RunFile, site: str) -> list[Section]:
    return [health_chart(network_report(run, site), run.tokens), dead_chart(dead_by_layer(run, site))]


def _histograms(run: RunFile, site: str) -> list[Section]:
    return [histogram_chart(run, site)]


def _missing(run: RunFile, site: str, kind: str, name: str, title: str) -> Absent:
    if not run.has_values and not KEPT_KINDS[kind].of_model:
        return Absent(name, title, "This run kept statistics only (--keep stats), and this analysis needs its values.")
    return Absent(name, title, "No result of this analysis is kept.", command(run, kind, site))


def _positions(run: RunFile, site: str) -> list[Section]:
    result = newest(run, "positional", site)
    if result is None:
        return [_missing(run, site, "positional", "positional-neurons", "Positional neurons")]
    return [position_chart(PositionAnalysis.from_json(result.document, result.table("profiles")))]


def _ngrams(run: RunFile, site: str) -> list[Section]:
    results = {n: newest(run, f"ngrams{n}", site) for n in WORDS}
    kept = {n: NgramAnalysis.from_json(result.document) for n, result in results.items() if result is not None}
    absent = [
        _missing(run, site, f"ngrams{n}", f"ngrams{n}", f"{WORDS[n].capitalize()} detectors")
        for n, result in results.items()
        if result is None
    ]
    return [*(ngram_charts(kept) if kept else ()), *absent]


def _delta(run: RunFile, site: str) -> list[Section]:
    result = newest(run, "delta", site)
    if result is None:
        return [_missing(run, site, "delta", "delta-sensitive-neurons", "Delta-sensitive neurons")]
    found = Delta.from_json(result.document)
    neurons = (
        delta_chart(found)
        if found.neurons
        else Absent("delta-sensitive-neurons", "Delta-sensitive neurons", f"{found.notes[0].capitalize()}.")
    )
    return [neurons, *([step_size_chart(found)] if found.mamba_delta else [])]


def _attention(run: RunFile, site: str) -> list[Section]:
    kept: dict[str, Result] = {}
    for result in kept_over_all_layers(run, "attention", site, of_model=True):  # the newest first
        kept.setdefault(result.document["method"], result)
    if not kept:
        return [_missing(run, site, "attention", "attention", "Attention neurons")]
    return [
        attention_chart(AttentionScores.from_json(kept[method].document, kept[method].table), _read(kept[method]))
        for method in METHODS
        if method in kept
    ]


def _read(result: Result) -> str:
    """What the attention analysis read: the files' names, without where they lay."""
    files = [*result.settings.get("prompts", ()), *result.settings.get("text", ())]
    names = [str(path).rpartition("/")[2] for path, *_ in files]
    return ", ".join(names) or "of this model"


def _concepts(run: RunFile, site: str) -> list[Section]:
    title, name = "What the traces of concepts share", "concept-overlap"
    query = "SELECT concept FROM prompts GROUP BY concept ORDER BY count(*) DESC, concept"
    ordered = [str(row[0]) for row in run.cursor().execute(query).fetchall() if row[0] != BASELINE]
    chosen = [concept for concept in run.concepts if concept in ordered[:MOST_CONCEPTS]]
    if len(chosen) < 2:
        why = "An overlap needs two concepts besides the baseline, and this run has fewer."
        return [Absent(name, title, why)]
    try:
        return [concept_chart(overlap(run, chosen, site=site))]
    except RequestError as error:
        return [Absent(name, title, f"{error}.")]


def _kinds(run: RunFile, site: str) -> list[Section]:
    title, name = "What kinds of neurons share", "kind-overlap"
    kept = [kind for kind in OVERLAPPED if kind not in KEPT_KINDS or _usable(run, kind, site)]
    if len(kept) < 2:
        why = "An overlap needs two kinds of neurons, and no analysis of this run is kept."
        return [Absent(name, title, why, f"nfinspect overlap {run.name} --kinds dead,positional,delta,ngrams1")]
    return [kind_chart(overlap_of_kinds(run, kept, site))]


def _usable(run: RunFile, kind: str, site: str) -> bool:
    result = newest(run, kind, site)
    return result is not None and (kind != "delta" or bool(result.document["neurons"]))


def _ablation(run: RunFile, site: str) -> list[Section]:
    results = [r for r in list_results(run_results(run.path), run.info.run_id) if r.kind == "ablation"]
    if results:
        return [ablation_chart(results[0].document)]
    line = f"nfinspect ablate {run.info.model or 'MODEL'} --text FILE --from {run.name} --class dead"
    return [
        Absent("ablation", "What the model loses without sets of neurons", "No ablation of this run is kept.", line)
    ]


def names_of(runs: Sequence[RunFile]) -> list[str]:
    """The runs' names, each of them once."""
    names: list[str] = []
    for run in runs:
        names.append(run.name if run.name not in names else f"{run.name} ({len(names) + 1})")
    return names
