"""The unfinished blocks of a run that is being written: one for each layer, or for each expert of a mixture."""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from nfinspect_store.blocks import BlockBuffer, Replaced
from nfinspect_store.digests import Digest
from nfinspect_store.routes import windows
from nfinspect_store.schema import BLOCK
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

DELETE_REPLACED = """
DELETE FROM blocks b USING replaced r
WHERE b.layer_id = r.layer_id AND b.neuron BETWEEN r.low AND r.high AND b.block = r.block AND b."last" = r."last"
"""


class UnfinishedBlocks:
    """Of a run as it was last committed; of none in a run without values."""

    def __init__(self, tables: RunTables) -> None:
        self._buffers = {(b.layer.layer_id, b.expert): b for b in _buffers(tables)}
        if tables.has_values and tables.rounds_values and tables.info.status != "complete":
            self._take_back(tables)

    def __iter__(self) -> Iterator[BlockBuffer]:
        return iter(self._buffers.values())

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def of(self, layer_id: int, expert: int | None = None) -> BlockBuffer:
        return self._buffers[layer_id, expert]

    @property
    def digest(self) -> Digest:
        """Of the values in rows that this process wrote, or that the next commit replaces."""
        return sum((buffer.digest for buffer in self), Digest())

    @property
    def values(self) -> int:
        """How many values there are so far."""
        return sum(buffer.values for buffer in self)

    def replaced(self) -> list[Replaced]:
        """The rows that the last commit stored and the next one replaces."""
        return [rows for buffer in self if (rows := buffer.replaced) is not None]

    def _take_back(self, tables: RunTables) -> None:
        """Read what the last commit stored as float32."""
        for layer in tables.layers:
            if layer.experts:
                self._take_back_experts(tables, layer)
            elif tables.tokens % BLOCK:
                for rows in tables.blocks(layer, tokens=(tables.tokens - 1, tables.tokens), fired=True):
                    if rows.tokens.stop == tables.tokens:
                        self.of(layer.layer_id).restore(rows)

    def _take_back_experts(self, tables: RunTables, layer: Layer) -> None:
        tokens = np.array([self.of(layer.layer_id, expert).token for expert in range(layer.experts)], np.int64)
        unfinished = np.flatnonzero(tokens % BLOCK)
        last = windows(unfinished, tokens[unfinished] - 1, tokens[unfinished])
        for rows in tables.stored_blocks(layer, fired=True, windows=last):
            for expert, part in rows.by_expert(layer):
                if part.tokens.stop == tokens[expert]:
                    self.of(layer.layer_id, expert).restore(part)


def delete_replaced(connection: duckdb.DuckDBPyConnection, replaced: list[Replaced]) -> None:
    """Within the caller's transaction."""
    columns = zip(*replaced, strict=True)
    connection.register("replaced", pa.table(dict(zip(Replaced._fields, map(list, columns), strict=True))))
    connection.execute(DELETE_REPLACED)
    connection.unregister("replaced")


def _buffers(tables: RunTables) -> Iterator[BlockBuffer]:
    for layer in tables.layers if tables.has_values else ():
        if not layer.experts:
            yield BlockBuffer(layer, tables.tokens, tables.precision)
            continue
        for expert, tokens in enumerate(tables.route_counts(layer).tolist()):
            yield BlockBuffer(layer, tokens, tables.precision, expert)
