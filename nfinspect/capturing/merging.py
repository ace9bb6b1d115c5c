"""The parts of a capture become the run that one process would have made (docs/decisions/0021).

Imports torch only where fingerprints have to be compared.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.sizes import run_bytes
from nfinspect.present.numbers import size
from nfinspect_store.attached import MOST_ATTACHED, is_attached, told_parts
from nfinspect_store.errors import CannotMerge, RunExists, StorageFull
from nfinspect_store.merging import check_parts, opened, write_merged
from nfinspect_store.open_parts import runs_together
from nfinspect_store.parts import (
    Chosen,
    MergedRun,
    Part,
    check_together,
    choose,
    differences,
    merged_settings,
    told_missing,
)
from nfinspect_store.paths import nearest_folder
from nfinspect_store.processors import writer_threads
from nfinspect_store.reader import RunFile
from nfinspect_store.types import RunInfo

Note = Callable[[str], None]
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Merged:
    """What a merge has made, or found there. missing: prompts that are in no part, each range [first, after the last).

    left_out: parts whose prompts another part has. written: whether the run is new. attached: whether its values stay
    in the parts.
    """

    path: Path
    parts: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[tuple[int, int], ...]
    prompts: int
    tokens: int
    written: bool
    attached: bool = False


def merge_runs(
    out: Path,
    paths: Sequence[Path],
    *,
    partial: bool = False,
    attach: bool = False,
    note: Note = lambda text: None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Merge the parts at `paths`, in any order, into the run at `out`, which appears once it is complete.

    A part given twice is merged once, a merged run of the same capture among the parts is left out, and parts that
    `out` was merged from already leave it as it is. partial: merge what is there; the run then says what is missing.
    attach: leave the values in the parts, which the run is attached to (docs/decisions/0021); a run that is attached to
    its parts stands for them. told: is given (tokens copied, tokens). Raises CannotMerge, RunExists for another run at
    `out`, StorageFull where it has no room, StoreError.
    """
    parts, merged = _read(paths)
    check_together(parts)
    _check_fingerprints(parts)
    for one in merged:
        if different := _other_capture(parts[0], one):
            raise CannotMerge(
                f"expected parts of one capture, found {one.name}, which was merged from those of another: {different}"
            )
        if not one.attached:
            note(f"{one.name} is left out: it was merged from such parts before")
    chosen = choose(parts)
    for part in chosen.left_out:
        note(f"{part.name} is left out: another part has its prompts")
    if chosen.missing and not partial:
        raise CannotMerge(
            f"expected every prompt of the capture, {parts[0].every:,} of them; missing are {told_missing(chosen)} "
            "(--partial merges what is there)"
        )
    if not chosen.parts:
        raise CannotMerge("expected parts with prompts, found none")
    attach = attach and _can_attach(chosen, note)
    there = _there(out, chosen, attach=attach)
    if there is not None:
        note(f"{out.stem} is left as it is: it holds these parts already")
        return there
    tokens = sum(part.tokens for part in chosen.parts)
    if not tokens:
        raise CannotMerge("expected parts with recorded tokens, found none")
    with opened(chosen.parts, attach=attach) as files:
        contents = check_parts(files, whole=not chosen.missing)
        info = _info(out, chosen, contents if attach else None)
        _check_room(out, info, chosen.parts)
        write_merged(
            out,
            info,
            files,
            lambda tables: classify_tables(tables, exact=tables.has_values),
            writers=writer_threads("auto"),
            told=lambda copied: told(copied, tokens),
            complete=lambda: _there(out, chosen, attach=attach),  # another process may have written one meanwhile
        )
    return _merged(out, chosen, written=True, attached=attach)


def _read(paths: Sequence[Path]) -> tuple[list[Part], list[MergedRun]]:
    """The parts, each file once, those of attached runs too, and the merged runs among the files."""
    parts: list[Part] = []
    merged: list[MergedRun] = []
    seen: set[Path] = set()
    left = [path.resolve() for path in paths]
    while left := [path for path in dict.fromkeys(left) if path not in seen]:
        seen.update(left)
        attached: list[Path] = []
        with runs_together(left) as each:
            for run in each():
                before = MergedRun.of_run(run)
                if before is None:
                    parts.append(Part.of_run(run))
                else:
                    merged.append(before)
                    attached += [part.path(run.path).resolve() for part in before.attached]
        left = attached
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


