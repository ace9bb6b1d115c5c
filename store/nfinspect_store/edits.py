"""The edits that a run was captured with, as its settings hold them, in the words in which they are typed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DIRECTION = "direction"
"""The kind of edit that adds a vector to a whole layer."""

NAMED = 3
"""Neurons of an edit that are named; of more it is said how many they are."""

PARTS = 5
"""Edits that are told; of more it is said how many they are."""

WIDEST = 80
"""Characters of one of them: names of runs and concepts may be of any length."""

UNREADABLE = "edits that cannot be read"


@dataclass(frozen=True)
class WordedEdit:
    """One edit. what: neurons, or a direction as RUN:A-B@resid:L5; amount: empty where the kind needs none."""

    kind: str
    what: tuple[str, ...]
    amount: str


def worded_edits(edits: Iterable[Mapping[str, Any]]) -> list[WordedEdit]:
    """Those of a run's settings: of neurons to which the same is done, at several sites or layers, one edit.

    What is done twice to a layer stays two. Raises AttributeError, KeyError, OverflowError, TypeError or ValueError for
    what no capture has written.
    """
    groups: list[tuple[str, str, dict[tuple[str, int], list[str]]]] = []
    latest: dict[tuple[str, str], dict[tuple[str, int], list[str]]] = {}
    for edit in edits:
        if edit["direction"] is not None:
            what, equals, amount = str(edit["direction"]).rpartition("=")
            groups.append((DIRECTION, amount if equals else "", {("", 0): [what if equals else amount]}))
            continue
        kind, amount = str(edit["kind"]), "" if edit["amount"] is None else number_text(float(edit["amount"]))
        site, layer = str(edit["site"]), int(edit["layer"])
        prefix = "" if site == "mlp" else f"{site}:"
        found = latest.get((kind, amount))
        if found is None or (site, layer) in found:
            found = latest[kind, amount] = {}
            groups.append((kind, amount, found))
        found[site, layer] = [f"{prefix}L{layer}/N{int(neuron)}" for neuron in edit["neurons"]]
    return [WordedEdit(kind, tuple(w for there in found.values() for w in there), by) for kind, by, found in groups]


def number_text(value: float) -> str:
    """A number as it is typed, with every digit."""
    return repr(value).removesuffix(".0")


def edits_text(settings: Mapping[str, Any]) -> str:
    """Such as `zero L1/N5; clamp L3/N17,resid:L4/N2=8; from token 3`; empty without edits. Raises nothing: the settings
    may be a stranger's.
    """
    if not (edits := settings.get("edits")):
        return ""
    try:
        start = int(settings.get("edits_from") or 0)
        parts = [_text(one) for one in worded_edits(edits)]
        more = [f"{len(parts) - PARTS:,} more"] if len(parts) > PARTS else []
        told = [*parts[:PARTS], *more, *([f"from token {start}"] if start else [])]
        return "; ".join(map(_cut, told))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return UNREADABLE


def _cut(part: str) -> str:
    """Without its middle, if it is too wide: a direction's layer and factor stand at its end."""
    end = WIDEST // 2
    return part if len(part) <= WIDEST else f"{part[: WIDEST - end - 3]}...{part[-end:]}"


def _text(edit: WordedEdit) -> str:
    """With few of its neurons."""
    what = ",".join(edit.what) if len(edit.what) <= NAMED else f"{len(edit.what):,} neurons"
    return f"{edit.kind} {what}" + (f"={edit.amount}" if edit.amount else "")
