"""How much the traces of concepts share, compared with chance (methods §4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis import contrasts
from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.classification_cache import kept_classification
from nfinspect.analysis.comparison import Groups, ask, read_groups
from nfinspect.analysis.trace import chance_notes, concept_order, rankable
from nfinspect.json_values import Document
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables
from nfinspect_store.types import ABSENT, Rank, Selection

COUNT_ALIVE = f"""
SELECT count(*) AS neurons, count(*) FILTER (WHERE class NOT IN ('dead', '{ABSENT}')) AS alive
FROM neurons WHERE site = $site
"""


READ_ALIVE = f"""
SELECT class NOT IN ('dead', '{ABSENT}') AS alive FROM neurons WHERE site = $site ORDER BY layer, neuron
"""


@dataclass(frozen=True)
class SharedNeuron(Document):
    """A neuron that is in both traces, with its rank in each (from 1)."""

    address: str
    site: str
    layer: int
    neuron: int
    rank_a: int
    rank_b: int


@dataclass(frozen=True)
class RankedNeuron(Document):
    """A neuron that is in one trace of a pair and not in the other, with its rank (from 1)."""

    address: str
    site: str
    layer: int
    neuron: int
    rank: int


@dataclass(frozen=True)
class Chance:
    """Two sets of neurons compared with chance. expected: how many they would share by chance; p_value: P(X >=
    overlap); None where undefined.
    """

    jaccard: float | None
    expected: float | None
    p_value: float | None


@dataclass(frozen=True)
class Pair(Document):
    """Two concepts' traces. overlap: how many neurons are in both; shared: these, in order of a's ranks; only_a,
    only_b: those in the one and not in the other, in order of ranks. eligible: N of the test, the live neurons that
    both traces could list: fewer than the site has where neurons of experts have no mean in the prompts of one.
    """

    a: str
    b: str
    eligible: int
    overlap: int
    jaccard: float | None
    expected: float | None
    p_value: float | None
    shared: tuple[SharedNeuron, ...]
    only_a: tuple[RankedNeuron, ...]
    only_b: tuple[RankedNeuron, ...]


@dataclass(frozen=True)
class Overlap(Document):
    """Every pair of the concepts, in their order. eligible: the site's neurons that are not dead."""

    concepts: tuple[str, ...]
    baseline: str | None
    tokens: Selection
    rank: Rank
    site: str
    top: int
    eligible: int
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def pair(self, a: str, b: str) -> Pair:
        """The pair of two concepts, in either order."""
        return next(pair for pair in self.pairs if {pair.a, pair.b} == {a, b})


def overlap(
    run: RunTables,
    concepts: Sequence[str],
    baseline: str | None = None,
    tokens: str | None = None,
    top: int = 10,
    rank: str = "difference",
    site: str | None = None,
) -> Overlap:
    """What the traces of two or more concepts share, pair by pair; the options are those of `trace`.

    Raises RequestError as `trace` does, and for fewer than two concepts or one named twice.
    """
    if len(concepts) < 2 or len(set(concepts)) < len(concepts):
        raise RequestError(f"an overlap needs two or more different concepts, found {', '.join(concepts) or 'none'}")
    question = ask(run, concepts, baseline, tokens, top, rank, site)
    groups, notes = read_groups(run, question)
    base = None if groups.baseline is None or groups.parts else contrasts.moments(groups.baseline)
    ranks: dict[str, dict[int, int]] = {}
    for concept in concepts:
        order = concept_order(groups, concept, base, question.rank, question.top)
        ranks[concept] = {int(column): place + 1 for place, column in enumerate(order)}
    eligible = count_alive(run, question.site)
    could = _could_be_listed(run, question.site, groups)
    named_site = None if question.site == run.default_site else question.site

    def located(column: int) -> tuple[str, str, int, int]:
        layer, neuron = int(groups.index.layer[column]), int(groups.index.neuron[column])
        return str(Address(layer, neuron, named_site)), question.site, layer, neuron

    def only(mine: dict[int, int], other: dict[int, int]) -> tuple[RankedNeuron, ...]:
        return tuple(RankedNeuron(*located(column), rank) for column, rank in mine.items() if column not in other)

    pairs = []
    for a, b in combinations(concepts, 2):
        of_a, of_b = ranks[a], ranks[b]
        shared = tuple(SharedNeuron(*located(c), rank, of_b[c]) for c, rank in of_a.items() if c in of_b)
        drawn_a, drawn_b, of_both = set(of_a), set(of_b), eligible
        if could:
            both = could[a] & could[b]
            drawn_a, drawn_b = ({c for c in of if both[c]} for of in (of_a, of_b))
            of_both = int(both.sum())
        chance = against_chance(len(drawn_a & drawn_b), len(drawn_a), len(drawn_b), of_both)
        pairs.append(
            Pair(
                a,
                b,
                of_both,
                len(shared),
                len(shared) / len(of_a | of_b) if of_a or of_b else None,
                chance.expected,
                chance.p_value,
                shared,
                only_a=only(of_a, of_b),
                only_b=only(of_b, of_a),
            )
        )
    return Overlap(
        concepts=tuple(concepts),
        baseline=question.baseline,
        tokens=question.tokens,
        rank=question.rank,
        site=question.site,
        top=question.top,
        eligible=eligible,
        pairs=tuple(pairs),
        notes=(*question.notes, *notes, *chance_notes(groups)),
    )


