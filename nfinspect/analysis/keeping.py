"""Results of long work: find the saved one with the same settings, or compute and save it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nfinspect.analysis.ticks import Reporter, Tick
from nfinspect.json_values import jsonable
from nfinspect_store.errors import StoreError
from nfinspect_store.results import Result, check_keeping, find_result, keep_result

if TYPE_CHECKING:
    import pyarrow as pa

Made = tuple[Mapping[str, Any], Mapping[str, "pa.Table"]]
"""A document as `--json` prints it, and the tables that are saved with it."""

Analysis = TypeVar("Analysis")

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, StoreError)
"""What reading a saved result raises if it is not in this version's form."""


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
    """The saved result with these settings, or a new one, which is saved; and what `read` makes of it.

    One that cannot be read is recomputed. in_format: the kind's format, where the store does not know it. Raises
    StorageFull, before the work if it can be foreseen, and what `compute` raises.
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
    try:
        result = keep_result(folder, kind, settings, document, run_id=run_id, tables=tables, in_format=in_format)
    except (TypeError, ValueError):  # NaN, or what JSON does not know: to look for it takes as long as to save
        document = jsonable(document)
        result = keep_result(folder, kind, settings, document, run_id=run_id, tables=tables, in_format=in_format)
    return result, read(result)
