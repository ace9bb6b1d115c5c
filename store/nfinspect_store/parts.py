"""Parts of one capture (`--shard`): what each holds of the whole, whether they belong together, what is missing.

A part is a run of consecutive prompts. Its settings are those of the whole run, but for what is under SHARD and the
precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfinspect_store.attached import ATTACHED, AttachedPart
from nfinspect_store.errors import CannotMerge, NotARun
from nfinspect_store.open_parts import OpenRun
from nfinspect_store.part_settings import MERGED, NOT_OF_THE_PLAN, SHARD, is_number
from nfinspect_store.precision import BYTES
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer, RunInfo

READ_PROMPTS = """
SELECT p.concept, p.text, t.ids
FROM prompts p JOIN (
    SELECT prompt_idx, list(token_id ORDER BY "position") AS ids
    FROM (FROM tokens UNION ALL BY NAME FROM unrecorded)
    WHERE NOT generated AND prompt_idx >= $start AND prompt_idx < $stop GROUP BY prompt_idx) t USING (prompt_idx)
ORDER BY p.prompt_idx
"""

PROMPTS_READ = 4096
"""Prompts read at a time."""

NAMED = 3
"""The most differences, or parts, that a message names."""

TEXTS = ("dtype", "model_type", "nfinspect_version", "torch_version", "transformers_version")
"""Columns of `run` that are the same in all parts."""


@dataclass(frozen=True)
class Part:
    """A part as its file says. It holds prompts `first` to `stop` - 1 of the `every` prompts of the whole, and should
    hold those up to `due` - 1.
    """

    path: Path
    info: RunInfo
    layers: tuple[Layer, ...]
    number: int
    of: int
    first: int
    stop: int
    due: int
    every: int
    tokens: int

    @classmethod
    def of_run(cls, run: RunFile | OpenRun) -> "Part":
        """Raises CannotMerge for a run that is no part of a capture, NotARun for one that cannot be what it says."""
        told = run.info.settings.get(SHARD)
        fields = ("part", "of", "first_prompt", "prompts", "all_prompts")
        numbers = [told.get(name) if isinstance(told, dict) else None for name in fields]
        if not isinstance(told, dict) or not all(map(is_number, numbers)):
            raise CannotMerge(f"expected a part of a capture, found {run.name}, which was made without --shard")
        number, of, first, prompts, every = map(int, numbers)  # type: ignore[arg-type]
        if run.prompts > prompts or first + prompts > every:
            raise NotARun(
                f"{run.path} is damaged: expected at most {prompts} prompts from {first} on, of {every}, found "
                f"{run.prompts} (nfinspect verify says more)"
            )
        if not isinstance(told.get("precision"), str) or told["precision"] not in BYTES:
            raise NotARun(f"{run.path} is damaged: it does not say the precision of the whole run")
        return cls(
            run.path, _info(run), run.layers, number, of, first, first + run.prompts, first + prompts, every, run.tokens
        )

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def settings(self) -> dict[str, Any]:
        """Of the whole run, as the part knows them."""
        return {**_planned(self.info), "precision": self.info.settings[SHARD].get("precision")}

    @property
    def plan(self) -> str:
        return str(self.info.settings[SHARD].get("plan"))


def _planned(info: RunInfo) -> dict[str, Any]:
    """Of a run's settings those that are of the plan of the whole capture."""
    return {name: value for name, value in info.settings.items() if name not in NOT_OF_THE_PLAN}


@dataclass(frozen=True)
class MergedRun:
    """A run that was merged from parts, as its file says. It lacks the prompts in `missing`, each range [start, stop),
    of the `every` prompts of the whole.
    attached: the parts that hold its values, if it does not hold them itself.
    """

    path: Path
    info: RunInfo
    layers: tuple[Layer, ...]
    every: int
    missing: tuple[tuple[int, int], ...]
    attached: tuple[AttachedPart, ...] = ()

    @classmethod
    def of_run(cls, run: RunFile | OpenRun) -> "MergedRun | None":
        """None for a run that was not merged. Raises NotARun for one that cannot be what it says."""
        if MERGED not in run.info.settings:
            return None
        told = run.info.settings[MERGED]
        every = told.get("all_prompts") if isinstance(told, dict) else None
        missing = _ranges(told.get("missing"), every) if is_number(every) else None
        if not is_number(every) or missing is None or run.prompts != every - sum(b - a for a, b in missing):
            raise NotARun(
                f"{run.path} is damaged: it was merged from parts, and does not say which of its capture's prompts "
                "it holds (nfinspect verify says more)"
            )
        return cls(run.path, _info(run), run.layers, every, missing, run.attached)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def settings(self) -> dict[str, Any]:
        """As those of a Part."""
        there = _planned(self.info)
        return there | {"precision": self.info.settings[MERGED].get("precision", there.get("precision"))}

    @property
    def plan(self) -> str:
        return str(self.info.settings[MERGED].get("plan"))


def _ranges(told: object, every: int) -> tuple[tuple[int, int], ...] | None:
    """Ranges [start, stop) of numbers below `every`, in order; None for anything else."""
    found: list[tuple[int, int]] = []
    for gap in told if isinstance(told, list) else [None]:
        if not (isinstance(gap, list) and len(gap) == 2 and all(map(is_number, gap))):
            return None
        if not (found[-1][1] if found else 0) <= gap[0] < gap[1] <= every:
            return None
        found.append((gap[0], gap[1]))
    return tuple(found)


