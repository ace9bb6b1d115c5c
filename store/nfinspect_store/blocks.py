"""Captured values become value blocks: one streamed INSERT per segment, fed by a bounded queue.

DuckDB pulls record batches in a thread of its own while the capture goes on; the queue is bounded in bytes, so a slow
disk slows the capture and never fills memory. An INSERT per batch would double the file and halve the speed
(docs/decisions/0001).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store import kernels
from nfinspect_store.blob_columns import blobs
from nfinspect_store.block_rows import BlockRows
from nfinspect_store.connect import store_error
from nfinspect_store.digests import Digest, digest_of_sums, firing_numbers, value_numbers, values_digest
from nfinspect_store.precision import FLOAT32, reduced
from nfinspect_store.processors import unbind
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer, Precision

QUEUE_BYTES = 256 * 2**20

THREAD_BYTES = 32 * 2**20
"""Bytes of blocks for each of DuckDB's threads, if there is more than one. When two share fewer than five row groups,
DuckDB writes them twice and the file doubles (docs/decisions/0001).
"""

GATHERING = 0.5
"""Seconds that the first blocks may wait for as many as several threads need: who makes fewer in that time does not
keep one thread busy [own].
"""

BLOCK_SCHEMA = pa.schema(
    [
        ("layer_id", pa.int16()),
        ("neuron", pa.int32()),
        ("block", pa.int32()),
        ("first", pa.uint8()),
        ("last", pa.uint8()),
        ("values", pa.binary()),
        ("fired", pa.binary()),
        ("scale", pa.float32()),
    ]
)


class Replaced(NamedTuple):
    """Some rows of blocks: those of neurons from `low` to `high` that end a block at `last`."""

    layer_id: int
    low: int
    high: int
    block: int
    last: int


class BlockBuffer:
    """The unfinished block of one layer, or of one of its experts, neuron by neuron.

    Blocks of reduced precision are rounded when they are whole, so that a value does not depend on where a segment
    ended: until then a commit stores the block as float32, and the next replaces it.
    """

    def __init__(
        self, layer: Layer, token: int = 0, precision: Precision = "float32", expert: int | None = None
    ) -> None:
        """token: token_idx of the next token. expert: of a mixture of experts the one whose neurons these are, and
        whose tokens are counted.
        """
        self.layer = layer
        self.expert = expert
        self._precision = precision
        neurons, before = (layer.neurons, 0) if expert is None else (layer.width, expert * layer.width)
        self._block, self._first = divmod(token, BLOCK)
        self._filled = self._first
        self._values = np.empty((neurons, BLOCK), FLOAT32)
        # Which values fired, where the values alone do not say so.
        self._fired = np.empty((neurons, BLOCK), np.bool_) if layer.fires == "gate" else None
        self._neuron = np.arange(before, before + neurons, dtype=np.int32)
        self._done = Digest()  # of the values in rows that stay
        self._rest = Digest()  # of those that the next commit replaces
        self.error = 0.0
        """How far any value is from what it was."""

    @property
    def token(self) -> int:
        """How many tokens there are so far."""
        return self._block * BLOCK + self._filled

    @property
    def values(self) -> int:
        """How many values these have."""
        return self.token * len(self._neuron)

    @property
    def replaced(self) -> Replaced | None:
        """The rows of the unfinished block that the last commit stored and the next one replaces, if any."""
        if self._precision == "float32" or self._filled == self._first:
            return None
        return Replaced(self.layer.layer_id, int(self._neuron[0]), int(self._neuron[-1]), self._block, self._filled - 1)

    @property
    def digest(self) -> Digest:
        """Of all values in rows so far."""
        return self._done + self._rest

    def restore(self, rows: BlockRows) -> None:
        """Take back what the last commit stored of an unfinished block: some of its neurons, from its first token."""
        self._first = rows.first % BLOCK
        place = slice(self._first, self._filled)
        neuron = rows.neuron - self._neuron[0]
        self._values[neuron, place] = rows.values
        if self._fired is not None and rows.fired is not None:
            self._fired[neuron, place] = rows.fired
        self._rest += values_digest(self.layer.layer_id, rows.neuron, rows.first, rows.values, rows.fired)

    def add(self, values: NDArray[np.float32], fired: NDArray[np.bool_] | None) -> Iterator[pa.RecordBatch]:
        """Take float32[neurons, tokens], bool[neurons, tokens]; yield each block that they complete."""
        start, tokens = 0, values.shape[1]
        while start < tokens:
            take = min(BLOCK - self._filled, tokens - start)
            self._take(values[:, start : start + take], None if fired is None else fired[:, start : start + take])
            self._filled += take
            start += take
            if self._filled == BLOCK:
                yield from self._whole()
                self._block += 1
                self._first = self._filled = 0

    def _take(self, values: NDArray[np.float32], fired: NDArray[np.bool_] | None) -> None:
        """[neurons, tokens] into the unfinished block, which has room for them."""
        first = self._block * BLOCK + self._filled
        place = slice(self._filled, self._filled + values.shape[1])
        flags = None if fired is None or self._fired is None else self._fired[:, place]
        if kernels.compiled() and not _by_neuron(values):
            sums, of_token = np.zeros(len(values), np.uint64), value_numbers(first, values.shape[1])
            kernels.lay_out(values.T, self._values[:, place], of_token, sums)
            if fired is not None and flags is not None:
                kernels.lay_out_flags(fired.T, flags, firing_numbers(of_token), sums)
            digest = digest_of_sums(self.layer.layer_id, self._neuron, sums, values.size)
        else:
            self._values[:, place] = values
            if fired is not None and flags is not None:
                flags[:] = fired
            given = fired if flags is not None else None
            digest = values_digest(self.layer.layer_id, self._neuron, first, values, given)
        if self._precision == "float32":
            self._done += digest
        else:
            self._rest += digest

    def rest(self, *, final: bool) -> Iterator[pa.RecordBatch]:
        """What the unfinished block holds so far, if anything. final: nothing is to replace it."""
        if self._filled == self._first:
            return
        if self._precision == "float32" or final:
            yield from self._whole()  # later values of the block go to rows of their own
            self._first = self._filled
        else:
            yield self._rows()

    def _whole(self) -> Iterator[pa.RecordBatch]:
        """The block as it is to stay."""
        if self._precision == "float32":
            yield self._rows()
            return
        part = slice(self._first, self._filled)
        of_token = value_numbers(self._block * BLOCK + self._first, self._filled - self._first)
        found = reduced(self._values[:, part], self._precision, of_token)
        self.error = max(self.error, float(found.error.max(initial=0)))
        sums = found.sums
        if self._fired is not None:
            sums += np.einsum("ij,j->i", self._fired[:, part].view(np.uint8), firing_numbers(of_token))
        self._rest = Digest()
        self._done += digest_of_sums(self.layer.layer_id, self._neuron, sums, self._values[:, part].size)
        for held in (True, False):
            rows = found.held == held
            if rows.any():
                stored = found.stored if held else self._values[:, part]
                scale = found.scale[rows] if held and self._precision == "int8" else None
                yield self._rows(rows, stored[rows], scale)

    def _rows(
        self,
        chosen: NDArray[np.bool_] | None = None,
        stored: NDArray[Any] | None = None,
        scale: NDArray[np.float32] | None = None,
    ) -> pa.RecordBatch:
        """The block's rows, of the chosen neurons (bool[neurons]; None: all). stored: their values, float32 if not
        given.
        """
        part = slice(self._first, self._filled)
        neuron = self._neuron if chosen is None else self._neuron[chosen]
        fired = None if self._fired is None else self._fired[:, part] if chosen is None else self._fired[chosen, part]
        rows = len(neuron)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(np.full(rows, self.layer.layer_id, np.int16)),
                pa.array(neuron),
                pa.array(np.full(rows, self._block, np.int32)),
                pa.array(np.full(rows, self._first, np.uint8)),
                pa.array(np.full(rows, self._filled - 1, np.uint8)),
                # A copy: DuckDB reads it while the buffer fills again.
                blobs(self._values[:, part].copy() if stored is None else np.ascontiguousarray(stored)),
                pa.nulls(rows, pa.binary()) if fired is None else blobs(_packed(fired)),
                pa.nulls(rows, pa.float32()) if scale is None else pa.array(scale),
            ],
            schema=BLOCK_SCHEMA,
        )


def _by_neuron(values: NDArray[np.float32]) -> bool:
    """Whether float32[neurons, tokens] lies in memory neuron by neuron, as blocks do; a forward pass gives tokens."""
    return values.strides[1] == values.itemsize


def _packed(fired: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """bool[neurons, tokens] -> uint8[neurons, ceil(tokens / 8)], the first token in the lowest bit of the first."""
    return np.packbits(fired, axis=1, bitorder="little")


class BlockStream:
    """One segment's INSERT, running in a thread until `finish`.

    The callers' threads lay out the blocks, this one runs DuckDB, with up to `writers` threads of its own. queue: the
    most bytes that wait for it, QUEUE_BYTES if not given.
    """

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        buffers: Sequence[BlockBuffer],
        writers: int = 1,
        queue: int | None = None,
    ) -> None:
        self._writers = writers
        self._most = QUEUE_BYTES if queue is None else queue
        self._path = path
        self._connection = connection
        self._buffers = {(buffer.layer.layer_id, buffer.expert): buffer for buffer in buffers}
        self._queue: deque[pa.RecordBatch] = deque()
        self._queued = 0
        self._full = False  # whether the caller has had to wait
        self._ended = False
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._insert, name="nfinspect-writer", daemon=True)
        self._thread.start()

    def put(
        self,
        layer_id: int,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        expert: int | None = None,
    ) -> None:
        """Add [neurons, tokens]; waits while the queue is full. A layer's from one thread at a time. Raises the
        writer's StoreError.
        """
        for rows in self._buffers[layer_id, expert].add(values, fired):
            self._enqueue(rows)

    def finish(self, *, final: bool) -> None:
        """Wait until everything is in the transaction, unfinished blocks too. final: no other segment follows. Raises
        the writer's StoreError.
        """
        for buffer in self._buffers.values():
            for rows in buffer.rest(final=final):
                self._enqueue(rows)
        self._end()
        if self._error is not None:
            raise store_error(self._path, self._error) from self._error

    def abandon(self) -> None:
        """End the thread; what it inserted is undone when its transaction is rolled back. `put` raises StoreError."""
        with self._changed:
            self._queue.clear()
            self._error = self._error or RuntimeError("the segment was given up")  # for those who wait for room
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _enqueue(self, rows: pa.RecordBatch) -> None:
        with self._changed:
            self._wait_until_at_most(max(0, self._most - rows.nbytes))
            self._queue.append(rows)
            self._queued += rows.nbytes
            self._changed.notify_all()

    def _wait_until_at_most(self, queued: int) -> None:
        """With the lock held: wait until at most so many bytes are queued. Raises the thread's error."""
        while self._error is None and self._queued > queued:
            self._full = True
            self._changed.notify_all()
            self._changed.wait()
        if self._error is not None:
            raise store_error(self._path, self._error) from self._error

    def _insert(self) -> None:
        unbind()  # DuckDB's threads inherit it
        threads = self._threads_worth()
        batches = self._batches()
        reader = pa.RecordBatchReader.from_batches(BLOCK_SCHEMA, batches)
        try:
            self._connection.register("incoming_blocks", reader)
            self._connection.execute(f"SET threads = {threads}")
            # A row says where its block belongs: several threads need not keep the rows in order.
            self._connection.execute(f"SET preserve_insertion_order = {threads == 1}")
            self._connection.execute("INSERT INTO blocks SELECT * FROM incoming_blocks")
            self._connection.execute("SET preserve_insertion_order = true")
            self._connection.unregister("incoming_blocks")
        except BaseException as error:  # of any kind: raised in the capturing thread
            with self._changed:
                self._error = error
                self._queue.clear()
                self._changed.notify_all()
            # The connection still holds it: with it this stream, and thus itself.
            with contextlib.suppress(ValueError):  # it is running
                batches.close()

    def _threads_worth(self) -> int:
        """Wait for the first blocks; how many of DuckDB's threads are worth while, by how fast they come."""
        with self._changed:
            while not (self._queue or self._ended):
                self._changed.wait()
            until = time.monotonic() + GATHERING
            while self._queued < self._writers * THREAD_BYTES and not (self._full or self._ended):
                if self._writers == 1 or not self._changed.wait(until - time.monotonic()):
                    break
            return max(1, min(self._writers, self._queued // THREAD_BYTES))

    def _batches(self) -> Generator[pa.RecordBatch, None, None]:
        """The queued batches, until `_end`. A batch counts as queued until DuckDB asks for the next one."""
        while True:
            with self._changed:
                while not self._queue and not self._ended:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = self._queue.popleft()
            yield batch
            with self._changed:
                self._queued -= batch.nbytes
                self._changed.notify_all()
