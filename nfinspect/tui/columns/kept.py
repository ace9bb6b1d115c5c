"""A kept result in one line: the settings that made it, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfinspect_store.results import Result


def facts(result: Result) -> str:
    """From the document that every version of the command prints; where it does not hold what it should, it says so."""
    try:
        return _FACTS[result.kind](result.document, result.settings)
    except (KeyError, TypeError, ValueError, IndexError):
        return f"{result.path.name}: of another version of nfinspect"


def _neurons(document: Mapping[str, Any]) -> str:
    return f"{sum(layer['neurons'] for layer in document['layers']):,} neurons of {len(document['layers'])} layers"


def _ngrams(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return f"n={d['n']} at {d['site']}: {len(d['detectors'])} detectors among {_neurons(d)}"


def _positions(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return (
        f"{d['site']}: {len(d['neurons'])} positional among {_neurons(d)}; "
        f"{d['sequences']:,} sequences of {d['length']} tokens"
    )


def _delta(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    limits = f"ratio from {d['min_ratio']:g}, step from {d['min_step']:g}"
    return f"{d['site']}: {d['delta_sensitive']} delta-sensitive among {_neurons(d)}; {limits}"


def _attention(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return f"{d['method']} at {d['site']}: {d['samples']} prompts of {read_from(s)}, {d['tokens']:,} tokens"


def read_from(settings: Mapping[str, Any]) -> str:
    """The files that a result's texts are from: the first, and how many more."""
    files = [_named(PurePath(path)) for path, _ in (*settings["prompts"], *settings["text"])]
    return f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"


def _ablation(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    sets = ", ".join(f"{one['name']} ({one['neurons']})" for one in d["sets"])
    return f"{s['mode']} of {sets}; {d['tokens']:,} tokens of {d['text']}, {s['controls']} controls"


def _lens(d: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return f"{d['prompt'][-60:]!r}: {d['answer']['token']!r} after {d['tokens']:,} tokens"


def _named(path: PurePath) -> str:
    """A file by its name; what the app wrote beside a run, by the run's."""
    return f"run {path.parent.stem}" if path.parent.suffix == ".results" else path.name


_FACTS = {
    "ngrams": _ngrams,
    "positions": _positions,
    "delta": _delta,
    "attention": _attention,
    "ablation": _ablation,
    "lens": _lens,
}
