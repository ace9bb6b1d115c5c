"""How a router spreads the tokens of a layer over its experts (methods §2)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.json_values import Document
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class RouterLoad(Document):
    """Of one layer. load: each expert's share of the choices that the router made for the tokens counted, their sum
    is 1; entropy: -Σ load · ln load / ln experts, 1 where all experts have the same load, 0 where one has all of it;
    None for a single expert.
    """

    experts: int
    load: tuple[float, ...]
    entropy: float | None

    @property
    def unused(self) -> int:
        """Experts that no token was routed to."""
        return sum(share == 0 for share in self.load)


def router_load(layer: Layer, n: NDArray[np.int64]) -> RouterLoad | None:
    """From the tokens of each neuron, int64[neurons]; None where the layer is no mixture of experts, or has none."""
    if not layer.experts or not n.any():
        return None
    tokens = n.reshape(layer.experts, layer.width)[:, 0]
    load = tokens / tokens.sum()
    used = load[load > 0]
    entropy = float(-(used * np.log(used)).sum() / math.log(layer.experts)) if layer.experts > 1 else None
    return RouterLoad(layer.experts, tuple(load.tolist()), None if entropy is None else max(0.0, entropy))
