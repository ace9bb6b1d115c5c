"""A neuron's examples: tokens with its largest and smallest values, and random ones. Memory does not grow with tokens.

Largest and smallest: one per prompt, ties go to the earlier token, so that the result does not depend on how the tokens
were batched. Random: every token draws a number from the run's seed and its own index, and the tokens with the smallest
numbers are kept: a sample without replacement (bottom-k sampling). One sample serves all neurons.
"""

import numpy as np
from numpy.typing import NDArray

from nfinspect.capturing.transfer import Array, to_host
from nfinspect_store.examples import KEPT, draw


class ExtremeExamples:
    """The KEPT tokens with the largest (sign 1) or smallest (sign -1) values of a layer's neurons, one per prompt."""

    def __init__(self, neurons: int, sign: int) -> None:
        self._sign = np.float32(sign)
        self.token_idx = np.full((neurons, KEPT), -1, np.int64)
        self._scores = np.full((neurons, KEPT), -np.inf, np.float32)

    def restore(self, token_idx: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Continue from what was stored, both [neurons, KEPT]; token_idx -1 where there was none."""
        self.token_idx[:] = token_idx
        self._scores[:] = np.where(token_idx >= 0, values * self._sign, -np.inf)

    @property
    def values(self) -> NDArray[np.float32]:
        return self._scores * self._sign

    def add(self, extreme: NDArray[np.float32], values: Array, first_token: int) -> None:
        """Add one prompt. extreme: float32[neurons], its maxima (or minima); values: float32[neurons, tokens].

        Only neurons whose extreme enters the list are looked up in `values`: few, once the lists are full.
        """
        scores = extreme * self._sign
        better = np.flatnonzero(scores > self._scores[:, -1])
        if not len(better):
            return
        rows = values if len(better) == len(values) else values[better]
        where = to_host(rows.argmax(1) if self._sign > 0 else rows.argmin(1))
        self._scores[better, -1] = scores[better]
        self.token_idx[better, -1] = first_token + where
        order = np.argsort(-self._scores[better], axis=1, kind="stable")  # stable: earlier tokens come first in ties
        self._scores[better] = np.take_along_axis(self._scores[better], order, axis=1)
        self.token_idx[better] = np.take_along_axis(self.token_idx[better], order, axis=1)


class RandomTokens:
    """The KEPT tokens of the run that drew the smallest numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.token_idx = np.empty(0, np.int64)

    def restore(self, token_idx: NDArray[np.int64]) -> None:
        self.token_idx = token_idx

    def add(self, start: int, stop: int) -> NDArray[np.int64]:
        """Offer the tokens start <= token_idx < stop; returns the tokens now kept, the smallest number first."""
        offered = np.concatenate([self.token_idx, np.arange(start, stop, dtype=np.int64)])
        self.token_idx = draw(self._seed, offered)
        return self.token_idx
