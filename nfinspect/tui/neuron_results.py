"""What a run's saved n-grams and positions say of one neuron, a line each. Called in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfinspect.analyses import spec
from nfinspect.present.numbers import counted, number, percent, quoted
from nfinspect.tui.glyphs import Glyphs, level

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result

WORDS = {1: "token", 2: "bigram", 3: "trigram"}
SHOWN = 4
"""N-grams of a detector that are named."""

PROFILE = 24
"""Cells of a positional profile."""


def told_of(session: Session, site: str, layer: int, neuron: int, glyphs: Glyphs) -> tuple[str, str]:
    """Its triggers, and how its firing depends on the position; or what was not found, or not computed."""
    return _triggers(session, site, layer, neuron, glyphs), _positions(session, site, layer, neuron, glyphs)


def _newest(session: Session, kind: str, site: str) -> list[Result]:
    """The run's own results at the site, the newest first; those of another version left out."""
    found = [r for r in session.results(kind) if r.run_id is not None and r.document.get("site") == site]
    return sorted(found, key=lambda result: result.made_at, reverse=True)


def _row(rows: Any, layer: int, neuron: int) -> Any:
    return next((row for row in rows if row["layer"] == layer and row["neuron"] == neuron), None)


def _covers(document: Any, layer: int) -> bool:
    return any(one["layer"] == layer for one in document["layers"])


def _triggers(session: Session, site: str, layer: int, neuron: int, glyphs: Glyphs) -> str:
    by_n: dict[int, Any] = {}
    for result in _newest(session, "ngrams", site):
        try:
            n, there = result.document["n"], _covers(result.document, layer)
            if there and n not in by_n:
                by_n[n] = _row(result.document["detectors"], layer, neuron)
        except (KeyError, TypeError):  # of another version
            continue
    if not by_n:
        return ""
    detected = next(((n, by_n[n]) for n in sorted(by_n) if by_n[n] is not None), None)
    if detected is None:
        return f"no {' or '.join(WORDS[n] for n in sorted(by_n))} detector"
    n, row = detected
    texts = " ".join(quoted(one["text"], glyphs) for one in row["ngrams"][:SHOWN])
    more = f" and {row['k'] - SHOWN} more" if row["k"] > SHOWN else ""
    return f"{WORDS[n]} detector, {percent(row['coverage'], glyphs, 0)} on {texts}{more}"


def _positions(session: Session, site: str, layer: int, neuron: int, glyphs: Glyphs) -> str:
    for result in _newest(session, "positions", site):
        try:
            document = result.document
            if not _covers(document, layer):
                continue
            of = counted(document["sequences"], "sequence")
            row = _row(document["neurons"], layer, neuron)
            if row is None:
                held = not document["neurons"] and any(one["would_pass"] for one in document["layers"])
                return f"position: not judged, from only {of}" if held else f"not positional ({of})"
            found = session.analysis(spec("positions"), result)
            profile = found.profiles[[(x.layer, x.neuron) for x in found.neurons].index((layer, neuron))].tolist()
        except (KeyError, TypeError, ValueError):
            continue
        step = max(1, -(-len(profile) // PROFILE))
        parts = [profile[i : i + step] for i in range(0, len(profile), step)]
        drawn = "".join(level(sum(part) / len(part), glyphs) for part in parts)
        information = number(row["mutual_information"], glyphs, 2)
        return f"position: {row['type']}, {row['strength']}, MI {information} nats over {of} {drawn}"
    return ""
