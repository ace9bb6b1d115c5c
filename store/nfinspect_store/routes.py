"""Which tokens the router of a mixture of experts sent to which expert, in runs that keep the neurons' values.

A neuron of an expert has values on these tokens and on no others. In `blocks` they are counted by their places among
the tokens of the expert (docs/decisions/0019).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.block_rows import BlockRows
from nfinspect_store.errors import StoreError
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer

READ_ROUTES = """
SELECT expert, place, token_idx FROM routed
WHERE site = $site AND layer = $layer AND ($experts IS NULL OR list_contains($experts, expert)) ORDER BY expert, place
"""

COUNT_ROUTES = "SELECT expert, count(*) AS tokens FROM routed WHERE site = $site AND layer = $layer GROUP BY expert"

READ_ROUTED_TO = """
SELECT l.layer_id, e.width, r.expert, r.place
FROM routed r JOIN layers l USING (site, layer) JOIN experts e USING (site, layer)
WHERE r.token_idx = $token AND r.site = $site ORDER BY l.layer_id, r.expert
"""

Windows = Mapping[str, list[int]]
"""Of some experts the first and the last block that is wanted: `experts`, `low`, `high`, equally long."""


@dataclass(frozen=True)
class Routes:
    """Of one layer. tokens: of each expert the token_idx of those routed to it, ascending."""

    layer: Layer
    tokens: tuple[NDArray[np.int64], ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64[experts]"""
        return np.array([len(one) for one in self.tokens], np.int64)

    @property
    def values(self) -> int:
        """How many values the layer's neurons have together."""
        return int(self.counts.sum()) * self.layer.width

    def of(self, expert: int, rows: BlockRows) -> NDArray[np.int64]:
        """token_idx of the tokens of some rows of an expert. Raises StoreError if it has fewer."""
        route, place = self.tokens[expert], rows.tokens
        if place.stop > len(route):
            raise _damaged(self.layer, f"a block of expert {expert} ends at {place.stop}, of {len(route)} tokens")
        return route[place]

    def windows(self, start: int, stop: int) -> Windows:
        """The blocks of each expert that hold any token start <= token_idx < stop."""
        low, high = (np.array([np.searchsorted(one, at) for one in self.tokens]) for at in (start, stop))
        experts = np.flatnonzero(low < high)
        return windows(experts, low[experts], high[experts])


def windows(experts: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> Windows:
    """The blocks of these experts that hold the places low <= place < high."""
    return {
        "experts": experts.tolist(),
        "low": (low // BLOCK).tolist(),
        "high": ((high - 1) // BLOCK).tolist(),
    }


def routes_of(table: pa.Table, layer: Layer, tokens: int) -> Routes:
    """The rows of READ_ROUTES. tokens: of the run. Raises StoreError unless every expert has tokens of the run in
    order, each once.
    """
    expert, place, token_idx = (numbers(table.column(name)).astype(np.int64) for name in table.column_names)
    if table.num_rows and (
        expert[0] < 0 or expert[-1] >= layer.experts or token_idx.min() < 0 or token_idx.max() >= tokens
    ):
        raise _damaged(layer, "tokens are routed that are not of the run, or to no expert of the layer")
    ends = np.searchsorted(expert, np.arange(layer.experts + 1))
    if (place != np.arange(len(place)) - ends[expert]).any():
        raise _damaged(layer, "the tokens of an expert are not counted from 0")
    if ((np.diff(token_idx) <= 0) & (np.diff(expert) == 0)).any():
        raise _damaged(layer, "the tokens of an expert are not in order, or one comes twice")
    return Routes(layer, tuple(np.split(token_idx, ends[1:-1])))


def refuse_absent(layers: Iterable[Layer]) -> None:
    """Raises StoreError for the first mixture of experts: for what needs a value of every neuron on every token, before
    it has read any of them.
    """
    for layer in layers:
        if layer.experts:
            raise absent_values(layer)


def absent_values(layer: Layer) -> StoreError:
    """The refusal of what needs a value of every neuron on every token."""
    return StoreError(
        f"expected a value of every neuron on every token, found a mixture of experts in {layer.site} layer "
        f"{layer.layer}: its neurons have none on tokens that were not routed to their expert, and this counts every "
        "token; choose other layers or another site"
    )


def _damaged(layer: Layer, problem: str) -> StoreError:
    return StoreError(f"{layer.site} layer {layer.layer}: {problem}: the run is damaged (nfinspect verify says more)")
