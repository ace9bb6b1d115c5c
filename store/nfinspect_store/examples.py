"""Which tokens are a neuron's examples: the KEPT with its largest values, as many with its smallest, and random ones.

Largest and smallest: one per prompt, ties go to the earlier token. Random: every token draws a number from the run's
seed, its prompt and its place in it, and the tokens with the smallest numbers are kept; one sample serves all neurons.
A part of a capture draws the numbers that the whole would. A capture of statistics collects examples as tokens pass; in
a run that stores every value they are found from the values.
"""

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.types import Example

KEPT = 10
"""Examples of each kind [own]."""

Tokens = NDArray[np.int64]


def examples_of(values: NDArray[np.float32], starts: Tokens, prompt_idx: Tokens, seed: int) -> list[Example]:
    """A neuron's examples from its values on every token, float32[tokens]: top, min, random, each in order of rank.

    starts: the first token of each prompt that has tokens, in order; prompt_idx: which prompts these are.
    """
    found = []
    for kind, extreme, where in (("top", np.maximum, np.argmax), ("min", np.minimum, np.argmin)):
        of_prompt = extreme.reduceat(values, starts) if len(starts) else values
        order = np.argsort(-of_prompt if kind == "top" else of_prompt, kind="stable")[:KEPT]
        ends = np.append(starts[1:], len(values))
        for prompt in order.tolist():
            token = int(starts[prompt] + where(values[starts[prompt] : ends[prompt]]))
            found.append(Example(kind, token, float(values[token])))
    drawn = draw(seed, places(np.arange(len(values), dtype=np.int64), starts, prompt_idx))
    return found + [Example("random", token, float(values[token])) for token in drawn.tolist()]


def places(token_idx: Tokens, starts: Tokens, prompt_idx: Tokens) -> Tokens:
    """What tokens draw their numbers by: prompt_idx * 2^32 + the place among the prompt's recorded tokens."""
    if not len(starts):
        return token_idx
    of = np.searchsorted(starts, token_idx, side="right") - 1
    return (prompt_idx[of].astype(np.int64) << 32) + token_idx - starts[of]


def draw(seed: int, offered: Tokens) -> Tokens:
    """Which of the offered `places` draw the KEPT smallest numbers: their indices, the smallest number first."""
    order: Tokens = np.argsort(drawn(seed, offered), kind="stable")[:KEPT]
    return order


def drawn(seed: int, places: Tokens) -> NDArray[np.uint64]:
    """A number for each place from the seed: the output function of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = x ^ _mixed(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + np.uint64(0x9E3779B97F4A7C15))
        return _mixed(x)


def _mixed(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
