"""The door to kept results: what is kept of an analysis and its settings, or the analysis made and kept.

Whoever asks hands over how it is told what goes on (Reporter); without one nothing is said.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nfinspect.analyses.spec import AnalysisSpec
from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.json_values import jsonable
from nfinspect_store.errors import StoreError
from nfinspect_store.results import Result, check_keeping, find_result, keep_result, run_results

if TYPE_CHECKING:
    import pyarrow as pa

    from nfinspect_store.reader import RunFile

Made = tuple[Mapping[str, Any], Mapping[str, "pa.Table"]]
"""A document as `--json` prints it, and what else is kept with it."""

Analysis = TypeVar("Analysis")

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, StoreError)
"""What reading a kept result raises that is not of this version's form."""


class Reporter(Protocol):
    """How whoever asks is told."""

    def note(self, text: str) -> None: ...
    def progress(self, what: str) -> AbstractContextManager[Tick]: ...


class Silent:
    """Nobody is told."""

    def note(self, text: str) -> None:
        """Not said."""

    @contextmanager
    def progress(self, what: str) -> Iterator[Tick]:
        """Not shown."""
        yield silent


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
    """The kept result of an analysis of a run, or a new one, which is kept; and what was found.

    options: those of the spec; what is not given is as usual. Raises what the analysis raises, StorageFull, TypeError
    for an option that it has not.
    """
    site = spec.site if site is None else site
    chosen = chosen_layers(run, site, layers)
    every = with_defaults(spec, options)
    settings = {**spec.settings(run, every), "site": chosen[0].site, "layers": [layer.layer for layer in chosen]}

    def make(tick: Tick) -> Made:
        found = spec.compute(run, site=site, layers=layers, tick=tick, **every)
        return spec.document(found), spec.tables(found)

    return keep_or_find(
        run_results(run.path),
        spec.name,
        settings,
        run.info.run_id,
        make,
        spec.read,
        recompute=recompute,
        what=spec.what,
        in_format=spec.format,
        reporter=reporter or Silent(),
    )


def read_or_none(spec: AnalysisSpec, result: Result) -> Any:
    """What a kept result holds; None where its document or a table says something else than its kind does."""
    try:
        return spec.read(result)
    except UNREADABLE:
        return None


def with_defaults(spec: AnalysisSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of an analysis. Raises TypeError for one that it has not."""
    every = spec.defaults()
    for name in options:
        if name not in every:
            raise TypeError(f"{spec.name} has no option {name!r}: it has {', '.join(every) or 'none'}")
    return {**every, **options}


def keep_or_find(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    run_id: str | None,
    compute: Callable[[Tick], Made],
    read: Callable[[Result], Analysis],
    *,
    recompute: bool,
    what: str,
    reporter: Reporter,
    in_format: int | None = None,
) -> tuple[Result, Analysis]:
    """The kept result of these settings, or a new one, which is kept; and what `read` makes of it.

    One that cannot be read is computed again. in_format: of the kind, where the store does not know it. Raises
    StorageFull, before the work if it can, and what `compute` raises.
    """
    if not recompute and (found := find_result(folder, kind, settings, run_id, in_format)) is not None:
        try:
            analysis = read(found)
        except UNREADABLE:
            reporter.note(f"{found.path} cannot be read: it is computed again")
        else:
            made = f"{found.made_at:%Y-%m-%d %H:%M} UTC ({found.path})"
            reporter.note(f"kept from {made}; --recompute computes it again")
            return found, analysis
    check_keeping(folder)
    with reporter.progress(what) as tick:
        document, tables = compute(tick)
    result = keep_result(folder, kind, settings, jsonable(document), run_id=run_id, tables=tables, in_format=in_format)
    return result, read(result)
