"""Reading an analysis' saved results, in a worker: which of them fit, the chosen one, its rows in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nfinspect.analyses.analysis_spec import made_with
from nfinspect.tui.listing import Arranged

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from nfinspect.analyses.analysis_spec import Options
    from nfinspect_store.results import Result


@dataclass(frozen=True)
class Found:
    """What a worker has read: the results that fit, the chosen one as an analysis, its rows, the command for one."""

    results: tuple[Result, ...]
    place: int
    analysis: Any
    command: tuple[str, ...]
    rows: Arranged | None = None

    @property
    def result(self) -> Result | None:
        return self.results[self.place] if self.results else None

    @property
    def key(self) -> tuple[Path, dt.datetime] | None:
        """What tells one result from another: documents can be long."""
        return (self.result.path, self.result.made_at) if self.result is not None else None


def fits(options: Options, site: str, sizes: dict[int, int], result: Result) -> bool:
    """Whether a result has these options and this site, and layers of the run's sizes: a model of the same name may be
    another one. sizes: neurons by layer.
    """
    return (
        made_with(result, options)
        and result.document["site"] == site
        and all(sizes.get(layer["layer"]) == layer["neurons"] for layer in result.document["layers"])
    )


def find(
    kept: Callable[[], tuple[Result, ...]],
    fits: Callable[[Result], bool],
    place: int,
    made: Path | None,
    read: Callable[[Result], Any],
    arrange: Callable[[Any], Arranged],
    command: Callable[[], tuple[str, ...]],
) -> Found:
    """In a worker. place: of the wanted result among those that fit; made: its path instead, if it is among them."""

    def may_fit(result: Result) -> bool:
        try:
            return fits(result)
        except (KeyError, TypeError):  # of another version: reading it says so
            return True

    results = tuple(result for result in kept() if may_fit(result))
    paths = [result.path for result in results]
    place = paths.index(made) if made in paths else max(0, min(place, len(results) - 1))
    if not results:
        return Found(results, place, None, command())
    analysis = read_result(read, results[place])
    return Found(results, place, analysis, command(), arrange(analysis))


def read_result(read: Callable[[Result], Any], result: Result) -> Any:
    """In a worker. Raises StoreError for a result that cannot be read, as of another version."""
    from nfinspect_store.errors import StoreError

    try:
        return read(result)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{result.path.name} is of another version of nfinspect: r recomputes it") from error


def arranged_again(found: Found, arrange: Callable[[Any], Arranged]) -> Found:
    """In a worker."""
    return replace(found, rows=arrange(found.analysis))