def _there(out: Path, chosen: Chosen, *, attach: bool) -> Merged | None:
    """The run at `out` if it holds these prompts already, as asked for; None if there is nothing, or one to replace:
    of fewer prompts, attached to its parts, or to others. Raises RunExists for any other run, NotARun for a damaged
    one.
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
            if held.attached and not (attach and _same_files(held, chosen)):
                return None
            done = _merged(out, chosen, written=False, attached=bool(held.attached))
            return replace(done, prompts=run.prompts, tokens=run.tokens)
        lost = _count(chosen.missing) - _shared(chosen.missing, held.missing)
    if lost:
        raise RunExists(
            f"{out.stem} holds {lost:,} prompts of this capture that these parts do not: choose another name"
        )
    return None


def _same_files(held: MergedRun, chosen: Chosen) -> bool:
    """Whether a run is attached to these very files, as they are now."""
    found = [(part.path.resolve(), part.info.run_id, part.tokens, part.path.stat().st_size) for part in chosen.parts]
    return found == [(one.path(held.path).resolve(), one.run_id, one.tokens, one.bytes) for one in held.attached]


def _can_attach(chosen: Chosen, note: Note) -> bool:
    """Whether there are values to leave in the parts. Raises CannotMerge for too many parts."""
    if chosen.parts[0].settings.get("keep", "all") != "all":
        note("the parts hold statistics only: there are no values to leave in them")
        return False
    if any(layer.experts for layer in chosen.parts[0].layers):
        note("values of neurons of experts, which are of the tokens routed to them, do not stay in parts")
        return False
    if len(chosen.parts) > MOST_ATTACHED:
        raise CannotMerge(f"expected at most {MOST_ATTACHED} parts to attach, found {len(chosen.parts)}")
    return True


def _check_room(out: Path, info: RunInfo, parts: Sequence[Part]) -> None:
    """Raises StorageFull where the disk has less room than the run will take."""
    attached = is_attached(info.settings)
    needed = run_bytes(
        parts[0].layers,
        "stats" if attached else info.settings.get("keep", "all"),
        info.settings["precision"],
        tokens=sum(part.tokens for part in parts),
        prompts=sum(part.stop - part.first for part in parts),
        concepts=1,
        generates=bool(info.settings.get("generate")),
    )
    there = nearest_folder(out.parent)
    free = shutil.disk_usage(there).free
    if free < needed:
        instead = "" if attached else ", or leave the values in the parts (--attach)"
        raise StorageFull(
            f"expected about {size(needed)} of free space in {there} for {out.stem}, found {size(free)}: free some "
            f"space{instead}"
        )


def _count(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _shared(some: Ranges, others: Ranges) -> int:
    """How many numbers are in both; ranges [start, stop)."""
    return sum(max(0, min(b, d) - max(a, c)) for a, b in some for c, d in others)


def _info(out: Path, chosen: Chosen, attached: Sequence[str] | None) -> RunInfo:
    """The `run` row: that of the first part, but for what is of the whole. attached: the digests of the parts in which
    the values stay, else None.
    """
    parts = chosen.parts
    one = parts[0].info
    content = repr([(part.info.run_id, part.first, part.stop, part.tokens) for part in parts]) + repr(chosen.missing)
    if attached is not None and parts[0].settings["precision"] != one.settings["precision"]:
        content += "not rounded"
    # Merged again, it has the same; with more of a part that was cut short, another: results are kept by it.
    run_id = hashlib.sha256(content.encode()).hexdigest()[:32]
    told = [
        (part.path, part.info.run_id, part.tokens, digest)
        for part, digest in zip(parts if attached is not None else (), attached or (), strict=True)
    ]
    return replace(
        one,
        run_id=run_id,
        name=out.stem,
        created_at=min(part.info.created_at for part in parts),
        finished_at=None,
        status="capturing",
        settings=merged_settings(parts, chosen.missing, told_parts(out, run_id, told)),
    )


def _merged(out: Path, chosen: Chosen, *, written: bool, attached: bool) -> Merged:
    parts = chosen.parts
    return Merged(
        path=out,
        parts=tuple(part.name for part in parts),
        left_out=tuple(part.name for part in chosen.left_out),
        missing=chosen.missing,
        prompts=sum(part.stop - part.first for part in parts),
        tokens=sum(part.tokens for part in parts),
        written=written,
        attached=attached,
    )
