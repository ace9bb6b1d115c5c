"""Closed forms of the weights that attention gives to positions, and of the order of the scores."""

import numpy as np
import pytest

from nfinspect.analysis.attention_scores import LayerScores, distribution_of, ranked
from nfinspect.analysis.attention_weights import attended, later, received, rollout, with_residual

T = 6
IDENTITY = np.eye(T)
UNIFORM = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]


def random_maps(layers: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    maps = [np.tril(rng.random((T, T))) for _ in range(layers)]
    return [m / m.sum(axis=1, keepdims=True) for m in maps]


def test_what_a_position_receives_is_a_mean_over_the_queries_that_can_see_it() -> None:
    assert received(IDENTITY) == pytest.approx([1 / (T - j) for j in range(T)])
    assert received(UNIFORM) == pytest.approx([sum(1 / (i + 1) for i in range(j, T)) / (T - j) for j in range(T)])


def test_attended_leaves_out_position_0_and_sums_to_1() -> None:
    weights = attended(UNIFORM)
    assert weights[0] == 0 and weights.sum() == pytest.approx(1)
    assert weights[2] / weights[1] == pytest.approx(received(UNIFORM)[2] / received(UNIFORM)[1])


def test_a_rollout_through_identities_stays_at_the_last_token() -> None:
    for weights in rollout([IDENTITY] * 4):
        assert weights == pytest.approx(np.eye(T)[-1])


def test_a_rollout_through_one_uniform_layer() -> None:
    """Half stays, half spreads over T positions, and position 0 drops out: 1/(2T-1) each, (T+1)/(2T-1) at the end."""
    first, last = rollout([IDENTITY, UNIFORM])
    assert last == pytest.approx(np.eye(T)[-1])
    assert first == pytest.approx([0, *[1 / (2 * T - 1)] * (T - 2), (T + 1) / (2 * T - 1)])


def test_a_rollout_is_the_last_row_of_the_product_of_the_later_layers() -> None:
    maps = random_maps(4)
    hats = [with_residual(m) for m in maps]
    products = [hats[3] @ hats[2] @ hats[1], hats[3] @ hats[2], hats[3], np.eye(T)]
    for weights, product in zip(rollout(maps), products, strict=True):
        assert product.sum(axis=1) == pytest.approx(np.ones(T))  # row-stochastic
        assert weights == pytest.approx(later(product[-1]))


def test_the_attention_of_the_first_layer_does_not_reach_a_rollout() -> None:
    """A neuron of layer 0 is written after layer 0 has attended."""
    maps = random_maps(3)
    for one, other in zip(rollout(maps), rollout([UNIFORM, *maps[1:]]), strict=True):
        assert np.array_equal(one, other)


def test_nothing_attended_is_undefined() -> None:
    assert np.isnan(later(np.array([1.0, 0.0, 0.0]))[1:]).all()
    assert np.isnan(later(np.array([1.0, np.nan, 0.5]))[1:]).all()


def test_neurons_are_ranked_by_size_then_layer_then_number() -> None:
    nothing = np.full(3, np.nan)
    layers = [
        LayerScores(0, np.array([0.5, -2.0, np.nan]), np.zeros(3), np.zeros(3), nothing),
        LayerScores(2, np.array([2.0, 0.5, 0.0]), np.zeros(3), np.zeros(3), nothing),
    ]
    rows = ranked("mlp", layers).to_pylist()
    assert [(row["layer"], row["neuron"]) for row in rows] == [(0, 1), (2, 0), (0, 0), (2, 1), (2, 2), (0, 2)]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["score"] == -2 and rows[-1]["score"] is None and rows[0]["first_score"] is None


def test_a_distribution_without_defined_values_is_undefined() -> None:
    found = distribution_of(np.array([np.nan]))
    assert found.mean is None and set(found.percentiles.values()) == {None}
    assert distribution_of(np.array([1.0, np.nan, 3.0])).std == pytest.approx(2**0.5)
