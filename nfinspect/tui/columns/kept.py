"""A kept result in one line: the settings that made it, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import spec
from nfinspect.analysis.provenance import read_from, whose
from nfinspect.text import model_name

if TYPE_CHECKING:
    from nfinspect_store.results import Result


def facts(result: Result) -> str:
    """From the document that the command prints, and whose it is; where it does not hold what it should, it says so."""
    try:
        own = _FACTS.get(result.kind)
        said = own(result.document, result.settings) if own else spec(result.kind).kept(result.document)
        about = whose(result) or (f"of {read_from(result)}" if not own and spec(result.kind).needs == "model" else "")
        return f"{said}; {about}" if about else said
    except (KeyError, TypeError, ValueError, IndexError):
        return f"{result.path.name}: of another version of nfinspect"


def _ablation(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    sets = ", ".join(f"{one['name']} ({one['neurons']})" for one in d["sets"])
    other = "" if d["model_of_run"] else f" of another model than the run's, {model_name(d['model'])}"
    return f"{s['mode']} of {sets}{other}; {d['tokens']:,} tokens of {d['text']}, {s['controls']} controls"


def _lens(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return f"{d['prompt'][-60:]!r}: {d['answer']['token']!r} after {d['tokens']:,} tokens"


_FACTS = {
    "ablation": _ablation,
    "lens": _lens,
}
