"""Examples of a neuron all along its distribution: a token for each quantile of the values at which it fires."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.neuron import WINDOW, ExampleText, example_texts, fired_on
from nfinspect_store.addresses import Address
from nfinspect_store.examples import drawn
from nfinspect_store.tables import RunTables
from nfinspect_store.types import MLP_SITES, Example, Layer

QUANTILES = (0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05)
"""Of the values at which a neuron fires: the middles of their tenths [own]."""

SAME_SIGN = frozenset({"silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "mish"})
"""Activations that have the sign of what goes in."""


@dataclass(frozen=True)
class QuantileExamples:
    """quantiles[i] of the fired values is examples[i].value; both are empty where the neuron never fires. fired: on how
    many tokens it does. gates: as in NeuronDetail.
    """

    quantiles: tuple[float, ...]
    examples: tuple[ExampleText, ...]
    fired: int
    gates: Mapping[int, bool] = field(default_factory=dict)


def quantile_examples(run: RunTables, address: Address | str, window: int = WINDOW) -> QuantileExamples:
    """A token at each of QUANTILES of the values at which a neuron fires, the highest first.

    The quantile q of m values is the one of rank ⌈q·m⌉, so that a token has it; of tokens with the same value the run's
    seed chooses. A neuron that fires on fewer tokens than there are quantiles has each of them once. Raises
    RequestError for an unknown neuron, StoreError for a run without values.
    """
    layer, neuron = run.resolve(address)
    values = run.neuron(layer.layer, neuron, layer.site)
    fired = fired_on(run, layer, neuron, values)
    tokens = np.flatnonzero(fired)
    chosen = chosen_at(values[tokens], drawn(run.info.seed, tokens))
    examples = [Example("quantile", int(tokens[place]), float(values[tokens[place]])) for place in chosen.values()]
    return QuantileExamples(
        quantiles=tuple(chosen),
        examples=example_texts(run, examples, values, window),
        fired=len(tokens),
        gates={e.token_idx: bool(fired[e.token_idx]) for e in examples} if layer.fires == "gate" else {},
    )


def chosen_at(values: NDArray[np.float32], ties: NDArray[np.uint64]) -> dict[float, int]:
    """For each of QUANTILES the place of its value; a place that several quantiles share is the first one's. ties:
    orders equal values.
    """
    order = np.lexsort((ties, values))
    found: dict[float, int] = {}
    for quantile in QUANTILES if len(values) else ():
        rank = max(1, int(np.ceil(quantile * len(values) - 1e-9)))  # 0.95 * 20 is a little more than 19
        if (place := int(order[rank - 1])) not in found.values():
            found[quantile] = place
    return found


def gate_and_up(layer: Layer, gate: bool | None, value: float) -> str:
    """The signs of a gated MLP's gate and up at a token, `+-`; only the gate's where up's does not follow from the
    value, which is act(gate) · up. Empty where the gate's is not known.
    """
    if gate is None:
        return ""
    sign = "+" if gate else "-"
    if layer.site not in MLP_SITES or layer.activation not in SAME_SIGN or value == 0:
        return sign
    return sign + ("+" if (value > 0) == gate else "-")
