"""The examples kept of a neuron are those of their definition, whatever came in which batch."""

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nfinspect.capturing.examples import KEPT, Extremes, RandomTokens
from nfinspect_store.examples import draw, places

NEURONS = 9


def prompts_with_ties(seed: int, prompts: int) -> list[NDArray[np.float32]]:
    """Few distinct values, so that most comparisons are ties; neuron 0 is always 0."""
    rng = np.random.default_rng(seed)
    values = [rng.integers(-3, 4, (rng.integers(1, 7), NEURONS)).astype(np.float32) for _ in range(prompts)]
    for array in values:
        array[:, 0] = 0
    return values


def by_definition(prompts: list[NDArray[np.float32]], neuron: int, sign: int) -> list[tuple[int, float]]:
    """One token per prompt, the strongest and earliest; prompts by strength, then by token."""
    best, first = [], 0
    for values in prompts:
        ranked = sorted((-sign * float(v), first + i) for i, v in enumerate(values[:, neuron]))
        best.append(ranked[0])
        first += len(values)
    return [(token, -sign * score) for score, token in sorted(best)[:KEPT]]


@pytest.mark.parametrize(("seed", "prompts"), [(0, 3), (1, 10), (2, 60), (3, 60)])
def test_extremes_are_those_of_the_definition(seed: int, prompts: int) -> None:
    values = prompts_with_ties(seed, prompts)
    kept, first = Extremes(NEURONS), 0
    for i, array in enumerate(values):
        if i == prompts // 2:  # as a resumed capture goes on
            resumed = Extremes(NEURONS)
            resumed.restore("top", *kept.get("top"))
            resumed.restore("min", *kept.get("min"))
            kept = resumed
        kept.add(array.max(axis=0), array.min(axis=0), array.argmax(axis=0), array.argmin(axis=0), first)
        first += len(array)
    for neuron in range(NEURONS):
        assert found_of(kept, "top", neuron) == by_definition(values, neuron, 1)
        assert found_of(kept, "min", neuron) == by_definition(values, neuron, -1)


def found_of(kept: Extremes, kind: Literal["top", "min"], neuron: int) -> list[tuple[int, float]]:
    token_idx, values = (array[neuron] for array in kept.get(kind))
    there = token_idx >= 0
    return list(zip(token_idx[there].tolist(), values[there].tolist(), strict=True))


def kept_of(seed: int, tokens: int, batches: list[int]) -> list[int]:
    random, start = RandomTokens(seed), 0
    for size in [*batches, tokens - sum(batches)]:
        random.add(start, np.arange(start, start + size))
        start += size
    return random.token_idx.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_random_tokens_do_not_depend_on_the_batches(seed: int) -> None:
    whole = kept_of(seed, 500, [])
    assert len(whole) == len(set(whole)) == KEPT
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert kept_of(seed, 500, rng.integers(0, 90, 5).tolist()) == whole
    assert kept_of(seed, 500, [1] * 499) == whole
    half = RandomTokens(seed)
    resumed = RandomTokens(seed)
    kept = half.add(0, np.arange(250))
    resumed.restore(kept, kept)
    assert resumed.add(250, np.arange(250, 500)).tolist() == whole


def test_parts_draw_what_the_whole_would() -> None:
    """A token draws by its prompt and its place there, wherever its run begins."""
    sizes = np.random.default_rng(1).integers(0, 9, 200)
    starts = np.cumsum(sizes) - sizes
    there = sizes > 0

    def drawn(prompts: range) -> tuple[RandomTokens, int]:
        """Of the prompts alone; and how many tokens come before them."""
        own = np.array([i for i in prompts if there[i]])
        offset = int(starts[prompts.start])
        random, tokens = RandomTokens(4), np.arange(int(sizes[prompts.start : prompts.stop].sum()))
        random.add(0, places(tokens, starts[own] - offset, own))
        return random, offset

    whole, _ = drawn(range(200))
    offered = []
    for prompts in (range(3), range(3, 90), range(90, 200)):
        random, offset = drawn(prompts)
        offered += (random.token_idx + offset).tolist()
    assert set(whole.token_idx.tolist()) < set(offered)
    every = np.array(sorted(offered))
    kept = draw(4, places(every, starts[there], np.flatnonzero(there)))
    assert every[kept].tolist() == whole.token_idx.tolist()


def test_fewer_tokens_than_are_kept_are_all_kept() -> None:
    assert sorted(kept_of(3, 4, [])) == [0, 1, 2, 3]


def test_random_tokens_are_uniform_and_differ_between_seeds() -> None:
    tokens, seeds = 60, 3000
    drawn = np.array([kept_of(seed, tokens, []) for seed in range(seeds)])
    assert len({tuple(sorted(row)) for row in drawn.tolist()}) == seeds
    share = KEPT / tokens
    counts = np.bincount(drawn.ravel(), minlength=tokens)
    # Without replacement the counts of a draw exclude one another: their covariance shrinks the statistic by this.
    chi2 = ((counts - seeds * share) ** 2).sum() / (seeds * share * (1 - share)) * (tokens - 1) / tokens
    assert 1e-3 < stats.chi2.sf(chi2, tokens - 1) < 1 - 1e-3
    # No token goes with another: the pairs are as even.
    pairs = np.zeros((tokens, tokens))
    for row in drawn:
        pairs[np.ix_(row, row)] += 1
    together = pairs[np.triu_indices(tokens, 1)]
    expected = seeds * share * (KEPT - 1) / (tokens - 1)
    assert abs(together.mean() - expected) < 1e-9
    assert together.var() / expected < 1.3 and together.max() < expected + 6 * expected**0.5
