"""Which tokens are a neuron's examples: the KEPT with its largest values, as many with its smallest, and random ones.

Largest and smallest: one per prompt, ties go to the earlier token. Random: every token draws a number from the run's
seed and its own index, and the tokens with the smallest numbers are kept; one sample serves all neurons. A capture of
statistics collects them as tokens pass; in a run that stores every value they are found from the values.
"""

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.types import Example

KEPT = 10
"""Examples of each kind [own]."""


def examples_of(values: NDArray[np.float32], starts: NDArray[np.int64], seed: int) -> list[Example]:
    """A neuron's examples from its values on every token, float32[tokens]: top, min, random, each in order of rank.

    starts: the first token of each prompt, in order.
    """
    found = []
    for kind, extreme, where in (("top", np.maximum, np.argmax), ("min", np.minimum, np.argmin)):
        of_prompt = extreme.reduceat(values, starts) if len(starts) else values
        order = np.argsort(-of_prompt if kind == "top" else of_prompt, kind="stable")[:KEPT]
        ends = np.append(starts[1:], len(values))
        for prompt in order.tolist():
            token = int(starts[prompt] + where(values[starts[prompt] : ends[prompt]]))
            found.append(Example(kind, token, float(values[token])))
    drawn = draw(seed, np.arange(len(values), dtype=np.int64))
    return found + [Example("random", token, float(values[token])) for token in drawn.tolist()]


def draw(seed: int, offered: NDArray[np.int64]) -> NDArray[np.int64]:
    """The KEPT of the offered tokens that draw the smallest numbers, the smallest first."""
    order: NDArray[np.int64] = np.argsort(drawn(seed, offered), kind="stable")[:KEPT]
    return offered[order]


def drawn(seed: int, token_idx: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each token from the seed: the output function of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (token_idx.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = x ^ _mixed(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + np.uint64(0x9E3779B97F4A7C15))
        return _mixed(x)


def _mixed(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
