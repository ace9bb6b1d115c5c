"""Which figures there are of a run, and of several: of kept results, or absent with the command that makes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nfinspect.analyses import specs
from nfinspect.analyses.kind_overlap import overlap_of_kinds
from nfinspect.analyses.kinds import KEPT_KINDS, command, kept_ablations, kept_over_all_layers, newest
from nfinspect.analyses.spec import AnalysisSpec
from nfinspect.analysis.attention_scores import METHODS, AttentionScores
from nfinspect.analysis.comparison import BASELINE
from nfinspect.analysis.dead import dead_by_layer
from nfinspect.analysis.delta import Delta
from nfinspect.analysis.health import network_report
from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.analysis.ngrams import NgramAnalysis
from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.provenance import read_from, whose
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.figures.ablation import ablation_chart
from nfinspect.figures.attention import attention_chart
from nfinspect.figures.compare import dead_overlay, ngram_overlays
from nfinspect.figures.delta import delta_chart, step_size_chart
from nfinspect.figures.health import dead_chart, health_chart
from nfinspect.figures.histograms import histogram_chart
from nfinspect.figures.ngrams import ngram_charts
from nfinspect.figures.overlaps import concept_chart, kind_chart
from nfinspect.present.charts import Absent, Section, sentences
from nfinspect.results import read_or_none
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result

FIRST = ("positions",)
"""Of the analyses that have a spec, those whose figures come before what is made of a model."""

OVERLAPPED = tuple(
    dict.fromkeys(
        ["dead", "positional", "delta", "ngrams1", "ngrams2", "ngrams3", "attention"]
        + [kind.name for one in specs() for kind in one.kinds]
    )
)
MOST_CONCEPTS = 10
"""Concepts of the heat map: those with the most prompts, where a run has more."""


@dataclass(frozen=True)
class Part:
    """A run and a site that figures are made of. refused: why the analysis of a kind could not be made, by kind."""

    run: RunFile
    site: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def result(self, kind: str) -> Result | None:
        return newest(self.run, kind, self.place(kind))

    def place(self, kind: str) -> str:
        """The site that the analysis of a kind is about."""
        return KEPT_KINDS[kind].site or self.site

    def missing(self, kind: str, name: str, title: str) -> Absent:
        """A figure whose analysis is not kept."""
        why = self.refused.get(kind)
        if why is not None:
            return Absent(name, title, *sentences(why))
        if kind in KEPT_KINDS and not KEPT_KINDS[kind].of_model:
            return Absent(name, title, "No result of this analysis is kept.", command(self.run, kind, self.place(kind)))
        where = "" if self.site == self.run.default_site else f" --site {self.site}"
        line = f"nfinspect report {self.run.name}{where} --with-model --out DIR"
        return Absent(name, title, "This needs the model, and no result of it is kept.", line)


def sections_of(
    run: RunFile, site: str, refused: Mapping[str, str] | None = None, tick: Tick = silent
) -> list[Section]:
    """The figures of a run at a site, in the order of the page. refused: of Part. tick: parts read, of all."""
    of = Part(run, site, refused or {})
    parts: tuple[Callable[[Part], list[Section]], ...] = (
        _health,
        _histograms,
        partial(_specified, first=True),
        _ngrams,
        _delta,
        _attention,
        partial(_specified, first=False),
        _concepts,
        _kinds,
        _ablation,
    )
    found: list[Section] = []
    for done, part in enumerate(parts, 1):
        found += part(of)
        tick(done, len(parts))
    return found


def compared_sections(parts: Mapping[str, Part], tick: Tick = silent) -> list[Section]:
    """The overlays of several runs by their names. tick: runs read."""
    dead, detectors, absent = {}, {}, []
    overlaid = [(one, one.comparison.figure) for one in specs() if one.comparison and one.comparison.figure]
    known: dict[str, dict[str, Any]] = {one.name: {} for one, _ in overlaid}
    for done, (name, part) in enumerate(parts.items(), 1):
        dead[name] = dead_by_layer(part.run, part.site)
        ngrams = part.result("ngrams1")
        if ngrams is None:
            absent.append(part.missing("ngrams1", f"no-tokens-{done}", f"Token detectors of {name}"))
        else:
            detectors[name] = NgramAnalysis.from_json(ngrams.document)
        for one, _ in overlaid:
            kind = one.kinds[0].name
            result = part.result(kind)
            found = None if result is None else read_or_none(one, result)
            if found is None:
                absent.append(part.missing(kind, f"no-{one.name}-{done}", f"{one.title} of {name}"))
            else:
                known[one.name][name] = found
        tick(done, len(parts))
    charts = [dead_overlay(dead)]
    charts += ngram_overlays(detectors) if detectors else ()
    charts += [draw(known[one.name]) for one, draw in overlaid if known[one.name]]
    return [*charts, *absent]


def _health(of: Part) -> list[Section]:
    return [health_chart(network_report(of.run, of.site), of.run.tokens), dead_chart(dead_by_layer(of.run, of.site))]


def _histograms(of: Part) -> list[Section]:
    return [histogram_chart(of.run, of.site)]


def _specified(of: Part, *, first: bool) -> list[Section]:
    """The figures of the analyses that have a spec: those of FIRST, or the others. One that is about a site which the
    run does not hold has none.
    """
    there = [one for one in specs() if one.site is None or one.site in of.run.sites]
    return [_of_spec(of, one) for one in there if one.figure is not None and (one.name in FIRST) == first]


def _of_spec(of: Part, one: AnalysisSpec) -> Section:
    result = of.result(one.kinds[0].name)
    found = None if result is None else read_or_none(one, result)
    if found is None or one.figure is None:
        return of.missing(one.kinds[0].name, one.figure_name, one.title)
    return one.figure(found)


def _ngrams(of: Part) -> list[Section]:
    results = {n: of.result(f"ngrams{n}") for n in NGRAM_WORDS}
    kept = {n: NgramAnalysis.from_json(result.document) for n, result in results.items() if result is not None}
    absent = [
        of.missing(f"ngrams{n}", f"ngrams{n}", f"{NGRAM_WORDS[n].capitalize()} detectors")
        for n, result in results.items()
        if result is None
    ]
    return [*(ngram_charts(kept) if kept else ()), *absent]


def _delta(of: Part) -> list[Section]:
    name, title = "delta-sensitive-neurons", "Delta-sensitive neurons"
    result = of.result("delta")
    if result is None:
        return [of.missing("delta", name, title)]
    found = Delta.from_json(result.document)
    neurons = delta_chart(found) if found.neurons else Absent(name, title, *sentences(found.notes[0]))
    return [neurons, *([step_size_chart(found)] if found.mamba_delta else [])]


def _attention(of: Part) -> list[Section]:
    kept: dict[str, Result] = {}
    for result in kept_over_all_layers(of.run, "attention", of.site, of_model=True):  # the newest first
        kept.setdefault(result.document["method"], result)
    if not kept:
        return [of.missing("attention", "attention", "Attention neurons")]
    return [
        attention_chart(AttentionScores.from_json(kept[method].document, kept[method].table), _source(kept[method]))
        for method in METHODS
        if method in kept
    ]


def _source(result: Result) -> str:
    return whose(result) or f"of {read_from(result)}"


def _concepts(of: Part) -> list[Section]:
    title, name, run = "What the traces of concepts share", "concept-overlap", of.run
    query = "SELECT concept FROM prompts GROUP BY concept ORDER BY count(*) DESC, concept"
    ordered = [str(row[0]) for row in run.cursor().execute(query).fetchall() if row[0] != BASELINE]
    chosen = [concept for concept in run.concepts if concept in ordered[:MOST_CONCEPTS]]
    if len(chosen) < 2:
        why = "An overlap needs two concepts besides the baseline, and this run has fewer."
        return [Absent(name, title, why)]
    try:
        return [concept_chart(overlap(run, chosen, site=of.site))]
    except RequestError as error:
        return [Absent(name, title, *sentences(str(error)))]


def _kinds(of: Part) -> list[Section]:
    title, name = "What kinds of neurons share", "kind-overlap"
    there = [kind for kind in OVERLAPPED if kind not in KEPT_KINDS or of.place(kind) == of.site]
    kept = [kind for kind in there if kind not in KEPT_KINDS or _usable(of, kind)]
    if len(kept) < 2:
        return [Absent(name, title, "An overlap needs two kinds of neurons, and no analysis of this run is kept.")]
    return [kind_chart(overlap_of_kinds(of.run, kept, of.site))]


def _usable(of: Part, kind: str) -> bool:
    result = of.result(kind)
    return result is not None and (kind != "delta" or bool(result.document["neurons"]))


def _ablation(of: Part) -> list[Section]:
    kept = kept_ablations(of.run, of.site)
    if kept:
        return [ablation_chart(kept[0].document)]
    return [of.missing("ablation", "ablation", "What the model loses without sets of neurons")]
