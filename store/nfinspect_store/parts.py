"""Parts of one capture (`--shard`): what each holds of the whole, whether they belong together, what is missing.

A part is a run of consecutive prompts. Its settings are those of the whole run, but for what is under SHARD and the
precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfinspect_store.errors import CannotMerge
from nfinspect_store.part_settings import MERGED, NOT_OF_THE_PLAN, SHARD
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
    def of_run(cls, run: RunFile) -> "Part":
        """Raises CannotMerge for a run that is no part of a capture."""
        told = run.info.settings.get(SHARD)
        fields = ("part", "of", "first_prompt", "prompts", "all_prompts")
        numbers = [told.get(name) if isinstance(told, dict) else None for name in fields]
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
            raise CannotMerge(f"expected a part of a capture, found {run.name}, which was made without --shard")
        number, of, first, prompts, every = map(int, numbers)  # type: ignore[arg-type]
        return cls(
            run.path, run.info, run.layers, number, of, first, first + run.prompts, first + prompts, every, run.tokens
        )

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def settings(self) -> dict[str, Any]:
        """Of the whole run, as the part knows them."""
        there = {name: value for name, value in self.info.settings.items() if name not in NOT_OF_THE_PLAN}
        return {**there, "precision": self.info.settings[SHARD].get("precision")}


def merged_plan(info: RunInfo) -> str | None:
    """The plan of the capture whose parts a run was merged from; None if it was not."""
    told = info.settings.get(MERGED)
    return str(told.get("plan")) if isinstance(told, dict) else None


def plan_of(part: Part) -> str:
    return str(part.info.settings[SHARD].get("plan"))


def check_together(parts: Sequence[Part]) -> None:
    """Raises CannotMerge, naming what differs, unless all parts are of one capture by one version."""
    one = parts[0]
    for other in parts[1:]:
        different = [f"{what} {a} and {b}" for what, a, b in _told(one, other) if a != b]
        if not different and plan_of(one) != plan_of(other):
            different = ["the plan of the capture"]
        if different:
            raise CannotMerge(
                f"{one.name} and {other.name} are no parts of one capture: they differ in "
                f"{'; '.join(different[:NAMED])}"
            )


def _told(one: Part, other: Part) -> Iterator[tuple[str, object, object]]:
    """What has to be equal in both: what it is, and as each tells it."""
    a, b = one.settings, other.settings
    for name in sorted({*a, *b}):
        yield "prompts" if name == "prompts_sha256" else name, _short(a.get(name)), _short(b.get(name))
    for name in ("dtype", "model_type", "seed", "nfinspect_version", "torch_version", "transformers_version"):
        yield name.replace("_version", ""), getattr(one.info, name), getattr(other.info, name)
    yield "device", one.info.device.partition(":")[0], other.info.device.partition(":")[0]
    yield "number of prompts", one.every, other.every
    if one.layers != other.layers:
        yield "layers", f"{len(one.layers)} of them", f"{len(other.layers)} others"


def _short(value: object) -> object:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 40 else value


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


def prompts_of(run: RunFile) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """A run's prompts as `prompts_digest` takes them."""
    for start in range(0, run.prompts, PROMPTS_READ):
        rows = run.cursor().execute(READ_PROMPTS, {"start": start, "stop": start + PROMPTS_READ}).fetchall()
        for concept, text, ids in rows:
            yield concept, text, tuple(ids)


def merged_settings(parts: Sequence[Part], missing: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
    """Those of the run that the parts make up."""
    one = parts[0].info.settings
    of_part = (SHARD, "worst_error", "command", "directory")
    whole = {name: value for name, value in one.items() if name not in of_part}
    told = {
        "plan": plan_of(parts[0]),
        "parts": [part.name for part in parts],
        "missing": [list(gap) for gap in missing],
        "all_prompts": parts[0].every,
    }
    return {**whole, "precision": parts[0].settings["precision"], MERGED: told}
