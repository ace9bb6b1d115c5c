"""A run's values: of a layer, of a neuron, at a token, or as they are stored, through any connection to the run."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.addresses import Address
from nfinspect_store.block_rows import (
    BlockRows,
    FiredRows,
    block_rows,
    decoded_blobs,
    fired_rows,
    moved,
    whole_blocks,
)
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.routes import (
    COUNT_ROUTES,
    READ_ROUTED_TO,
    READ_ROUTES,
    Routes,
    Windows,
    absent_values,
    routes_of,
)
from nfinspect_store.run_layout import RunLayout
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer

BLOCKS_READ = 4096
"""Rows of blocks streamed at a time: at most 4 MiB of values."""

BEYOND_READ = 65_536
"""Values chosen one by one that are streamed at a time: 1 MiB."""

AT_PLACE = 'SELECT "values"[width * place + 1 : width * place + width] AS "values", scale, 1 AS tokens'
"""The value at a place of rows of blocks, given with the bytes of each of their values."""

WIDTH = 'octet_length("values") // ("last"::INTEGER - "first" + 1) AS width'

WINDOWS = """
(SELECT unnest($experts::INTEGER[]) AS expert, unnest($low::INTEGER[]) AS low, unnest($high::INTEGER[]) AS high)"""

AND_NOT = "AND layer_id NOT IN (SELECT unnest($mixtures::SMALLINT[]))"

ROUTED_VALUES = f"""
{AT_PLACE}
FROM (SELECT b.*, r.place % {BLOCK} - b."first" AS place, {WIDTH}
      FROM blocks b JOIN (SELECT unnest($ids::SMALLINT[]) AS id, unnest($low::INTEGER[]) AS low,
                                 unnest($high::INTEGER[]) AS high, unnest($places::BIGINT[]) AS place) r
        ON b.layer_id = r.id AND b.neuron >= r.low AND b.neuron < r.high
       AND b.block = r.place // {BLOCK} AND r.place % {BLOCK} BETWEEN b."first" AND b."last")
ORDER BY layer_id, neuron
"""


class RunValues(RunLayout):
    """The values of a run."""

    _routes: Routes | None = None  # of the layer that they were last asked of
    _elsewhere: Sequence[tuple["RunValues", int]] = ()  # see _holders

    def activations(self, site: str | None, layer: int) -> NDArray[np.float32]:
        """Every value of a layer: float32[tokens, neurons]; NaN for a neuron of an expert on tokens that were not
        routed to it. Raises StoreError if only statistics were kept.
        """
        found = self.resolve_layer(layer, site)
        self._need_values()
        shape = (self.tokens, found.neurons)
        values = np.full(shape, np.nan, np.float32) if found.experts else np.empty(shape, np.float32)
        expected = self.routes(found).values if found.experts else values.size
        there = 0
        for rows in self.blocks(found, routed=True):
            if rows.routed is None:
                values[rows.tokens, rows.neuron] = rows.values.T
            else:
                values[rows.routed[:, None], rows.neuron] = rows.values.T
            there += rows.values.size
        if there != expected:
            raise StoreError(
                f"the blocks of {found.site} layer {found.layer} hold {there} values, expected {expected}: "
                "the run is damaged (nfinspect verify says more)"
            )
        return values

    def neuron(self, layer: int, neuron: int, site: str | None = None) -> NDArray[np.float32]:
        """One neuron on every token: float32[tokens]; NaN where a token was not routed to the neuron's expert. Raises
        StoreError if only statistics were kept.
        """
        found, neuron = self.resolve(Address(layer, neuron, site))
        self._need_values()
        query = """SELECT "values", scale, "last"::INTEGER - "first" + 1 AS tokens FROM blocks
                   WHERE layer_id = $layer AND neuron = $neuron ORDER BY block, "first"
                """
        parameters = {"layer": found.layer_id, "neuron": neuron}
        if not found.experts:
            parts = [held._stored_values(query, parameters, held.tokens) for held, _ in self._holders()]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        expert = neuron // found.width
        route = self.routes(found, [expert]).tokens[expert]
        values = np.full(self.tokens, np.nan, np.float32)
        values[route] = self._stored_values(query, parameters, len(route))
        return values

    def routes(self, layer: Layer, experts: Collection[int] | None = None) -> Routes:
        """Which tokens were routed to each expert of a layer. experts: at least to these; None: to all, which is kept
        for the next question. Raises StoreError if only statistics were kept.
        """
        self._need_values()
        kept = self._routes
        if kept is None or kept.layer != layer:
            chosen = None if experts is None else list(experts)
            table = self._arrow(READ_ROUTES, {"site": layer.site, "layer": layer.layer, "experts": chosen})
            kept = routes_of(table, layer, self.tokens)
            if experts is None:
                self._routes = kept
        return kept

    def route_counts(self, layer: Layer) -> NDArray[np.int64]:
        """How many tokens were routed to each expert: int64[experts]. As `routes`, for a run of any size."""
        counts = np.zeros(layer.experts, np.int64)
        found = self.cursor().execute(COUNT_ROUTES, {"site": layer.site, "layer": layer.layer}).fetchnumpy()
        counts[found["expert"]] = found["tokens"]
        return counts

    def blocks(
        self,
        layer: Layer,
        *,
        neurons: Sequence[int] | range | None = None,
        tokens: tuple[int, int] | None = None,
        fired: bool = False,
        routed: bool = False,
    ) -> Iterator[BlockRows]:
        """A layer's values as they are stored, streamed in no order.

        neurons: only these; tokens: only the blocks that hold any token with tokens[0] <= token_idx < tokens[1].
        fired: also which values fired, if the layer fires by its gate. routed: the caller knows that a neuron of an
        expert has values only on the tokens routed to it (BlockRows.routed); without it such layers are refused.
        Raises StoreError for these, if only statistics were kept, or if the run does not record what fired.
        """
        if not layer.experts:
            yield from self.stored_blocks(layer, neurons=neurons, tokens=tokens, fired=fired)
            return
        self._need_values()
        if not routed:
            raise absent_values(layer)
        all_of = neurons is None or isinstance(neurons, range)
        routes = self.routes(layer, None if all_of else {int(n) // layer.width for n in neurons or ()})
        chosen = None if tokens is None else routes.windows(*tokens)
        for rows in self.stored_blocks(layer, neurons=neurons, fired=fired, windows=chosen):
            for expert, part in rows.by_expert(layer):
                yield replace(part, routed=routes.of(expert, part))

    def stored_blocks(
        self,
        layer: Layer,
        *,
        neurons: Sequence[int] | range | None = None,
        tokens: tuple[int, int] | None = None,
        fired: bool = False,
        windows: Windows | None = None,
    ) -> Iterator[BlockRows]:
        """As `blocks`, but of experts `first` and `tokens` count the tokens routed to each of them, and rows may be of
        several. windows: only these blocks of these experts.
        """
        fired = fired and layer.fires == "gate"
        columns = '"values", scale, fired' if fired else '"values", scale'
        for held, before, within in self._asked(tokens):
            of_run = held.tokens  # read now: in a transaction no other query may run while rows stream
            for batch in held._block_batches(layer, columns, neurons, within, windows):
                for rows in block_rows(batch, layer, of_run):
                    yield from moved(rows, before, tokens) if held is not self else (rows,)

    def gates(self, layer: Layer, neurons: range) -> Iterator[FiredRows]:
        """On which tokens consecutive neurons of a layer that fires by its gate fired, as it is stored, in no order.

        A thirtieth of what `blocks` reads. Raises StoreError as `blocks` does.
        """
        if layer.experts:
            self._need_values()
            raise absent_values(layer)
        for held, before, _ in self._asked(None):
            of_run = held.tokens
            for batch in held._block_batches(layer, "fired", neurons, None):
                for rows in fired_rows(batch, layer, of_run):
                    yield replace(rows, first=rows.first + before)

    def _holders(self) -> Sequence[tuple["RunValues", int]]:
        """The runs that hold this one's values, in order, and how many of its tokens are before theirs. Runs of
        mixtures of experts hold their own.
        """
        return self._elsewhere or ((self, 0),)

    def _asked(self, tokens: tuple[int, int] | None) -> Iterator[tuple["RunValues", int, tuple[int, int] | None]]:
        """Those of the holders that hold any token of the blocks asked for; and which of their own tokens these are."""
        self._need_values()
        for held, before in self._holders():
            if tokens is None or held is self:
                yield held, before, tokens
                continue
            start, stop = whole_blocks(tokens)
            low, high = max(start - before, 0), min(stop - before, held.tokens)
            if low < high:
                yield held, before, (low, high)

    def _block_batches(
        self,
        layer: Layer,
        columns: str,
        neurons: Sequence[int] | range | None,
        tokens: tuple[int, int] | None,
        windows: Windows | None = None,
    ) -> Iterator[pa.RecordBatch]:
        self._need_values()
        source, conditions = "blocks", ["layer_id = $layer"]
        parameters: dict[str, object] = {"layer": layer.layer_id}
        if isinstance(neurons, range):
            conditions.append("neuron >= $start AND neuron < $stop")
            parameters |= {"start": neurons.start, "stop": neurons.stop}
        elif neurons is not None:
            conditions.append("neuron IN (SELECT unnest($neurons))")
            parameters["neurons"] = list(neurons)
        if tokens is not None:
            conditions.append("block BETWEEN $low AND $high")
            parameters |= {"low": tokens[0] // BLOCK, "high": (tokens[1] - 1) // BLOCK}
        if windows is not None:
            source = f"blocks JOIN {WINDOWS} w ON neuron // $width = w.expert AND block BETWEEN w.low AND w.high"
            parameters |= {"width": layer.width, **windows}
        query = f"""SELECT neuron, block, "first", "last", {columns} FROM {source} WHERE {" AND ".join(conditions)}"""
        yield from self.streamed(query, parameters, BLOCKS_READ)

    def token_values(self, token_idx: int, site: str | None = None) -> NDArray[np.float32]:
        """Every neuron of a site at one token: float32[neurons of the site]; NaN for neurons of experts that it was not
        routed to.
        """
        layers = self.site_layers(site)
        self._need_values()
        if not 0 <= token_idx < self.tokens:
            raise RequestError(f"no token {token_idx} in this run: it holds tokens 0-{self.tokens - 1}")
        held, before = next(one for one in reversed(self._holders()) if one[1] <= token_idx)
        block, slot = divmod(token_idx - before, BLOCK)
        whole = [layer for layer in layers if not layer.experts]
        mixtures = [layer.layer_id for layer in layers if layer.experts]
        query = f"""{AT_PLACE}
                    FROM (SELECT *, $slot - "first" AS place, {WIDTH} FROM blocks
                          WHERE block = $block AND $slot BETWEEN "first" AND "last"
                            AND layer_id BETWEEN $low AND $high {AND_NOT if mixtures else ""})
                    ORDER BY layer_id, neuron"""
        parameters: dict[str, object] = {"slot": slot, "block": block, **self._id_range(layers)}
        if mixtures:
            parameters["mixtures"] = mixtures
        found = held._stored_values(query, parameters, sum(layer.neurons for layer in whole))
        if not mixtures:
            return found
        parts = iter(np.split(found, np.cumsum([layer.neurons for layer in whole])))
        routed = self._routed_values(token_idx, layers[0].site)
        return np.concatenate([routed(layer) if layer.experts else next(parts) for layer in layers])

    def _routed_values(self, token_idx: int, site: str) -> Callable[[Layer], NDArray[np.float32]]:
        """The values at one token of the experts that it was routed to: of a layer float32[neurons], NaN elsewhere."""
        rows = self.cursor().execute(READ_ROUTED_TO, {"token": token_idx, "site": site}).fetchnumpy()
        layer_id, width, expert, place = (
            np.asarray(rows[name], np.int64) for name in ("layer_id", "width", "expert", "place")
        )
        low = expert * width
        parameters = {"ids": layer_id.tolist(), "low": low.tolist(), "high": (low + width).tolist()}
        values = self._stored_values(ROUTED_VALUES, {**parameters, "places": place.tolist()}, int(width.sum()))
        parts = np.split(values, np.cumsum(width)[:-1])

        def of_layer(layer: Layer) -> NDArray[np.float32]:
            found = np.full(layer.neurons, np.nan, np.float32)
            for i in np.flatnonzero(layer_id == layer.layer_id).tolist():
                found[low[i] : low[i] + width[i]] = parts[i]
            return found

        return of_layer

    def _stored_values(self, query: str, parameters: Mapping[str, object], expected: int) -> NDArray[np.float32]:
        """The values in rows of values, scale, tokens, one after the other. Raises StoreError unless there are
        `expected`.
        """
        batches = self._arrow(query, parameters).to_batches()
        values = [decoded_blobs(*(batch.column(name) for name in ("values", "scale", "tokens"))) for batch in batches]
        found = sum(map(len, values))
        if found != expected:
            raise StoreError(
                f"expected {expected} values in the blocks, found {found}: the run is damaged "
                "(nfinspect verify says more)"
            )
        return np.concatenate([np.empty(0, np.float32), *values])

    def _need_values(self) -> None:
        if not self.has_values:
            raise StoreError(f"this run holds {self.kept}: expected one that keeps every value (--keep all)")

    def beyond_batches(self, layer: Layer) -> Iterator[pa.RecordBatch]:
        """neuron, token_idx and value of what `--where beyond=pX` kept of a layer, streamed in no order."""
        query = "SELECT neuron, token_idx, value FROM beyond WHERE layer_id = $layer"
        yield from self.streamed(query, {"layer": layer.layer_id}, BEYOND_READ)
