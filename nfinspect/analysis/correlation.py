"""Pearson's correlation of one neuron with all neurons of a site, over a run's tokens (methods §17)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.ticks import Tick, silent
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.routes import refuse_absent
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

DIGITS = 12
"""Decimals of a correlation: rounding further on depends on the order in which values were added [own]."""

FEWEST = 3
"""Tokens: over two every correlation is 1 or -1."""

CHANCE = 0.05
"""How likely any |r| reaches `chance_of` if all neurons were independent [own]."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WeightCosines:
    """Cosines of a neuron's weights with those of every neuron of some layers: float64[neurons] for each layer, NaN
    where a vector is 0.

    model: whose weights they are. gate, inputs: None where the site has no such rows, or they are not known; notes
    says why.
    """

    model: str
    gate: tuple[Floats, ...] | None
    inputs: tuple[Floats, ...] | None
    outputs: tuple[Floats, ...]
    notes: tuple[str, ...]


def correlations(run: RunTables, of: tuple[Layer, int], layers: Sequence[Layer], tick: Tick = silent) -> list[Floats]:
    """r of the neuron `of` with every neuron of each layer: float64[neurons] for each, NaN for those that never vary.

    Values stream block by block, and a layer keeps five numbers a neuron: only the neuron's own values grow with the
    tokens. tick: neurons done, of all. Raises StoreError for a run without values and for
    neurons of experts, RequestError if `of` never varies
    or there are too few tokens.
    """
    layer, neuron = of
    refuse_absent([layer, *layers])
    own = run.neuron(layer.layer, neuron, layer.site).astype(np.float64)
    if len(own) < FEWEST:
        raise RequestError(f"expected {FEWEST} tokens or more to correlate neurons over, found {len(own):,}")
    if own.min() == own.max():
        raise RequestError(
            f"{layer.site}:L{layer.layer}/N{neuron} is {own[0]:g} on every token: it correlates with nothing"
        )
    own -= own.mean()
    total, done = sum(x.neurons for x in layers), 0
    found = []
    for one in layers:
        found.append(_of_layer(run, one, own))
        done += one.neurons
        tick(done, total)
    return found


def _of_layer(run: RunTables, layer: Layer, own: Floats) -> Floats:
    """own: the centred values of the neuron, float64[tokens]."""
    near = run.statistics(layer.site, layer=layer.layer).mean  # sums around it lose no digits
    sums, squares, products = (np.zeros(layer.neurons) for _ in range(3))
    low, high = np.full(layer.neurons, np.inf), np.full(layer.neurons, -np.inf)
    there = 0
    for rows in run.blocks(layer):
        held = rows.neuron
        low[held] = np.minimum(low[held], rows.values.min(axis=1))
        high[held] = np.maximum(high[held], rows.values.max(axis=1))
        values = rows.values - near[held, None]  # float64[rows, tokens]
        sums[held] += values.sum(axis=1)
        squares[held] += np.einsum("ij,ij->i", values, values)
        products[held] += values @ own[rows.tokens]
        there += values.size
    if there != layer.neurons * len(own):
        raise StoreError(
            f"expected {layer.neurons * len(own):,} values in the blocks, found {there:,}: the run is damaged "
            "(nfinspect verify says more)"
        )
    spread = squares - sums**2 / len(own)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = products / np.sqrt(spread * (own @ own))
    r[(low == high) | (spread <= 0)] = np.nan
    return np.asarray(np.round(np.clip(r, -1, 1), DIGITS), np.float64)


def chance_of(tokens: int, neurons: int) -> float | None:
    """The |r| that the largest of so many independent normal neurons exceeds with probability CHANCE: Fisher's z with
    Bonferroni's bound. None for fewer than 4 tokens or no neuron.
    """
    if tokens < 4 or neurons < 1:
        return None
    return float(np.tanh(NormalDist().inv_cdf(1 - CHANCE / (2 * neurons)) / np.sqrt(tokens - 3)))


def strongest(values: Sequence[Floats], most: int) -> list[tuple[int, int]]:
    """(place of the layer, neuron) of the largest |values|, ties by layer and neuron; NaN is left out."""
    sizes = np.concatenate([np.abs(part) for part in values]) if values else np.empty(0)
    sizes = np.where(np.isnan(sizes), -1.0, sizes)
    order = np.argsort(-sizes, kind="stable")[:most]
    starts = np.cumsum([0, *(len(part) for part in values)])
    places = np.searchsorted(starts, order, side="right") - 1
    return [(int(p), int(i - starts[p])) for p, i in zip(places, order, strict=True) if sizes[i] >= 0]
