"""Which neurons a concept sets off: each prompt's means compared with a baseline's (methods §3).

The unit of replication is the prompt. For each concept prompt all neurons of the site are ranked by how far their mean
over the prompt's tokens is above the baseline's; a neuron's occurrences are the prompts with it among the top K.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis import contrasts
from nfinspect.analysis.comparison import Groups, Question, ask, read_groups
from nfinspect.analysis.contrasts import Floats, Moments
from nfinspect.analysis.enough import separated_by_chance
from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect_store.tables import RunTables
from nfinspect_store.types import SIGNIFICANT, Rank, Selection

GROUP = 16
"""Columns of which near_top first compares only the largest."""


@dataclass(frozen=True)
class TraceRow(Document):
    """One neuron of a trace. rank counts from 1, percent runs 0-100; None where undefined."""

    rank: int
    site: str
    layer: int
    neuron: int
    occurrences: int
    samples: int
    percent: float
    concept_mean: float
    baseline_mean: float | None
    difference: float | None
    effect_size: float | None
    auroc: float | None
    average_precision: float | None
    t: float | None
    p_value: float | None
    q_value: float | None

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"


@dataclass(frozen=True)
class Trace(Document):
    """A concept's trace: `top` neurons in order. notes: for the user."""

    concept: str
    baseline: str | None
    tokens: Selection
    rank: Rank
    site: str
    top: int
    samples: int
    baseline_samples: int
    neurons: tuple[TraceRow, ...]
    notes: tuple[str, ...]

    @property
    def significance(self) -> str:
        """How many of the listed neurons differ from the baseline beyond chance; empty without a baseline."""
        known = [row.q_value for row in self.neurons if row.q_value is not None]
        if self.baseline is None or not known:
            return ""
        return f"{sum(q <= SIGNIFICANT for q in known)} of {len(self.neurons)} with q <= {SIGNIFICANT}"


@dataclass(frozen=True)
class Ranking:
    """The order of a concept's table, before its statistics. order: `top` columns of the site's arrays, best first."""

    order: NDArray[np.int64]
    occurrences: NDArray[np.int64]  # [neurons]
    concept: Moments
    effect: Floats | None = None  # [neurons], where it was needed for the order


def trace(
    run: RunTables,
    concept: str,
    baseline: str | None = None,
    tokens: str | None = None,
    top: int = 10,
    rank: str = "difference",
    site: str | None = None,
) -> Trace:
    """The neurons that `concept` sets off more than `baseline`.

    baseline: a concept of the run, by default the one called `baseline`; '' for none, which ranks raw values. tokens:
    last, generated or all, by default generated if the run has generated tokens, else all. rank: what the table is
    ordered by: difference, effect or auroc.

    Raises RequestError for an unknown concept, site or choice, and where no prompt has such a token.
    """
    question = ask(run, (concept,), baseline, tokens, top, rank, site)
    groups, notes = read_groups(run, question)
    base = contrasts.moments(groups.baseline) if groups.baseline is not None else None
    values = groups.concepts[concept]
    ranking = rank_neurons(values, groups.baseline, base, question.rank, question.top)
    return Trace(
        concept=concept,
        baseline=question.baseline,
        tokens=question.tokens,
        rank=question.rank,
        site=question.site,
        top=question.top,
        samples=len(values),
        baseline_samples=0 if groups.baseline is None else len(groups.baseline),
        neurons=_rows(question, groups, values, ranking, base),
        notes=(*question.notes, *notes, *chance_notes(groups)),
    )


def chance_notes(groups: Groups) -> tuple[str, ...]:
    """A note for each concept with so few prompts that neurons would separate it from the baseline by chance."""
    if groups.baseline is None:
        return ()
    said = (
        separated_by_chance(name, len(values), len(groups.baseline), values.shape[1])
        for name, values in groups.concepts.items()
    )
    return tuple(filter(None, said))


