"""What is kept of the attention of one layer over one sequence: the mean map, and figures for every head.

The weights of all heads (or, in a Mamba, of all channels) need not be in memory together: they come in pieces of some
heads and some queries, are scaled to rows of sum 1, and are added up.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one layer over one sequence. NaN where undefined.

    weights: float64[tokens, tokens], mean over the heads; weights[i, j] is what query i takes from position j, 0 for
    j > i; rows sum to 1. For each head, float64[heads], as means over the queries i >= 1: `entropy`, that of its row
    divided by ln(i + 1) [own] (0: one position, 1: all positions alike), and `sink`, the weight on position 0.
    diversity [own]: how differently the heads attend: the entropy of the mean row minus the mean entropy of the rows
    (the generalised Jensen-Shannon divergence, Lin 1991), divided by ln(min(heads, i + 1)), mean over the queries
    i >= 1 (0: all heads attend alike, 1: as differently as they can).
    """

    weights: Floats
    entropy: Floats
    sink: Floats
    diversity: float


class Gather:
    """Adds up the pieces of one layer's attention."""

    def __init__(self, heads: int, tokens: int, device: torch.device) -> None:
        self._heads, self._tokens = heads, tokens
        self._weights = torch.zeros(tokens, tokens, device=device)
        self._rows = torch.zeros(tokens, device=device)  # number of heads whose row is defined, by query
        self._row_entropy = torch.zeros(tokens, device=device)  # in nats, summed over the heads
        # By head, over the queries from 1 on.
        self._queries = torch.zeros(heads, device=device)
        self._entropy = torch.zeros(heads, device=device)
        self._sink = torch.zeros(heads, device=device)

    def add(self, weights: Tensor, head: int = 0, query: int = 0) -> None:
        """Add weights for some heads, from `head` on, and some queries, from `query` on: float[heads, queries, tokens],
        all >= 0.

        They are scaled to rows of sum 1. A row of zeros is undefined and does not count.
        """
        total = weights.sum(-1)
        defined = (total > 0).float()
        weights = weights / torch.where(total > 0, total, 1.0)[..., None]
        entropy = torch.special.entr(weights).sum(-1)
        rows = slice(query, query + weights.shape[1])
        self._weights[rows] += weights.sum(0)
        self._rows[rows] += defined.sum(0)
        self._row_entropy[rows] += entropy.sum(0)
        heads, later = slice(head, head + len(weights)), slice(1 if query == 0 else 0, None)
        most = self._most_entropy()[rows]
        self._queries[heads] += defined[:, later].sum(1)
        self._entropy[heads] += (entropy / most)[:, later].sum(1)
        self._sink[heads] += weights[:, later, 0].sum(1)

    def result(self) -> LayerAttention:
        """The layer's attention from all pieces added."""
        weights = _numpy(self._weights / self._rows[:, None])
        queries = _numpy(self._queries)
        with np.errstate(invalid="ignore", divide="ignore"):
            entropy, sink = _numpy(self._entropy) / queries, _numpy(self._sink) / queries
            spread = _numpy(torch.special.entr(self._weights / self._rows[:, None]).sum(-1))
            spread -= _numpy(self._row_entropy / self._rows)
            most = np.log(np.minimum(self._heads, np.arange(1, self._tokens + 1)))
            share = spread[1:] / most[1:]
        # With one head there is nothing to differ; else rounding may leave -1e-9 for 0.
        diversity = float(np.mean(np.maximum(share, 0.0))) if self._heads > 1 and self._tokens > 1 else float("nan")
        return LayerAttention(weights, entropy, sink, diversity)

    def _most_entropy(self) -> Tensor:
        """ln(i + 1) for every query i; 1 for query 0, which is left out of everything that is divided by it."""
        most = torch.arange(1, self._tokens + 1, device=self._weights.device).float().log()
        most[0] = 1.0
        return most


def _numpy(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)
