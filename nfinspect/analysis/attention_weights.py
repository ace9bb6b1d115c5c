"""Which positions attention singles out: from a model's attention maps to one weight for each position (methods §8).

In both methods a neuron's score is its mean with these weights less its plain mean, over the positions j >= 1:

    s_n = Σ_j w_j a_jn − mean_j a_jn,  Σ_j w_j = 1

Position 0, to which idle heads attend, is left out. All maps are float64[tokens, tokens]; row i has the weights of
query i on the positions j <= i.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def received(attention: Floats) -> Floats:
    """r_j: mean attention that position j receives from the queries i >= j. float64[tokens]."""
    tokens = len(attention)
    total: Floats = np.tril(attention).sum(axis=0)
    return total / np.arange(tokens, 0, -1)


def attended(attention: Floats) -> Floats:
    """The weights of `attention_weighted` [own]: received attention, scaled to sum 1 over the positions >= 1."""
    return later(received(attention))


def rollout(maps: Sequence[Floats]) -> list[Floats]:
    """The weights of `rollout` for the neurons of every layer (Abnar & Zuidema 2020).

    With Â = rownorm(A + I), the weights of layer l are the last token's row of Â_L···Â_{l+1} (in the last layer the
    last token alone), scaled to sum 1 over the positions >= 1.
    """
    row = np.zeros(len(maps[-1]))
    row[-1] = 1.0
    weights = [later(row)]
    for attention in reversed(maps[1:]):
        row = row @ with_residual(attention)
        weights.append(later(row))
    return weights[::-1]


def with_residual(attention: Floats) -> Floats:
    """rownorm(A + I): half of what reaches a position bypasses the attention (Abnar & Zuidema 2020)."""
    mixed = attention + np.eye(len(attention))
    scaled: Floats = mixed / mixed.sum(axis=1, keepdims=True)
    return scaled


def later(weights: Floats) -> Floats:
    """Weights scaled to sum 1 over the positions >= 1, 0 at position 0; NaN where there is nothing to scale."""
    total = weights[1:].sum()
    scaled: Floats = np.full(len(weights), np.nan) if not total > 0 else weights / total
    scaled[0] = 0.0
    return scaled