def top_columns(values: Floats, top: int) -> NDArray[np.int64]:
    """The columns of the `top` largest of float64[neurons], best first, ties in order of columns."""
    near = near_top(values, top)
    return near[np.argsort(-values[near], kind="stable")[:top]]


def near_top(values: Floats, top: int) -> NDArray[np.int64]:
    """Columns, ascending, that include the `top` largest and every tie with the last of them.

    Take the largest of every GROUP columns: at least `top` columns reach the `top`-th of these maxima, so columns below
    it are out. That is one pass and a sort of few columns; a partition of all takes ten times as long.
    """
    groups = len(values) // GROUP
    if groups < top:
        return np.arange(len(values))
    maxima = values[: groups * GROUP].reshape(GROUP, groups).max(axis=0)
    return np.flatnonzero(values >= np.partition(maxima, groups - top)[groups - top])


def rank_neurons(
    concept: NDArray[np.float32],
    baseline: NDArray[np.float32] | None,
    base: Moments | None,
    rank: Rank,
    top: int,
) -> Ranking:
    """The `top` columns of a concept's prompts compared with a baseline's: float32[prompts, neurons] each.

    Columns are in order of layer and neuron, which settles the last ties. With rank effect or auroc, neurons with the
    same statistic are ordered by difference [own]: with few prompts hundreds of neurons have AUROC 1.
    """
    moments = contrasts.moments(concept)
    centre = np.zeros(concept.shape[1]) if base is None else base.mean
    occurrences = np.zeros(concept.shape[1], np.int64)
    for prompt in concept:
        occurrences[top_columns(prompt - centre, top)] += 1
    difference = moments.mean - centre
    effect = None
    if rank == "effect" and base is not None:
        effect = contrasts.hedges_g(moments, base)
        first: Floats = effect
    elif rank == "auroc" and baseline is not None:
        first = contrasts.auroc(concept, baseline)
    else:
        first = occurrences.astype(np.float64)
    undefined_last = np.where(np.isnan(first), -np.inf, first)
    near = near_top(undefined_last, top)
    # lexsort is stable: equal rows stay in order of layer and neuron.
    order = near[np.lexsort((-difference[near], -undefined_last[near]))[:top]]
    return Ranking(order, occurrences, moments, effect)


def _rows(
    question: Question,
    groups: Groups,
    values: NDArray[np.float32],
    ranking: Ranking,
    base: Moments | None,
) -> tuple[TraceRow, ...]:
    order, mean = ranking.order, ranking.concept.mean
    undefined = np.full(len(order), np.nan)
    effect = auroc = precision = t = p = q = undefined
    base_mean = undefined
    if base is not None and groups.baseline is not None:
        base_mean = base.mean[order]
        effect = (contrasts.hedges_g(ranking.concept, base) if ranking.effect is None else ranking.effect)[order]
        every_t, every_p = contrasts.welch(ranking.concept, base)
        t, p = every_t[order], every_p[order]
        q = contrasts.benjamini_hochberg(every_p)[order]  # over all neurons of the site that have a p
        auroc = contrasts.auroc(values[:, order], groups.baseline[:, order])
        precision = contrasts.average_precision(values[:, order], groups.baseline[:, order])
    rows = []
    for i, column in enumerate(order):
        occurrences = int(ranking.occurrences[column])
        rows.append(
            TraceRow(
                rank=i + 1,
                site=question.site,
                layer=int(groups.index.layer[column]),
                neuron=int(groups.index.neuron[column]),
                occurrences=occurrences,
                samples=len(values),
                percent=100.0 * occurrences / len(values),
                concept_mean=float(mean[column]),
                baseline_mean=number(base_mean[i]),
                difference=number(mean[column] - base_mean[i]),
                effect_size=number(effect[i]),
                auroc=number(auroc[i]),
                average_precision=number(precision[i]),
                t=number(t[i]),
                p_value=number(p[i]),
                q_value=number(q[i]),
            )
        )
    return tuple(rows)
