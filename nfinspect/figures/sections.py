"""The figures of a run, and of several: from saved results, or absent with the command that computes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nfinspect.analyses import specs
from nfinspect.analyses.analysis_spec import AnalysisSpec, Kept, Variant
from nfinspect.analyses.kind_overlap import overlap_of_kinds
from nfinspect.analyses.neuron_kinds import (
    KEPT_KINDS,
    SINGLE_KINDS,
    command,
    kind_of,
    newest,
    newest_with,
)
from nfinspect.analysis.comparison import BASELINE
from nfinspect.analysis.dead import dead_by_layer
from nfinspect.analysis.health import network_report
from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.figures.compare import dead_overlay
from nfinspect.figures.health import dead_chart, health_chart
from nfinspect.figures.histograms import histogram_chart
from nfinspect.figures.overlaps import concept_chart, kind_chart
from nfinspect.present.charts import Absent, Section, sentences
from nfinspect.results import read_or_none
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result

ORDER = ("positions", "ngrams", "delta", "attention")
"""The analyses whose figures come first; the others follow."""

LAST = ("ablate",)
"""Those whose figures come after the overlaps of concepts and of kinds."""

OVERLAPPED = ("dead", *SINGLE_KINDS)
MOST_CONCEPTS = 10
"""Concepts of the heat map: those with the most prompts, if a run has more."""


@dataclass(frozen=True)
class Part:
    """A run and a site whose figures are drawn. refused: why the analysis of a kind could not be computed, by kind."""

    run: RunFile
    site: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def result(self, kind: str) -> Result | None:
        return newest(self.run, kind, self.place(kind))

    def place(self, kind: str) -> str:
        """The site that the analysis of a kind is about."""
        return KEPT_KINDS[kind].spec.site or self.site

    def missing(self, kind: str, name: str, title: str) -> Absent:
        """A figure whose analysis has no saved result."""
        why = self.refused.get(kind)
        if why is not None:
            return Absent(name, title, *sentences(why))
        if kind in KEPT_KINDS and KEPT_KINDS[kind].spec.needs == "run":
            return Absent(name, title, "No result of this analysis is kept.", command(self.run, kind, self.place(kind)))
        where = "" if self.site == self.run.default_site else f" --site {self.site}"
        line = f"nfinspect report {self.run.name}{where} --with-model --out DIR"
        return Absent(name, title, "This needs the model, and no result of it is kept.", line)


def sections_of(
    run: RunFile, site: str, refused: Mapping[str, str] | None = None, tick: Tick = silent
) -> list[Section]:
    """The figures of a run at a site, in the order of the page. refused: as in Part. tick: parts read, of all."""
    of = Part(run, site, refused or {})
    first, last = (
        [partial(_analysis, spec=one) for one in specs(ORDER) if (one.name in LAST) is late] for late in (False, True)
    )
    parts: tuple[Callable[[Part], Sequence[Section]], ...] = (
        _health,
        _histograms,
        *first,
        _concepts,
        _kinds,
        *last,
    )
    found: list[Section] = []
    for done, part in enumerate(parts, 1):
        found += part(of)
        tick(done, len(parts))
    return found


def compared_sections(parts: Mapping[str, Part], tick: Tick = silent) -> list[Section]:
    """The figures that compare several runs. parts: by the runs' names. tick: runs read, of all."""
    dead, absent = {}, []
    overlaid = [one for one in specs(("ngrams",)) if one.comparison and one.comparison.figures]
    known: dict[str, dict[str, Any]] = {one.name: {} for one in overlaid}
    for done, (name, part) in enumerate(parts.items(), 1):
        dead[name] = dead_by_layer(part.run, part.site)
        for one in overlaid:
            variant = one.every_variant()[0]
            kept = _kept(part, one, variant)
            if kept is None:
                title = f"{variant.title} of {name}"
                absent.append(part.missing(kind_of(one, variant), f"no-{variant.name}-{done}", title))
            else:
                known[one.name][name] = kept.found
        tick(done, len(parts))
    charts = [dead_overlay(dead)]
    for one in overlaid:
        if one.comparison and one.comparison.figures and known[one.name]:
            charts += one.comparison.figures(known[one.name])
    return [*charts, *absent]


def _kept(of: Part, spec: AnalysisSpec, variant: Variant) -> Kept | None:
    """The newest saved result of a variant of an analysis that can be read."""
    for result in newest_with(of.run, spec, variant.options, spec.site or of.site):
        if (found := read_or_none(spec, result)) is not None:
            return Kept(result, found)
    return None


def _analysis(of: Part, spec: AnalysisSpec) -> Sequence[Section]:
    """The figures of an analysis; none if it is about a site that is not in the run."""
    figure = spec.figure
    if figure is None or (spec.site is not None and spec.site not in of.run.sites):
        return []
    every = [(variant, _kept(of, spec, variant)) for variant in spec.every_variant()]
    kept = {variant.name: one for variant, one in every if one is not None}
    charts = figure.charts(kept) if kept else ()
    lacking = [variant for variant, one in every if one is None] if figure.each or not kept else []
    some = spec.kinds[0].name if spec.kinds else figure.name
    kinds = [(kind_of(spec, variant) or some, variant) for variant in lacking]
    absent = [of.missing(kind, figure.name or kind, variant.title) for kind, variant in kinds]
    return [*charts, *(absent if figure.each else absent[:1])]


def _health(of: Part) -> list[Section]:
    return [health_chart(network_report(of.run, of.site), of.run.tokens), dead_chart(dead_by_layer(of.run, of.site))]


def _histograms(of: Part) -> list[Section]:
    return [histogram_chart(of.run, of.site)]


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
    return result is not None and not KEPT_KINDS[kind].kind.refused(result.document)
