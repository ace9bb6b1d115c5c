"""The parts of a capture become the run that one process would have made (docs/decisions/0021).

Imports torch only where fingerprints have to be compared.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from nfinspect.capturing.classification import classify_tables
from nfinspect_store.errors import CannotMerge, RunExists
from nfinspect_store.merging import write_merged
from nfinspect_store.part_settings import prompts_digest
from nfinspect_store.parts import (
    Chosen,
    MergedRun,
    Part,
    check_together,
    choose,
    differences,
    merged_settings,
    prompts_of,
    told_missing,
)
from nfinspect_store.processors import writer_threads
from nfinspect_store.reader import RunFile
from nfinspect_store.types import RunInfo

Note = Callable[[str], None]
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Merged:
    """What a merge has made, or found there. missing: prompts that are in no part, each range [first, after the last).

    left_out: parts whose prompts another part has. written: whether the run is new.
    """

    path: Path
    parts: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[tuple[int, int], ...]
    prompts: int
    tokens: int
    written: bool


def merge_runs(
    out: Path,
    paths: Sequence[Path],
    *,
    partial: bool = False,
    note: Note = lambda text: None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Merge the parts at `paths`, in any order, into the run at `out`, which appears once it is complete.

    A part given twice is merged once, a merged run of the same capture among the parts is left out, and parts that
    `out` was merged from already leave it as it is. partial: merge what is there; the run then says what is missing.
    told: is given (tokens copied, tokens). Raises CannotMerge, RunExists for another run at `out`, StoreError.
    """
    parts, merged = _read(paths)
    check_together(parts)
    _check_fingerprints(parts)
    for one in merged:
        if different := _other_capture(parts[0], one):
            raise CannotMerge(
                f"expected parts of one capture, found {one.name}, which was merged from those of another: {different}"
            )
        note(f"{one.name} is left out: it was merged from such parts before")
    chosen = choose(parts)
    for part in chosen.left_out:
        note(f"{part.name} is left out: another part has its prompts")
    if chosen.missing and not partial:
        raise CannotMerge(
            f"expected every prompt of the capture, {parts[0].every} of them; missing are {told_missing(chosen)} "
            "(--partial merges what is there)"
        )
    if not chosen.parts:
        raise CannotMerge("expected parts with prompts, found none")
    there = _there(out, chosen)
    if there is not None:
        note(f"{out.stem} is left as it is: it holds these parts already")
        return there
    if not chosen.missing:
        _check_prompts(chosen.parts)
    tokens = sum(part.tokens for part in chosen.parts)
    if not tokens:
        raise CannotMerge("expected parts with recorded tokens, found none")
    write_merged(
        out,
        _info(out.stem, chosen),
        chosen.parts,
        lambda tables: classify_tables(tables, exact=tables.has_values),
        writers=writer_threads("auto"),
        told=lambda copied: told(copied, tokens),
    )
    return _merged(out, chosen, written=True)


def _read(paths: Sequence[Path]) -> tuple[list[Part], list[MergedRun]]:
    """The parts, each file once, and the merged runs among them."""
    parts: list[Part] = []
    merged: list[MergedRun] = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        with RunFile.open(path) as run:
            before = MergedRun.of_run(run)
            if before is None:
                parts.append(Part.of_run(run))
            else:
                merged.append(before)
    if not parts:
        raise CannotMerge(
            f"expected parts of a capture, found only {', '.join(one.name for one in merged)}, merged before"
            if merged
            else "expected parts of a capture, found none"
        )
    return parts, merged


def _check_fingerprints(parts: Sequence[Part]) -> None:
    """Raises CannotMerge unless all parts are of the same weights, as far as rounding lets one tell."""
    one = parts[0]
    for other in parts[1:]:
        if not _same_weights(one, other):
            raise CannotMerge(f"{one.name} and {other.name} were captured from models with different weights")


def _same_weights(one: Part, other: Part | MergedRun) -> bool:
    told, another = (run.info.settings.get("fingerprint") for run in (one, other))
    if told == another:
        return True
    from nfinspect.models import OtherWeights
    from nfinspect.models.fingerprint import Fingerprint, difference

    try:
        return difference(Fingerprint.from_json(told), Fingerprint.from_json(another)).same
    except OtherWeights:
        return False


def _other_capture(part: Part, merged: MergedRun) -> str:
    """Why a run was not merged from parts such as this one; empty if it was."""
    if different := differences(part, merged):
        return f"they differ in {different}"
    return "" if _same_weights(part, merged) else "the weights of the models are different"


def _check_prompts(parts: Sequence[Part]) -> None:
    """Raises CannotMerge unless the prompts of all parts together are those of the capture's plan."""

    def prompts(part: Part) -> list[tuple[str, str, tuple[int, ...]]]:
        with RunFile.open(part.path) as run:
            return list(prompts_of(run))

    found = prompts_digest(chain.from_iterable(map(prompts, parts)))
    if found != parts[0].settings.get("prompts_sha256"):
        raise CannotMerge(
            f"the prompts of the parts of {parts[0].name} are not those that were planned: a part was changed "
            "(nfinspect verify says more)"
        )


def _there(out: Path, chosen: Chosen) -> Merged | None:
    """The run at `out` if it holds these prompts already; None if there is nothing, or one of fewer of them. Raises
    RunExists for any other run, NotARun for a damaged one.
    """
    if not out.exists():
        return None
    with RunFile.open(out) as run:
        held = MergedRun.of_run(run)
        different = _other_capture(chosen.parts[0], held) if held is not None else ""
        if held is None or different:
            why = f" ({different})" if different else ""
            raise RunExists(
                f"a run named {out.stem} already exists, and was not merged from these parts{why}: choose another name"
            )
        if held.missing == chosen.missing:
            return replace(_merged(out, chosen, written=False), prompts=run.prompts, tokens=run.tokens)
        lost = _count(chosen.missing) - _shared(chosen.missing, held.missing)
    if lost:
        raise RunExists(f"{out.stem} holds {lost} prompts of this capture that these parts do not: choose another name")
    return None


def _count(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _shared(some: Ranges, others: Ranges) -> int:
    """How many numbers are in both; ranges [start, stop)."""
    return sum(max(0, min(b, d) - max(a, c)) for a, b in some for c, d in others)


def _info(name: str, chosen: Chosen) -> RunInfo:
    """The `run` row: that of the first part, but for what is of the whole."""
    parts = chosen.parts
    one = parts[0].info
    content = repr([(part.info.run_id, part.first, part.stop, part.tokens) for part in parts]) + repr(chosen.missing)
    return replace(
        one,
        # Merged again, it has the same; with more of a part that was cut short, another: results are kept by it.
        run_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        name=name,
        created_at=min(part.info.created_at for part in parts),
        finished_at=None,
        status="capturing",
        settings=merged_settings(parts, chosen.missing),
    )


def _merged(out: Path, chosen: Chosen, *, written: bool) -> Merged:
    parts = chosen.parts
    return Merged(
        path=out,
        parts=tuple(part.name for part in parts),
        left_out=tuple(part.name for part in chosen.left_out),
        missing=chosen.missing,
        prompts=sum(part.stop - part.first for part in parts),
        tokens=sum(part.tokens for part in parts),
        written=written,
    )