def _info(run: RunFile | OpenRun) -> RunInfo:
    """Raises NotARun if the row lacks anything that is compared."""
    info = run.info
    if not all(isinstance(getattr(info, name), str) for name in (*TEXTS, "device")) or not isinstance(info.seed, int):
        raise NotARun(
            f"{run.path} is damaged: its table run lacks the device, the seed, the model's type or dtype, or a version"
        )
    return info


def check_together(parts: Sequence[Part]) -> None:
    """Raises CannotMerge, naming what differs, unless all parts are of one capture by one version."""
    one = parts[0]
    for other in parts[1:]:
        if different := differences(one, other):
            raise CannotMerge(f"{one.name} and {other.name} are no parts of one capture: they differ in {different}")


def differences(one: Part, other: Part | MergedRun) -> str:
    """In what two differ that parts of one capture have in common, in words; empty if in nothing."""
    told = (f"{what} {_short(a)} and {_short(b)}" for what, a, b in _told(one, other) if a != b)
    different = list(dict.fromkeys(told))  # the seed is a setting, and a column
    if not different and one.plan != other.plan:
        return "the plan of the capture"
    return "; ".join(different[:NAMED])


def _told(one: Part, other: Part | MergedRun) -> Iterator[tuple[str, object, object]]:
    """What has to be equal in both: what it is, and as each tells it."""
    a, b = one.settings, other.settings
    for name in sorted({*a, *b}):
        yield "prompts" if name == "prompts_sha256" else name, a.get(name), b.get(name)
    for name in (*TEXTS, "seed"):
        yield name.replace("_version", ""), getattr(one.info, name), getattr(other.info, name)
    yield "device", one.info.device.partition(":")[0], other.info.device.partition(":")[0]
    yield "number of prompts", one.every, other.every
    if one.layers != other.layers:
        yield "layers", f"{len(one.layers)} of them", f"{len(other.layers)} others"


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text


@dataclass(frozen=True)
class Chosen:
    """parts: in order of their prompts, none twice; left_out: those whose prompts are in another; missing: prompts that
    are in none, each range [start, stop).
    """

    parts: tuple[Part, ...]
    left_out: tuple[Part, ...]
    missing: tuple[tuple[int, int], ...]


def choose(parts: Sequence[Part]) -> Chosen:
    """Which parts make up the capture. Of two of the same prompts one is taken. Raises CannotMerge where some of a
    part's prompts, but not all, are in another.
    """
    there = sorted(
        (part for part in parts if part.stop > part.first), key=lambda p: (p.first, -p.stop, p.name, str(p.path))
    )
    taken: list[Part] = []
    left_out: list[Part] = []
    missing: list[tuple[int, int]] = []
    end = 0
    for part in there:
        if part.stop <= end:
            left_out.append(part)
        elif part.first < end:
            raise CannotMerge(
                f"{taken[-1].name} and {part.name} overlap in prompts {part.first}-{end - 1}: expected parts of one "
                "division (the same N of --shard I/N)"
            )
        else:
            if part.first > end:
                missing.append((end, part.first))
            taken.append(part)
            end = part.stop
    every = parts[0].every
    if end < every:
        missing.append((end, every))
    return Chosen(tuple(taken), tuple(left_out), tuple(missing))


def told_missing(chosen: Chosen) -> str:
    """What is missing, in words: prompts, and the parts that have them."""
    return "; ".join(_told_gap(chosen.parts, *gap) for gap in chosen.missing[:NAMED]) + (
        f"; and {len(chosen.missing) - NAMED} ranges more" if len(chosen.missing) > NAMED else ""
    )


def _told_gap(parts: Sequence[Part], start: int, stop: int) -> str:
    prompts = f"prompts {start}-{stop - 1}" if stop - start > 1 else f"prompt {start}"
    begun = next((part for part in parts if part.stop == start and part.due > start), None)
    if begun is not None and begun.due == stop:
        return f"{prompts} of {begun.name}, which is not complete (repeat its command with --resume)"
    of = {part.of for part in parts}
    before = max((part.number for part in parts if part.stop <= start), default=0)
    after = min((part.number for part in parts if part.first >= stop), default=max(of, default=0) + 1)
    if len(of) != 1 or after - before < 2:
        return prompts
    numbers = f"part {before + 1}" if after - before == 2 else f"parts {before + 1}-{after - 1}"
    return f"{prompts} ({numbers} of {min(of)})"


def prompts_of(run: RunFile | OpenRun) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """A run's prompts as `prompts_digest` takes them."""
    for start in range(0, run.prompts, PROMPTS_READ):
        rows = run.cursor().execute(READ_PROMPTS, {"start": start, "stop": start + PROMPTS_READ}).fetchall()
        for concept, text, ids in rows:
            yield concept, text, tuple(ids)


def merged_settings(
    parts: Sequence[Part], missing: Sequence[tuple[int, int]], attached: Sequence[Mapping[str, Any]] = ()
) -> Mapping[str, Any]:
    """Those of the run that the parts make up. attached: what it says of the parts that keep its values (attached.py):
    as float32, while the whole would have the precision of the plan.
    """
    one = parts[0].info.settings
    of_part = (SHARD, "worst_error", "command", "directory")
    whole = {name: value for name, value in one.items() if name not in of_part}
    told: dict[str, Any] = {
        "plan": parts[0].plan,
        "parts": [part.name for part in parts],
        "missing": [list(gap) for gap in missing],
        "all_prompts": parts[0].every,
    }
    planned = parts[0].settings["precision"]
    if attached:
        told |= {ATTACHED: list(attached), "precision": planned}
    return {**whole, "precision": one["precision"] if attached else planned, MERGED: told}
