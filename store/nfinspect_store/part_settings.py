"""What the settings of a run say of parts: of a capture's part (`--shard`), and of a run that was merged from them."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from nfinspect_store.byte_limits import NEEDED

SHARD = "shard"
"""Of a part's settings: part, of, first_prompt, prompts, all_prompts, precision, plan."""

MERGED = "merged"
"""Of a merged run's settings: plan, parts (names), missing ([first, after the last] of prompts), all_prompts; of one
whose values stay in its parts also attached (attached.py), and the precision that the whole would have."""

NOT_OF_THE_PLAN = frozenset(
    {
        "files",
        "notes",
        "weights",
        "fingerprint",
        "worst_error",
        "model",
        "revision",
        "command",
        "directory",
        NEEDED,
        SHARD,
        MERGED,
    }
)
"""Settings that do not decide what a run holds. A model may lie elsewhere on another machine: its fingerprint, compared
on its own, says which it is.
"""


def prompts_digest(prompts: Iterable[tuple[str, str, tuple[int, ...]]]) -> str:
    """SHA-256 of prompts in order, each its concept, text and token ids, in hexadecimal: settings.prompts_sha256."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr(prompt).encode())
    return digest.hexdigest()


MOST_PROMPTS = 2**31
"""More than a run can number."""

RANGES_NAMED = 3
"""The most ranges of missing prompts that a note names; a stranger's file may hold any number."""


def is_number(value: object) -> TypeGuard[int]:
    """Whether a setting can be the number of a prompt or a part, or how many there are."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_PROMPTS


def part_notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What readers of the figures of a part, or of a run merged from some of the parts, must know."""
    if isinstance(told := settings.get(SHARD), dict):
        numbers = [told.get(name) for name in ("part", "of", "first_prompt", "prompts", "all_prompts")]
        if not all(map(is_number, numbers)):
            return ("this is a part of a capture that does not say which: every figure is of this part",)
        part, of, first, prompts, every = numbers
        which = f"prompts {first}-{first + prompts - 1}" if prompts else "none"
        return (
            f"this is part {part} of {of} of a capture, {which} of its {every} prompts: "
            "every figure is of these (nfinspect merge puts the parts together)",
        )
    told = settings.get(MERGED)
    gaps = told.get("missing") if isinstance(told, dict) else None
    if isinstance(told, dict) and isinstance(gaps, list) and gaps:
        lacking = ", ".join(map(_told_range, gaps[:RANGES_NAMED]))
        if len(gaps) > RANGES_NAMED:
            lacking += f" and {len(gaps) - RANGES_NAMED} ranges more"
        of = f" of {told['all_prompts']}" if is_number(told.get("all_prompts")) else ""
        return (
            f"merged from some of the parts of a capture (--partial): prompts {lacking}{of} "
            "are missing, and prompts and tokens are numbered without them",
        )
    return ()


def _told_range(gap: object) -> str:
    """[start, stop) in words; a stranger's file may hold anything there."""
    whole = isinstance(gap, list) and len(gap) == 2 and all(map(is_number, gap))
    return f"{gap[0]}-{gap[1] - 1}" if whole and isinstance(gap, list) else "that it does not name"
