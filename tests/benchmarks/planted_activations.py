"""Runs of any size whose activations behave as those of a trained model, for measurements without one.

Token ids fall like 1 / rank. A neuron's gate is a direction in a space of token embeddings, less a threshold, so it
fires again on the same tokens, and on between 0.2 and 50 % of all; a few neurons of each layer detect one token each.
Concepts shift the embeddings of their prompts.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.types import Layer

VOCABULARY, EMBEDDING, PLANTED = 49_152, 24, 16
CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")
SPREAD = 0.6
"""Standard deviation of what a gate does not owe to the token, in units of what it does."""


class Activations:
    """The prompts of a run, and the values of any layer on one of them."""

    def __init__(self, tokens: int, length: int, even: bool, seed: int = 0) -> None:
        """length: tokens of a prompt in the mean; even: of every prompt."""
        self._rng = np.random.default_rng(seed)
        count = max(len(CONCEPTS), round(tokens / length))
        ends = np.linspace(0, tokens, count + 1).astype(np.int64)
        if not even:
            ends[1:-1] += self._rng.integers(-length // 3, length // 3 + 1, count - 1)
        held = np.cumsum(1 / (np.arange(VOCABULARY) + 3))
        drawn = np.searchsorted(held / held[-1], self._rng.random(tokens)).clip(max=VOCABULARY - 1)
        self._ids = [drawn[start:stop] for start, stop in zip(ends[:-1], ends[1:], strict=True)]
        self._embedding = self._rng.standard_normal((VOCABULARY, EMBEDDING), np.float32)
        self._shift = 0.5 * self._rng.standard_normal((len(CONCEPTS), EMBEDDING), np.float32)
        self._noise = self._rng.standard_normal(1 << 21, np.float32)

    @property
    def prompts(self) -> list[ArrayPrompt]:
        return [
            ArrayPrompt(CONCEPTS[i % len(CONCEPTS)], f"prompt {i}", ids.tolist(), [f" w{x}" for x in ids], len(ids))
            for i, ids in enumerate(self._ids)
        ]

    def gates(self, prompt: int, layer: Layer) -> NDArray[np.float32]:
        """float32[tokens, neurons]; a gate above zero fires."""
        rng = np.random.default_rng([1, layer.layer_id])
        directions = rng.standard_normal((EMBEDDING, layer.neurons), np.float32) / np.float32(EMBEDDING**0.5)
        thresholds = rng.uniform(0, 2.9, layer.neurons).astype(np.float32) * np.float32((1 + SPREAD**2) ** 0.5)
        ids = self._ids[prompt]
        place = self._embedding[ids] + self._shift[prompt % len(CONCEPTS)]
        start = int(np.random.default_rng([2, layer.layer_id, prompt]).integers(len(self._noise) // 2))
        noise = np.resize(self._noise[start:], (len(ids), layer.neurons)) * np.float32(SPREAD)
        gates: NDArray[np.float32] = place @ directions + noise - thresholds
        gates[:, :PLANTED] = np.where(ids[:, None] == np.arange(PLANTED) + 5 * layer.layer, 2, -2)
        return gates

    def values(self, prompt: int, layer: Layer) -> NDArray[np.float32]:
        """The values of a gated layer, silu(gate) times a number of either sign; of another site the gates."""
        gates = self.gates(prompt, layer)
        if layer.fires != "gate":
            return gates
        up = np.resize(self._noise[prompt + 7 * layer.layer_id :], gates.shape)
        found: NDArray[np.float32] = gates / (1 + np.exp(-gates)) * up
        return found


def plant(
    path: Path, tokens: int, layers: int, neurons: int, *, length: int = 26, even: bool = False, resid: int = 0
) -> None:
    """Write a run of `layers` gated layers; resid: neurons of as many layers of the residual stream, 0 for none."""
    activations = Activations(tokens, length, even)
    shape = [Layer(i, "mlp", i, f"layers.{i}.mlp", neurons, "silu", "gate") for i in range(layers)]
    shape += [Layer(layers + i, "resid", i, f"layers.{i}", resid, "", "scale") for i in range(layers if resid else 0)]
    write_run(
        path,
        layers=shape,
        prompts=activations.prompts,
        values=activations.values,
        fired=lambda prompt, layer: activations.gates(prompt, layer) > 0,
    )
