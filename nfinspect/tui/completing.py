"""What Tab offers after `:` and in a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfinspect.analyses import specs
from nfinspect.tui.navigate import WORDS
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.requests import Completer

MOST = 200
"""Completions that are offered."""


@dataclass(frozen=True)
class Known:
    """What there is to complete. sites, layers, concepts, sets: of the run at hand; layers: by site."""

    runs: Sequence[str] = ()
    trainings: Sequence[str] = ()
    concepts: Sequence[str] = ()
    sets: Sequence[str] = ()
    layers: Sequence[tuple[str, int]] = ()
    default_site: str = ""
    aliases: Sequence[str] = ()


def known(app: Hub) -> Known:
    session, listed = app.session_here(), app.listed
    runs = [entry.name for entry in listed if entry.kind != "history"]
    trainings = [entry.name for entry in listed if entry.kind == "history"]
    if session is None:
        return Known(runs, trainings, aliases=tuple(app.aliases))
    return Known(
        runs,
        trainings,
        tuple(session.concepts),
        tuple(app.marks.names(session)),
        tuple((layer.site, layer.layer) for layer in session.layers),
        session.default_site,
        tuple(app.aliases),
    )


def target_completer(app: Hub) -> Completer:
    """What completes a line after `:`, by what there is when it is asked."""

    def completer(text: str) -> tuple[str, Sequence[str]]:
        return complete_target(text, known(app))

    return completer


def complete_target(text: str, there: Known) -> tuple[str, Sequence[str]]:
    """The unfinished end of what is typed after `:`, and its completions."""
    head, space, rest = text.partition(" ")
    if not space:
        return head, matching(head, _first_words(head, there))
    match head.lower():
        case "trace":
            return rest, matching(rest, there.concepts)
        case "runs" | "live":
            return rest, matching(rest, there.runs)
        case "watch":
            return rest, matching(rest, there.trainings)
        case "compare" | "diff":
            word = rest.replace(",", " ").rpartition(" ")[2]
            taken = rest[: len(rest) - len(word)].replace(",", " ").split()
            return word, matching(word, [run for run in there.runs if run not in taken])
        case "logits":
            return rest, matching(rest, _addresses(rest, there))
    return "", ()


def _first_words(head: str, there: Known) -> list[str]:
    words = [*WORDS, *CLASSES, *there.aliases, *(f"@{name}" for name in there.sets), *there.runs, *there.trainings]
    return [*words, *_addresses(head, there)]


def _addresses(text: str, there: Known) -> list[str]:
    """The layers; after a layer, the first half of its neurons' addresses."""
    if "/" in text:
        return []
    names = [(site, f"L{layer}") for site, layer in there.layers]
    plain = [name for site, name in names if site == there.default_site]
    if text in plain or ":" in text and text in {f"{site}:{name}" for site, name in names}:
        return [f"{text}/N"]
    return [*plain, *(f"{site}:{name}" for site, name in names if site != there.default_site)]


def complete_filter(text: str, columns: Sequence[str], sets: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The unfinished word at the end of a filter, and its completions: columns, sets, `and`, `or`."""
    word = text.rpartition(" ")[2]
    offered = ["and", "or"] if word and text.strip() != word else []
    return word, matching(word, [*dict.fromkeys(columns), *(f"@{name}" for name in sets), *offered])


def places(app: Hub) -> Iterator[tuple[str, str, str]]:
    """For the palette: a title, what it is, and what would be typed after `:` to go there."""
    there = known(app)
    for run in there.runs:
        yield f"Run: {run}", "open it", f"runs {run}"
    for training in there.trainings:
        yield f"Training: {training}", "watch it", f"watch {training}"
    for alias, text in app.aliases.items():
        yield f"Alias: {alias}", text, alias
    if app.session_here() is None:
        return
    for one in specs():
        if not one.of_neuron:  # the neuron's pane has the key
            yield f"Analysis: {one.name}", one.answers, one.name
    for cls in CLASSES:
        yield f"Neurons: {cls}", "the neurons of this class", cls
    for concept in there.concepts:
        yield f"Trace: {concept}", "neurons that it changes", f"trace {concept}"
    for name in there.sets:
        yield f"Set: @{name}", "marked neurons", f"@{name}"


def matching(start: str, words: Sequence[str]) -> list[str]:
    """The words that begin so, in any case; what is typed already is none."""
    wanted = start.lower()
    return [word for word in dict.fromkeys(words) if word.lower().startswith(wanted) and word != start][:MOST]
