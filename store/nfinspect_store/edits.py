"""The edits that a run was captured with, as its settings hold them, in one line."""

from collections.abc import Iterable, Mapping
from typing import Any

NAMED = 3
"""Neurons of an edit that are named; of more it is said how many they are."""

PARTS = 5
"""Edits that are told; of more it is said how many they are."""

WIDEST = 80
"""Characters of one of them: names of runs and concepts may be of any length."""

UNREADABLE = "edits that cannot be read"


def edits_text(settings: Mapping[str, Any]) -> str:
    """Such as `zero L1/N5; clamp L3/N17,resid:L4/N2=8; from token 3`; empty without edits. Raises nothing: the settings
    may be a stranger's.
    """
    if not (edits := settings.get("edits")):
        return ""
    try:
        start = int(settings.get("edits_from") or 0)
        parts = _parts(edits)
        more = [f"{len(parts) - PARTS:,} more"] if len(parts) > PARTS else []
        told = [*parts[:PARTS], *more, *([f"from token {start}"] if start else [])]
        return "; ".join(map(_cut, told))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return UNREADABLE


def _cut(part: str) -> str:
    """Without its middle, if it is too wide: a direction's layer and factor stand at its end."""
    end = WIDEST // 2
    return part if len(part) <= WIDEST else f"{part[: WIDEST - end - 3]}...{part[-end:]}"


def _parts(edits: Iterable[Mapping[str, Any]]) -> list[str]:
    """Neurons to which the same is done, at several sites or layers, are one edit."""
    neurons: dict[tuple[str, str], list[str]] = {}
    directions = []
    for edit in edits:
        if edit["direction"] is not None:
            directions.append(f"direction {edit['direction']}")
            continue
        by = "" if edit["amount"] is None else f"={float(edit['amount']):g}"
        site = "" if edit["site"] == "mlp" else f"{edit['site']}:"
        there = neurons.setdefault((str(edit["kind"]), by), [])
        there += [f"{site}L{int(edit['layer'])}/N{int(neuron)}" for neuron in edit["neurons"]]
    named = (
        f"{kind} {','.join(which) if len(which) <= NAMED else f'{len(which):,} neurons'}{by}"
        for (kind, by), which in neurons.items()
    )
    return [*named, *directions]
