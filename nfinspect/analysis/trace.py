"""Which neurons a concept sets off: each prompt's means compared with a baseline's (methods §3).

The unit of replication is the prompt. For each concept prompt all neurons of the site are ranked by how far their mean
over the prompt's tokens is above the baseline's; a neuron's occurrences are the prompts with it among the top K.
"""

from collections.abc import Callable, Sequence
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
    """One neuron of a trace. rank counts from 1, percent runs 0-100; None where undefined.

    samples, baseline_samples: in how many prompts of the concept and of the baseline it has a mean; for a neuron of an
    expert these may be fewer than there are.
    """

    rank: int
    site: str
    layer: int
    neuron: int
    occurrences: int
    samples: int
    baseline_samples: int
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
        return f"{sum(q <= SIGNIFICANT for q in known):,} of {len(self.neurons):,} with q <= {SIGNIFICANT}"


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
    values = groups.concepts[concept]
    return Trace(
        concept=concept,
        baseline=question.baseline,
        tokens=question.tokens,
        rank=question.rank,
        site=question.site,
        top=question.top,
        samples=len(values),
        baseline_samples=0 if groups.baseline is None else len(groups.baseline),
        neurons=_rows_of_parts(question, groups, values) if groups.parts else _rows(question, groups, values),
        notes=(*question.notes, *notes, *chance_notes(groups)),
    )


def chance_notes(groups: Groups) -> tuple[str, ...]:
    """A note for each concept with so few prompts that neurons would separate it from the baseline by chance."""
    if groups.baseline is None:
        return ()
    said = (
        separated_by_chance(name, _sizes(values, groups.baseline, groups.parts))
        for name, values in groups.concepts.items()
        if values is not groups.baseline
    )
    return tuple(filter(None, said))


def _sizes(
    concept: NDArray[np.float32], baseline: NDArray[np.float32], parts: Sequence[slice]
) -> list[tuple[int, int, int]]:
    """Prompts of the concept, prompts of the baseline and neurons of each part, where it has both."""
    if not parts:
        return [(len(concept), len(baseline), concept.shape[1])]
    starts = [part.start for part in parts]
    each = zip(_prompts_of(concept[:, starts]).tolist(), _prompts_of(baseline[:, starts]).tolist(), parts, strict=True)
    return [(one, other, part.stop - part.start) for one, other, part in each if one and other]


