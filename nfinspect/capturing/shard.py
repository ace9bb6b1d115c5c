"""A part of a capture: `--shard I/N` (docs/decisions/0021).

Every process plans the whole capture, and reads the batches of its own part: the same batches, so the same values to
the last bit, and the same numbers for sampling, which are drawn by the whole's prompts. What a merge needs is in the
part's settings under `shard` (nfinspect_store.part_settings).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfinspect_store.errors import RequestError
from nfinspect_store.part_settings import NOT_OF_THE_PLAN, SHARD
from nfinspect_store.types import Layer

MOST_PARTS = 10_000


@dataclass(frozen=True)
class Shard:
    """Part `part` of `of`, counted from 1."""

    part: int
    of: int

    def __str__(self) -> str:
        return f"{self.part}/{self.of}"


def parse_shard(text: str) -> Shard:
    """`1/4` to `4/4`. Raises RequestError."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*/\s*(\d{1,5})\s*", text)
    part, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= of <= MOST_PARTS or not 1 <= part <= of:
        zero = " (parts count from 1: with ranks from 0, $((RANK + 1))/$WORLD_SIZE)" if match and not part else ""
        raise RequestError(f"expected --shard I/N such as 1/4, the first of four parts, found {text!r}{zero}")
    return Shard(part, of)


def part_name(run: str, shard: Shard) -> str:
    """The name of a part's run. run: the name of the whole, or of the part itself, which is resumed by it."""
    suffix = f".part-{shard.part}-of-{shard.of}"
    return run.removesuffix(suffix) + suffix


def batches_of(shard: Shard, tokens: Sequence[int]) -> range:
    """Which batches are those of a part: consecutive ones, none in two parts.

    tokens: how many each batch has; the parts have about as many each. A batch is never divided, so that of few batches
    some parts have none.
    """
    total = sum(tokens)
    start = stop = before = 0
    for size in tokens:
        # The part in which the middle of the batch lies.
        part = min(shard.of - 1, (2 * before + size) * shard.of // (2 * total)) + 1
        start += part < shard.part
        stop += part <= shard.part
        before += size
    return range(start, stop)


def settings_of_part(
    settings: Mapping[str, Any], shard: Shard, prompts: range, every: int, layers: Sequence[Layer], dtype: str
) -> dict[str, Any]:
    """The settings of a part's run. settings: of the whole; prompts: those of the part among `every` prompts.

    Values are kept as float32 until the parts are merged: rounding goes by blocks of the whole run's tokens.
    """
    told = {
        "part": shard.part,
        "of": shard.of,
        "first_prompt": prompts.start,
        "prompts": len(prompts),
        "all_prompts": every,
        "precision": settings["precision"],
        "plan": plan_digest(settings, layers, dtype),
    }
    return {**settings, "precision": "float32", SHARD: told}


def plan_digest(settings: Mapping[str, Any], layers: Sequence[Layer], dtype: str) -> str:
    """SHA-256 of what decides a run's contents, in hexadecimal: equal in all parts of one capture."""
    plan = {name: value for name, value in settings.items() if name not in NOT_OF_THE_PLAN}
    content = json.dumps([plan, [vars(layer) for layer in layers], dtype], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
