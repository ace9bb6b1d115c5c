"""What a trace or an overlap compares: which concepts, with which baseline, on which tokens of their prompts (methods
§3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables
from nfinspect_store.types import SELECTIONS, Layer, NeuronIndex, Rank, Selection

BASELINE = "baseline"
"""The concept that is the baseline if none is named."""

NO_BASELINE = ""
"""This as the baseline means raw values, even if the run has a concept called `baseline`."""

RAW_WARNING = (
    "no baseline: raw values are ranked, which finds the same outlier coordinates for every concept; "
    "name a concept of the run with --baseline"
)


ROUTED_ONLY = (
    "a neuron of an expert has a mean in the prompts with a token that was routed to its expert: occurrences, means "
    "and tests are of these"
)


@dataclass(frozen=True)
class Question:
    """What is asked of a run, with defaults filled in and every choice checked."""

    concepts: tuple[str, ...]
    baseline: str | None
    tokens: Selection
    rank: Rank
    site: str
    top: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """The means of each concept's prompts, float32[prompts, neurons]; baseline: None if there is none.

    parts: empty, or the columns of neurons that have a mean in the same prompts, and NaN in the others: those of each
    expert of a mixture of experts, and those of each other layer.
    """

    index: NeuronIndex
    concepts: dict[str, NDArray[np.float32]]
    baseline: NDArray[np.float32] | None
    parts: tuple[slice, ...] = ()


def ask(
    run: RunTables,
    concepts: Sequence[str],
    baseline: str | None,
    tokens: str | None,
    top: int,
    rank: str,
    site: str | None,
) -> Question:
    """Fill in the defaults and check every choice. Raises RequestError."""
    site = run.resolve_site(site)
    for concept in (*concepts, *([baseline] if baseline else [])):
        run.resolve_concept(concept)
    if top < 1:
        raise RequestError(f"--top counts neurons from 1 up, found {top}")
    if rank not in get_args(Rank):
        raise RequestError(f"cannot rank by {rank!r}: choose {', '.join(get_args(Rank))}")
    notes = list(run.figure_notes)
    chosen = baseline or None
    if baseline is None and BASELINE in run.concepts and tuple(concepts) != (BASELINE,):
        chosen = BASELINE
        notes.append(f"the baseline is the concept {BASELINE!r}; choose another one with --baseline")
    if chosen is not None and chosen in concepts:
        others = [name for name in run.concepts if name != chosen]
        raise RequestError(
            f"{chosen!r} is the baseline and cannot be compared with itself: the other concepts are {', '.join(others)}"
        )
    if chosen is None:
        if rank != "difference":
            raise RequestError(f"ranking by {rank} needs a baseline: name a concept with --baseline")
        notes.append(RAW_WARNING)
    selection = _selection(run, tokens)
    ranked: Rank = "effect" if rank == "effect" else "auroc" if rank == "auroc" else "difference"
    return Question(tuple(concepts), chosen, selection, ranked, site, top, tuple(notes))


def _selection(run: RunTables, tokens: str | None) -> Selection:
    if tokens is None:
        return "generated" if run.has_generated else "all"
    for selection in SELECTIONS:
        if tokens == selection:
            if selection == "generated" and not run.has_generated:
                raise RequestError("this run has no generated tokens (it only read its prompts): choose last or all")
            return selection
    raise RequestError(f"cannot take tokens {tokens!r}: choose {', '.join(SELECTIONS)}")


def read_groups(run: RunTables, question: Question) -> tuple[Groups, tuple[str, ...]]:
    """The prompts' means of every concept asked for, and notes on the prompts left out.

    Raises RequestError where no prompt of a concept has a token that counts.
    """
    names = [*question.concepts, *([question.baseline] if question.baseline is not None else [])]
    means = run.prompt_means(question.tokens, question.site, names)
    query = "SELECT concept, count(*) FROM prompts WHERE list_contains($names, concept) GROUP BY concept"
    held = {str(name): int(count) for name, count in run.cursor().execute(query, {"names": names}).fetchall()}
    groups, notes = {}, []
    kind = {"last": "token", "generated": "generated token", "all": "token"}[question.tokens]
    for name in names:
        groups[name] = means.values[means.concept == name]
        missing = held[name] - len(groups[name])
        if not len(groups[name]):
            raise RequestError(f"no prompt of {name!r} has a {kind} past position 0: there is nothing to compare")
        if missing:
            left_out = f"{missing:,} of {held[name]:,} prompts of {name!r} are left out"
            notes.append(f"{left_out}: they have no {kind} past position 0")
    baseline = groups[question.baseline] if question.baseline is not None else None
    parts = _parts(run.site_layers(question.site))
    if parts:
        notes.append(ROUTED_ONLY)
    return Groups(run.index(question.site), groups, baseline, parts), tuple(notes)


def _parts(layers: Sequence[Layer]) -> tuple[slice, ...]:
    """Groups.parts of a site's layers."""
    if not any(layer.experts for layer in layers):
        return ()
    widths = [width for layer in layers for width in [layer.width] * max(1, layer.experts)]
    stops = np.cumsum(widths).tolist()
    return tuple(slice(stop - width, stop) for stop, width in zip(stops, widths, strict=True))