def _prompts_of(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """In how many prompts each neuron has a mean."""
    found: NDArray[np.int64] = (~np.isnan(values)).sum(axis=0, dtype=np.int64)
    return found


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


def concept_order(groups: Groups, concept: str, base: Moments | None, rank: Rank, top: int) -> NDArray[np.int64]:
    """The columns of a concept's trace, best first. base: the baseline's moments, where there are no parts."""
    values = groups.concepts[concept]
    if groups.parts:
        return rank_parts(values, groups.baseline, rank, top, groups.parts).order
    return rank_neurons(values, groups.baseline, base, rank, top).order


def _rows(question: Question, groups: Groups, values: NDArray[np.float32]) -> tuple[TraceRow, ...]:
    base = contrasts.moments(groups.baseline) if groups.baseline is not None else None
    ranking = rank_neurons(values, groups.baseline, base, question.rank, question.top)
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
    figures = Figures(mean[order], base_mean, effect, auroc, precision, t, p, q)
    samples = np.full(len(order), len(values))
    against = np.full(len(order), 0 if groups.baseline is None else len(groups.baseline))
    return _table(question, groups, (samples, against), order, ranking.occurrences, figures)


@dataclass(frozen=True)
class Figures:
    """Of the neurons of a trace, in its order; NaN where undefined."""

    concept_mean: Floats
    baseline_mean: Floats
    effect_size: Floats
    auroc: Floats
    average_precision: Floats
    t: Floats
    p: Floats
    q: Floats


def _table(
    question: Question,
    groups: Groups,
    prompts: tuple[NDArray[np.int64], NDArray[np.int64]],
    order: NDArray[np.int64],
    every_occurrences: NDArray[np.int64],
    figures: Figures,
) -> tuple[TraceRow, ...]:
    """prompts: of the concept and of the baseline, in which each neuron of `order` has a mean."""
    rows = []
    for i, column in enumerate(order):
        occurrences, samples, against = int(every_occurrences[column]), int(prompts[0][i]), int(prompts[1][i])
        rows.append(
            TraceRow(
                rank=i + 1,
                site=question.site,
                layer=int(groups.index.layer[column]),
                neuron=int(groups.index.neuron[column]),
                occurrences=occurrences,
                samples=samples,
                baseline_samples=against,
                percent=100.0 * occurrences / samples,
                concept_mean=float(figures.concept_mean[i]),
                baseline_mean=number(figures.baseline_mean[i]),
                difference=number(figures.concept_mean[i] - figures.baseline_mean[i]),
                effect_size=number(figures.effect_size[i]),
                auroc=number(figures.auroc[i]),
                average_precision=number(figures.average_precision[i]),
                t=number(figures.t[i]),
                p_value=number(figures.p[i]),
                q_value=number(figures.q[i]),
            )
        )
    return tuple(rows)


# Where a neuron has a mean in some of the prompts only


@dataclass(frozen=True)
class PartsRanking:
    """A Ranking where prompts differ in which neurons have a mean; means: NaN where a group has none."""

    order: NDArray[np.int64]
    occurrences: NDArray[np.int64]  # [neurons]
    prompts: tuple[NDArray[np.int64], NDArray[np.int64]]  # [neurons] each, of the concept and of the baseline
    concept_mean: Floats  # [neurons]
    baseline_mean: Floats  # [neurons]; 0 without a baseline


Statistic = Callable[[contrasts.Group, contrasts.Group], Floats]


def of_parts(
    statistic: Statistic, concept: contrasts.Group, baseline: contrasts.Group, parts: Sequence[slice]
) -> Floats:
    """A statistic of two groups, float[prompts, neurons], over the prompts in which a neuron has a mean: those are the
    same for all neurons of a part.
    """
    result = np.full(concept.shape[1], np.nan)
    for part in parts:
        result[part] = statistic(*(group[~np.isnan(group[:, part.start]), part] for group in (concept, baseline)))
    return result


def rank_parts(
    concept: NDArray[np.float32],
    baseline: NDArray[np.float32] | None,
    rank: Rank,
    top: int,
    parts: Sequence[slice],
) -> PartsRanking:
    """As rank_neurons. A neuron that has no mean in a prompt is not among its top; one without a mean in any prompt of
    a group is not ranked. Of neurons with the same effect or AUROC those come first that have more pairs of a prompt of
    the concept and one of the baseline [own]: 3 prompts against 1 have AUROC 1 by chance far more often than 7 against
    7.
    """
    mean = of_parts(_mean, concept, concept, parts)
    centre = np.zeros(concept.shape[1]) if baseline is None else of_parts(_mean, baseline, baseline, parts)
    occurrences = np.zeros(concept.shape[1], np.int64)
    for prompt in concept:
        above = prompt - centre
        here = top_columns(np.where(np.isnan(above), -np.inf, above), top)
        occurrences[here[~np.isnan(above[here])]] += 1
    difference = mean - centre
    first = occurrences.astype(np.float64)
    if baseline is not None and rank != "difference":
        first = of_parts(_effect if rank == "effect" else contrasts.auroc, concept, baseline, parts)
    undefined_last = np.where(np.isnan(first) | np.isnan(difference), -np.inf, first)
    near = near_top(undefined_last, top)
    near = near[~np.isnan(difference[near])]
    held = _prompts_of(concept)
    against = np.zeros_like(held) if baseline is None else _prompts_of(baseline)
    fewer = -(held * against)[near] if rank != "difference" else np.zeros(len(near), np.int64)
    order = near[np.lexsort((-difference[near], fewer, -undefined_last[near]))[:top]]
    return PartsRanking(order, occurrences, (held, against), mean, centre)


def _rows_of_parts(question: Question, groups: Groups, values: NDArray[np.float32]) -> tuple[TraceRow, ...]:
    ranking = rank_parts(values, groups.baseline, question.rank, question.top, groups.parts)
    order, baseline = ranking.order, groups.baseline
    undefined = np.full(len(order), np.nan)
    figures = Figures(ranking.concept_mean[order], *(undefined,) * 7)
    if baseline is not None:

        def of(statistic: Statistic) -> Floats:
            return of_parts(statistic, values, baseline, groups.parts)

        def of_order(statistic: Statistic) -> Floats:
            columns = [slice(i, i + 1) for i in range(len(order))]
            return of_parts(statistic, values[:, order], baseline[:, order], columns)

        p = of(lambda a, b: contrasts.welch(contrasts.moments(a), contrasts.moments(b))[1])
        figures = Figures(
            concept_mean=ranking.concept_mean[order],
            baseline_mean=ranking.baseline_mean[order],
            effect_size=of_order(_effect),
            auroc=of_order(contrasts.auroc),
            average_precision=of_order(contrasts.average_precision),
            t=of_order(lambda a, b: contrasts.welch(contrasts.moments(a), contrasts.moments(b))[0]),
            p=p[order],
            q=contrasts.benjamini_hochberg(p)[order],
        )
    held, against = ranking.prompts
    return _table(question, groups, (held[order], against[order]), order, ranking.occurrences, figures)


def rankable(concept: NDArray[np.float32], baseline: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """Which neurons a trace can list, bool[neurons]: those with a mean in some prompt of each group."""
    found = _prompts_of(concept) > 0
    return found if baseline is None else found & (_prompts_of(baseline) > 0)


def _mean(group: contrasts.Group, other: contrasts.Group) -> Floats:
    return contrasts.moments(group).mean


def _effect(concept: contrasts.Group, baseline: contrasts.Group) -> Floats:
    return contrasts.hedges_g(contrasts.moments(concept), contrasts.moments(baseline))
