"""How much neurons change from one token to the next, from the stored values (methods §7).

Values are streamed some blocks of tokens at a time, so memory does not grow with the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.sequences import neighbours_before
from nfinspect.analysis.ticks import Tick, silent
from nfinspect_store.errors import StoreError
from nfinspect_store.routes import refuse_absent
from nfinspect_store.schema import BLOCK
from nfinspect_store.statistics import Floats
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

CHUNK_BYTES = 32 * 2**20
"""Size of the values in memory at a time, though never fewer than one block of tokens."""

STRIPE = 64
"""Neurons computed at a time: their float64 differences over a chunk of a wide layer fit the processor's cache."""

READ_TOKENS = 'SELECT "position", prompt_idx FROM tokens ORDER BY token_idx'


@dataclass(frozen=True)
class Steps:
    """layer, neuron and the two measures of each neuron, [neurons]; NaN where a measure is undefined.

    pairs: how many pairs of neighbouring recorded tokens of one prompt there are, position 0 left out.
    """

    pairs: int
    layer: NDArray[np.int64]
    neuron: NDArray[np.int64]
    step_sensitivity: Floats
    von_neumann_ratio: Floats


def measure_steps(run: RunTables, layers: Sequence[Layer], tick: Tick = silent) -> Steps:
    """Step sensitivity and von Neumann ratio of every neuron of some layers of one site.

    E|a_t − a_{t−1}| / std and E(a_t − a_{t−1})² / Var(a), the means over the pairs within a prompt, std and Var those
    of a sample (n − 1); position 0 is left out of all three. Undefined for a neuron that never varied, and where there
    is no pair. tick counts blocks of values, over all layers. Raises StoreError for a run that kept statistics only.
    """
    if not run.has_values:
        raise StoreError(
            "how a neuron changes from token to token is computed from its values, and this run holds "
            f"{run.kept}: expected one that keeps every value (--keep all)"
        )
    refuse_absent(layers)
    columns = run.cursor().execute(READ_TOKENS).fetchnumpy()
    position, prompt = (np.asarray(columns[name], np.int64) for name in ("position", "prompt_idx"))
    # Positions 0 and 1 end no pair: nothing comes before position 0, and position 0 is left out.
    pairs = (position >= 2) & (neighbours_before(position, prompt) >= 1)
    blocks = -(-run.tokens // BLOCK)
    parts = []
    for number, layer in enumerate(layers):

        def said(done: int, _: int, before: int = number * blocks) -> None:
            tick(before + done, blocks * len(layers))

        absolute, square = _sum_steps(run, layer, pairs, said)
        variance = run.statistics(layer.site, layer=layer.layer, skip_first=True).variance
        parts.append(np.stack([absolute, square, variance]))
    absolute, square, variance = np.concatenate(parts, axis=1)
    count = int(pairs.sum())
    defined = (variance > 0) & (count > 0)
    return Steps(
        pairs=count,
        layer=np.repeat([layer.layer for layer in layers], [layer.neurons for layer in layers]).astype(np.int64),
        neuron=np.concatenate([np.arange(layer.neurons, dtype=np.int64) for layer in layers]),
        step_sensitivity=_divide(absolute, count * np.sqrt(variance), defined),
        von_neumann_ratio=_divide(square, count * variance, defined),
    )


def _sum_steps(run: RunTables, layer: Layer, pairs: NDArray[np.bool_], tick: Tick) -> tuple[Floats, Floats]:
    """Σ|a_t − a_{t−1}| and Σ(a_t − a_{t−1})² over the pairs that end where `pairs` is true: float64[neurons] each."""
    absolute, square = np.zeros(layer.neurons), np.zeros(layer.neurons)
    last = np.zeros(layer.neurons, np.float32)  # the last value of the chunk before; tokens 0 and 1 end no pair
    for first, values in _chunks(run, layer, tick):
        counted = pairs[first : first + values.shape[1]].astype(np.float64)
        for start in range(0, layer.neurons, STRIPE):
            stripe = slice(start, start + STRIPE)
            step = np.diff(values[stripe].astype(np.float64), prepend=last[stripe, None])
            step *= counted
            square[stripe] += np.einsum("nt,nt->n", step, step)
            absolute[stripe] += np.abs(step, out=step).sum(axis=1)
        last = values[:, -1].copy()
    return absolute, square


def _chunks(run: RunTables, layer: Layer, tick: Tick) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """A layer's values, chunk by chunk: the first token's index and float32[neurons, tokens]."""
    blocks = -(-run.tokens // BLOCK)
    step = max(1, CHUNK_BYTES // (4 * BLOCK * layer.neurons))
    for start in range(0, blocks, step):
        stop = min(start + step, blocks)
        first, last = start * BLOCK, min(stop * BLOCK, run.tokens)
        values = np.empty((layer.neurons, last - first), np.float32)
        there = 0
        for rows in run.blocks(layer, tokens=(first, last)):
            values[rows.neuron, rows.first - first : rows.tokens.stop - first] = rows.values
            there += rows.values.size
        if there != values.size:
            raise StoreError(
                f"blocks {start} to {stop - 1} of {layer.site} layer {layer.layer} are not whole: nfinspect verify"
            )
        yield first, values
        tick(stop, blocks)


def _divide(part: Floats, whole: Floats, where: NDArray[np.bool_]) -> Floats:
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=where)
    return quotient
