"""Two-group statistics against scipy, plain loops and the fixtures of methods §3."""

import math

import numpy as np
import pytest
from scipy import stats

from nfinspect.analysis import contrasts
from nfinspect.analysis.contrasts import (
    auroc,
    average_precision,
    benjamini_hochberg,
    hedges_g,
    moments,
    welch,
)

SEEDS = range(15)


def groups(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two groups of random sizes, 40 neurons; the odd ones on a coarse grid, so that values are tied."""
    rng = np.random.default_rng(seed)
    concept = rng.normal(size=(rng.integers(2, 12), 40)) + rng.normal(size=40)
    baseline = rng.normal(size=(rng.integers(2, 15), 40))
    for group in (concept, baseline):
        group[:, 1::2] = np.round(group[:, 1::2])
    return concept.astype(np.float32), baseline.astype(np.float32)


def column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]


def test_fixture_of_ranking_measures() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.55, 0.54, 0.53, 0.52, 0.51, 0.505]
    labels = [1, 1, 0, 1, 1, 1, 0, 0, 1, 0]
    concept = column([s for s, y in zip(scores, labels, strict=True) if y])
    baseline = column([s for s, y in zip(scores, labels, strict=True) if not y])
    assert auroc(concept, baseline) == pytest.approx([0.75])
    assert average_precision(concept, baseline) == pytest.approx([0.841667], abs=5e-7)


def test_fixture_of_false_discovery_rates() -> None:
    p = np.array([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216])
    q = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.105714, 0.216, 0.216, 0.216]
    assert benjamini_hochberg(p) == pytest.approx(q, abs=5e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_false_discovery_rates_from_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(60) ** 3, 2)
    p[rng.random(60) < 0.2] = np.nan
    defined = sorted(float(x) for x in p if not math.isnan(x))
    m = len(defined)
    for value, q in zip(p, benjamini_hochberg(p), strict=True):
        if math.isnan(value):
            assert math.isnan(q)
        else:
            least = min(min(1.0, m * x / (i + 1)) for i, x in enumerate(defined) if x >= value)
            assert q == pytest.approx(least)


@pytest.mark.parametrize("pairs", [0, contrasts.PAIRS], ids=["sorted", "pair by pair"])
@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_is_the_share_of_pairs_won(seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "PAIRS", pairs)
    concept, baseline = groups(seed)
    expected = [
        sum((a > b) + 0.5 * (a == b) for a in concept[:, i] for b in baseline[:, i]) / len(concept) / len(baseline)
        for i in range(concept.shape[1])
    ]
    found = auroc(concept, baseline)
    assert found == pytest.approx(expected, abs=1e-12)
    assert auroc(baseline, concept) == pytest.approx(1 - found)
    assert auroc(np.arctan(concept.astype(float)), np.arctan(baseline.astype(float))) == pytest.approx(found)
    u = stats.mannwhitneyu(concept, baseline).statistic  # with midranks
    assert found == pytest.approx(u / len(concept) / len(baseline))


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_threshold_by_threshold(seed: int) -> None:
    concept, baseline = groups(seed)
    for i, found in enumerate(average_precision(concept, baseline)):
        total, recall = 0.0, 0.0
        for threshold in sorted({*concept[:, i], *baseline[:, i]}, reverse=True):
            hits, false = (concept[:, i] >= threshold).sum(), (baseline[:, i] >= threshold).sum()
            total += (hits / len(concept) - recall) * hits / (hits + false)
            recall = hits / len(concept)
        assert found == pytest.approx(total)


@pytest.mark.parametrize("seed", SEEDS)
def test_welch_agrees_with_scipy(seed: int) -> None:
    concept, baseline = (group.astype(float) + 1e-3 * np.arange(len(group))[:, None] for group in groups(seed))
    t, p = welch(moments(concept), moments(baseline))
    expected = stats.ttest_ind(concept, baseline, equal_var=False)
    assert t == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("seed", SEEDS)
def test_hedges_g_from_its_formula(seed: int) -> None:
    concept, baseline = (group.astype(float) + 1e-3 * np.arange(len(group))[:, None] for group in groups(seed))
    n1, n0 = len(concept), len(baseline)
    for i, found in enumerate(hedges_g(moments(concept), moments(baseline))):
        m1, m0 = concept[:, i].sum() / n1, baseline[:, i].sum() / n0
        squares = ((concept[:, i] - m1) ** 2).sum() + ((baseline[:, i] - m0) ** 2).sum()
        expected = (m1 - m0) / math.sqrt(squares / (n1 + n0 - 2)) * (1 - 3 / (4 * (n1 + n0) - 9))
        assert found == pytest.approx(expected)


def test_chunks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    concept, baseline = groups(0)
    whole = auroc(concept, baseline), average_precision(concept, baseline)
    monkeypatch.setattr(contrasts, "CHUNK", 3 * (len(concept) + len(baseline)))
    assert auroc(concept, baseline).tolist() == whole[0].tolist()
    assert average_precision(concept, baseline).tolist() == whole[1].tolist()


def test_a_single_prompt_has_no_effect_size_and_no_p() -> None:
    one, many = np.ones((1, 3)), np.random.default_rng(0).normal(size=(5, 3))
    for a, b in ((one, many), (many, one), (one, one)):
        assert np.isnan(hedges_g(moments(a), moments(b))).all()
        assert np.isnan(welch(moments(a), moments(b))).all()
        assert np.isfinite(auroc(a, b)).all()


def test_no_variance_in_either_group_is_undefined_even_if_rounding_says_otherwise() -> None:
    same = np.full((7, 1), 0.1)  # the mean of seven 0.1 is not 0.1
    other = np.full((3, 1), 0.3)
    assert np.isnan(hedges_g(moments(same), moments(other))).all()
    assert np.isnan(welch(moments(same), moments(other))).all()
    t, p = welch(moments(same), moments(np.array([[0.1], [0.2], [0.4]])))
    assert np.isfinite(t).all()
    assert np.isfinite(p).all()


def test_an_empty_group_is_undefined() -> None:
    empty, some = np.empty((0, 2)), np.ones((3, 2))
    assert np.isnan(auroc(empty, some)).all()
    assert np.isnan(average_precision(some, empty)).all()
    assert np.isnan(hedges_g(moments(empty), moments(some))).all()
    assert np.isnan(benjamini_hochberg(np.array([np.nan, np.nan]))).all()
