"""Saved results: find that of an analysis with its settings, or compute and save it.

Callers may pass a Reporter, which receives progress; without one nothing is reported.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import command_of, specs
from nfinspect.analyses.analysis_spec import AnalysisSpec
from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.keeping import UNREADABLE, Made, keep_or_find
from nfinspect.analysis.provenance import whose
from nfinspect.analysis.ticks import Reporter, Silent, Tick
from nfinspect_store.results import Result, run_results

if TYPE_CHECKING:
    from nfinspect_store.reader import RunFile


def find_or_compute(
    spec: AnalysisSpec,
    run: "RunFile",
    site: str | None = None,
    layers: Sequence[int] | None = None,
    *,
    recompute: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> tuple[Result, Any]:
    """The saved result of an analysis of a run, or a new one, which is saved; and what was found.

    options: those of the spec, with its defaults. Raises what the analysis raises, StorageFull, and TypeError for an
    unknown option and for an analysis that needs more than the run.
    """
    compute, ask = computing(spec)
    site = spec.site if site is None else site
    chosen = chosen_layers(run, site, layers)
    every = with_defaults(spec, options)
    settings = {**ask(run, every), "site": chosen[0].site, "layers": [layer.layer for layer in chosen]}

    def make(tick: Tick) -> Made:
        found = compute(run, site=site, layers=layers, tick=tick, **every)
        return spec.document(found), spec.tables(found)

    return keep_or_find(
        run_results(run.path),
        spec.name,
        settings,
        run.info.run_id,
        make,
        spec.read,
        recompute=recompute,
        what=spec.what(every),
        in_format=spec.format,
        reporter=reporter or Silent(),
    )


def computing(spec: AnalysisSpec) -> tuple[Any, Any]:
    """What computes an analysis of a run, and its settings. Raises TypeError for one that needs more than the run."""
    if spec.compute is None or spec.settings is None:
        what = "the model" if spec.needs == "model" else "saved results of other analyses"
        raise TypeError(f"{spec.name} needs {what}: nfinspect {command_of(spec.name)} computes it, see its -h")
    return spec.compute, spec.settings


def read_or_none(spec: AnalysisSpec, result: Result) -> Any:
    """What a saved result holds; None if its document or a table does not fit its kind."""
    try:
        return spec.read(result)
    except UNREADABLE:
        return None


def kept_line(result: Result) -> str:
    """A saved result in one line: what made it, what it found, and whose it is; or that it is not what it should be."""
    try:
        spec = next(one for one in specs() if one.result_kind == result.kind)
        return "; ".join(filter(None, (spec.kept(result), whose(result))))
    except (KeyError, TypeError, ValueError, IndexError, StopIteration):
        return f"{result.path.name}: of another version of nfinspect"


def with_defaults(spec: AnalysisSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of an analysis, given or default. Raises TypeError for an unknown one."""
    every = spec.defaults()
    for name in options:
        if name not in every:
            raise TypeError(f"{spec.name} has no option {name!r}: it has {', '.join(every) or 'none'}")
    return {**every, **options}
