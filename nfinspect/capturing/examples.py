"""A neuron's examples: tokens with its largest and smallest values, and random ones. Memory does not grow with tokens.

Largest and smallest: one per prompt, ties go to the earlier token, so that the result does not depend on how the tokens
were batched. Random: every token draws a number from the run's seed, its prompt and its place in it, and the tokens
with the smallest numbers are kept: a sample without replacement (bottom-k sampling). One sample serves all neurons.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.examples import KEPT, draw

Kind = Literal["top", "min"]
_KINDS = {"top": (0, np.float32(1)), "min": (1, np.float32(-1))}
"""Place in the arrays, and the sign that makes the extreme the largest."""


class Extremes:
    """The KEPT tokens with the largest and with the smallest values of a layer's neurons, one per prompt."""

    def __init__(self, neurons: int) -> None:
        self.token_idx = np.full((2, neurons, KEPT), -1, np.int64)
        """Of the largest and of the smallest."""
        self.scores = np.full((2, neurons, KEPT), -np.inf, np.float32)
        """The values, those of the smallest with the other sign: falling in each row."""

    def restore(self, kind: Kind, token_idx: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Continue from what was stored, both [neurons, KEPT]; token_idx -1 where there was none."""
        place, sign = _KINDS[kind]
        self.token_idx[place] = token_idx
        self.scores[place] = np.where(token_idx >= 0, values * sign, -np.inf)

    def get(self, kind: Kind) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Their token_idx, -1 where there is none, and their values, both [neurons, KEPT]."""
        place, sign = _KINDS[kind]
        return self.token_idx[place], self.scores[place] * sign

    def add(
        self,
        high: NDArray[np.float32],
        low: NDArray[np.float32],
        at_high: NDArray[Any],
        at_low: NDArray[Any],
        first_token: int,
    ) -> None:
        """Add one prompt: its maxima and minima and in which of its tokens they are first, [neurons]."""
        self._add("top", high, at_high.astype(np.int64) + first_token)
        self._add("min", low, at_low.astype(np.int64) + first_token)

    def _add(self, kind: Kind, extreme: NDArray[np.float32], token_idx: NDArray[np.int64]) -> None:
        place, sign = _KINDS[kind]
        tokens, listed = self.token_idx[place], self.scores[place]
        scores = extreme * sign
        better = np.flatnonzero(scores > listed[:, -1])
        listed[better, -1] = scores[better]
        tokens[better, -1] = token_idx[better]
        order = np.argsort(-listed[better], axis=1, kind="stable")  # stable: earlier tokens come first in ties
        listed[better] = np.take_along_axis(listed[better], order, axis=1)
        tokens[better] = np.take_along_axis(tokens[better], order, axis=1)


class RandomTokens:
    """The KEPT tokens of the run that drew the smallest numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.token_idx = np.empty(0, np.int64)
        self._places = np.empty(0, np.int64)

    def restore(self, token_idx: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """places: what they drew their numbers by (nfinspect_store.examples)."""
        self.token_idx, self._places = token_idx, places

    def add(self, start: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Offer the tokens from `start` on, by their places; returns the tokens now kept, the smallest number first."""
        tokens = np.concatenate([self.token_idx, np.arange(start, start + len(places), dtype=np.int64)])
        offered = np.concatenate([self._places, places])
        kept = draw(self._seed, offered)
        self.token_idx, self._places = tokens[kept], offered[kept]
        return self.token_idx