def against_chance(shared: int, a: int, b: int, eligible: int) -> Chance:
    """Jaccard, |A||B|/N and P(X >= shared) for two sets of a and b of N eligible neurons that share `shared`.

    For two empty sets all are None. For a set larger than N p is: it cannot have been drawn from the eligible ones.
    """
    if a == 0 and b == 0:
        return Chance(None, None, None)
    drawn = max(a, b) <= eligible
    p = _as_many(shared, a, b, eligible) if drawn else None
    return Chance(shared / (a + b - shared), a * b / eligible if eligible else None, p)


def _as_many(shared: int, a: int, b: int, eligible: int) -> float:
    """P(X >= shared) of the hypergeometric distribution.

    From the ratios of neighbouring probabilities, the most probable one as 1, so that none is too large or too small,
    and divided by the sum of all: within 1e-12 of scipy.stats, whose import takes longer than all else here.
    """
    lowest, highest = max(0, a + b - eligible), min(a, b)
    if not lowest < highest:
        return 1.0
    x = np.arange(lowest, highest, dtype=np.float64)
    ratio = (a - x) * (b - x) / ((x + 1) * (eligible - a - b + x + 1))  # P(x + 1) / P(x)
    mode = min(max((a + 1) * (b + 1) // (eligible + 2), lowest), highest) - lowest
    up, down = np.cumprod(ratio[mode:]), np.cumprod(1 / ratio[:mode][::-1])[::-1]
    likely = np.concatenate([down, [1.0], up])
    return float(likely[max(shared - lowest, 0) :].sum() / likely.sum())


def _could_be_listed(run: RunTables, site: str, groups: Groups) -> dict[str, NDArray[np.bool_]]:
    """Of each concept, which live neurons its trace could list, bool[neurons]; empty where these are all live ones."""
    if not groups.parts:
        return {}
    alive = np.asarray(run.cursor().execute(READ_ALIVE, {"site": site}).fetchnumpy()["alive"], np.bool_)
    if not len(alive):
        names = kept_classification(run, site, HealthOptions()).table.column("class").to_pylist()
        alive = np.array([name not in ("dead", ABSENT) for name in names])
    return {name: alive & rankable(values, groups.baseline) for name, values in groups.concepts.items()}


def count_alive(run: RunTables, site: str) -> int:
    """How many neurons of the site are not dead, by the run's table `neurons`; classified here if that is empty."""
    row = run.cursor().execute(COUNT_ALIVE, {"site": site}).fetchone()
    assert row is not None  # an aggregate has one row
    if row[0]:
        return int(row[1])
    table = kept_classification(run, site, HealthOptions()).table
    return sum(name not in ("dead", ABSENT) for name in table.column("class").to_pylist())
