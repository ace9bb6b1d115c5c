"""How neurons of each class behave under each kind of activation: the columns of a simulated layer [own].

A form draws one neuron's values on all tokens. Values given in layer scales (`in_scales`) are multiplied by the layer
scale once it is known, so that the neuron keeps its class however many faults the layer has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Column]

RARE = 0.005
"""Share of tokens on which a sporadic neuron is strong: half of the limit in methods §2."""

SELDOM = 0.02
"""A share of tokens that is too large for a sporadic neuron."""

FEWEST_TOKENS = 200
"""On fewer tokens, one token is not clearly less than 1 % of them, so that no neuron can be sporadic."""

WEAK_ACTIVATION = 0.05
"""Standard deviation of a healthy tanh neuron: so small because a sporadic one must reach ten layer scales, below 1."""


@dataclass(frozen=True)
class Form:
    """One way in which a neuron can belong to a class. draw(rng, tokens) -> float64[tokens]."""

    draw: Draw
    in_scales: bool = False


def gelu(z: Column) -> Column:
    """GELU by its tanh formula (`gelu_new`)."""
    curve: Column = 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))
    return curve


def _rectified(gain: float) -> Draw:
    return lambda rng, tokens: np.maximum(rng.normal(size=tokens), 0) * gain


def _gelu(before: float, gain: float = 1.0) -> Draw:
    return lambda rng, tokens: gelu(rng.normal(size=tokens) * before) * gain


def _noise(gain: float) -> Draw:
    return lambda rng, tokens: rng.normal(size=tokens) * gain


def _even(low: float, high: float) -> Draw:
    return lambda rng, tokens: rng.uniform(low, high, tokens)


def _spikes(share: float, low: float, high: float, between: float = 0.0) -> Draw:
    """Values from low to high on a share of the tokens, `between` on the others."""

    def draw(rng: np.random.Generator, tokens: int) -> Column:
        column = np.full(tokens, between)
        count = max(1, round(share * tokens))
        column[rng.choice(tokens, count, replace=False)] = rng.uniform(low, high, count)
        return column

    return draw


def _once(value: float, noise: float = 0.0) -> Draw:
    """`value` on one token, noise around 0 on the others."""

    def draw(rng: np.random.Generator, tokens: int) -> Column:
        column = rng.normal(size=tokens) * noise if noise else np.zeros(tokens)
        column[rng.integers(tokens)] = value
        return column

    return draw


def _two_sided(low: tuple[float, float], high: tuple[float, float]) -> Draw:
    """On each token in one of two ranges at random."""
    return lambda rng, tokens: np.where(rng.random(tokens) < 0.5, rng.uniform(*low, tokens), rng.uniform(*high, tokens))


def _zeros(rng: np.random.Generator, tokens: int) -> Column:
    return np.zeros(tokens)


_STRONG_NOT_RARE = Form(_spikes(SELDOM, 15, 25), in_scales=True)
_RARE_NOT_STRONG = Form(_spikes(RARE, 4, 5), in_scales=True)
_STILL = Form(_noise(0.0005), in_scales=True)
_HARDLY = Form(_once(0.5, 0.0005), in_scales=True)

RELU: Mapping[str, tuple[Form, ...]] = {
    "normal": (Form(_rectified(2.5)), _STRONG_NOT_RARE),
    "dead": (Form(_zeros),),
    "saturated": (Form(_even(1.99, 2.01)),),
    "sporadic": (Form(_spikes(RARE, 15, 25), in_scales=True),),
    # The second has one tiny positive value, so it is not dead.
    "missing": (Form(_rectified(0.005), in_scales=True), Form(_once(1e-6))),
    "weak": (Form(_rectified(0.1), in_scales=True), _RARE_NOT_STRONG),
}

GELU: Mapping[str, tuple[Form, ...]] = {
    "normal": (Form(_gelu(2.5)), _STRONG_NOT_RARE),
    "dead": (_STILL,),
    "saturated": (Form(_even(1.98, 2.02)),),
    "sporadic": (Form(_spikes(RARE, 15, 25, between=-0.05), in_scales=True),),
    "missing": (_HARDLY,),
    "weak": (Form(_gelu(1.0, 0.1), in_scales=True), _RARE_NOT_STRONG),
}

SIGNED: Mapping[str, tuple[Form, ...]] = {
    "normal": (Form(_noise(1.2)), _STRONG_NOT_RARE),
    "dead": (_STILL,),
    "saturated": (Form(_even(-1.02, -0.98)),),
    "sporadic": (Form(_spikes(RARE, 15, 25, between=-0.1), in_scales=True),),
    "missing": (_HARDLY,),
    "weak": (Form(_noise(0.06), in_scales=True), _RARE_NOT_STRONG),
}
"""Gated MLPs and block outputs: unbounded values of both signs."""

TANH: Mapping[str, tuple[Form, ...]] = {
    "normal": (Form(_noise(WEAK_ACTIVATION)), Form(_even(0.3, 0.3))),  # constant, but not at an extreme
    "dead": (_STILL,),
    "saturated": (Form(_two_sided((-1.0, -0.97), (0.97, 1.0))), Form(_even(0.97, 1.0))),
    "sporadic": (Form(_spikes(RARE, 0.97, 1.0)),),
    "missing": (_HARDLY,),
    "weak": (Form(_noise(0.06), in_scales=True),),
}

SIGMOID: Mapping[str, tuple[Form, ...]] = {
    # The third is near its extremes, but not near enough: ρ = 0.92.
    "normal": (Form(_even(0.2, 0.8)), Form(_even(0.48, 0.52)), Form(_two_sided((0.03, 0.05), (0.95, 0.97)))),
    "dead": (Form(_even(0.0, 0.002), in_scales=True),),
    "saturated": (Form(_two_sided((0.0, 0.02), (0.98, 1.0))), Form(_even(0.985, 1.0))),
}
"""Near its floor a sigmoid is saturated, so it cannot be missing, weak or sporadic."""

FORMS: Mapping[str, Mapping[str, tuple[Form, ...]]] = {
    "relu": RELU,
    "gelu": GELU,
    "gelu_new": GELU,
    "silu": SIGNED,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "resid": SIGNED,
}
"""By kind of layer: an activation (silu: of a gated MLP), or `resid`, a block's output."""
