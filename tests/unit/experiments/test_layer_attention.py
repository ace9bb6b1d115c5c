"""Entropy, sink and diversity of attention whose answer is known, and pieces that add up to the whole."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nfinspect.experiments.layer_attention import Gather, LayerAttention

T = 8
CPU = torch.device("cpu")
UNIFORM = torch.ones(T, T).tril()
ITSELF = torch.eye(T)
FIRST = torch.zeros(T, T)
FIRST[:, 0] = 1.0


def gathered(heads: Tensor) -> LayerAttention:
    gather = Gather(len(heads), T, CPU)
    gather.add(heads)
    return gather.result()


def test_even_single_and_sunken_heads() -> None:
    found = gathered(torch.stack([UNIFORM, ITSELF, FIRST]))
    assert found.entropy == pytest.approx([1, 0, 0], abs=1e-6)
    even = np.mean([1 / (i + 1) for i in range(1, T)])
    assert found.sink == pytest.approx([even, 0, 1], abs=1e-6)
    assert found.weights.sum(axis=1) == pytest.approx(np.ones(T))


def test_diversity_is_0_for_equal_heads_1_for_heads_apart_and_undefined_for_one() -> None:
    assert gathered(torch.stack([UNIFORM, UNIFORM])).diversity == pytest.approx(0, abs=1e-6)
    assert gathered(torch.stack([ITSELF, FIRST])).diversity == pytest.approx(1, abs=1e-6)
    assert np.isnan(gathered(UNIFORM[None]).diversity)


def test_pieces_add_up_to_the_whole() -> None:
    heads = torch.rand(5, T, T, generator=torch.Generator().manual_seed(1)).tril()
    whole, gather = gathered(heads), Gather(5, T, CPU)
    for head, query in [(0, 0), (0, 3), (2, 0), (2, 3)]:
        gather.add(heads[head : {0: 2, 2: 5}[head], query : {0: 3, 3: T}[query]], head, query)
    parts = gather.result()
    assert parts.weights == pytest.approx(whole.weights, abs=1e-6)
    assert parts.entropy == pytest.approx(whole.entropy, abs=1e-6)
    assert parts.sink == pytest.approx(whole.sink, abs=1e-6)
    assert parts.diversity == pytest.approx(whole.diversity, abs=1e-6)


def test_a_row_of_zeros_does_not_count() -> None:
    empty = UNIFORM.clone()
    empty[5] = 0
    found = gathered(torch.stack([empty, ITSELF]))
    assert found.weights[5] == pytest.approx(np.eye(T)[5])  # the other head's alone
    assert found.entropy[0] == pytest.approx(1)
    assert np.isnan(gathered(empty[None]).weights[5]).all()
