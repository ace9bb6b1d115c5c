"""Answers queries over a snapshot: checks that a statement only reads, and sends its rows as Arrow, batch by batch."""

import threading
from collections.abc import Iterator
from itertools import chain

import duckdb
import pyarrow as pa

from nfinspect.backend.protocol import FRAME, Bytes, Columns, End, Query, RunEnded
from nfinspect.backend.sharing import Snapshot
from nfinspect.backend.wire import Wire
from nfinspect_store.console import message_of, only_statement, place_in
from nfinspect_store.errors import QueryError

BATCH = 8 * 2**20
"""Bytes of a batch, about."""

FETCHED = 2048
"""Rows that are fetched at a time: as many as DuckDB handles at once."""


def answer(wire: Wire, snapshot: Snapshot, query: Query) -> None:
    """Send what was asked for. Raises QueryError for a statement that does more than read, or that DuckDB cannot run;
    RunEnded if the capture ends meanwhile.
    """
    with snapshot.busy:
        if snapshot.closed:
            raise RunEnded("the capture of this run has ended: its file can be read")
        late = threading.Event()

        def stop() -> None:
            late.set()
            snapshot.cursor.interrupt()

        timer = threading.Timer(query.timeout, stop) if query.timeout is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            _answer(wire, snapshot.cursor, query)
        except QueryError as error:
            if late.is_set():
                raise QueryError(f"the query took longer than {query.timeout:g} s and was stopped") from error
            error.place = place_in(snapshot.cursor, query.sql, error.__cause__)
            raise
        finally:
            if timer is not None:
                timer.cancel()


def _answer(wire: Wire, cursor: duckdb.DuckDBPyConnection, query: Query) -> None:
    try:
        statement = only_statement(cursor, query.sql)
        relation = cursor.sql(statement, params=query.parameters or None)
        if relation is None:
            raise QueryError("expected a query that has a result")
        if query.most is not None:
            relation = relation.limit(query.most, offset=query.start)
        if query.count:
            relation = relation.aggregate("count(*)")
        wire.send(Columns(tuple(relation.columns), tuple(map(str, relation.types))))
        if not query.describe:
            reader = relation.to_arrow_reader(query.rows or FETCHED)
            empty = pa.RecordBatch.from_pylist([], reader.schema)  # says of which types no rows are
            for batch in chain([empty], reader):
                for part in _parts(batch):
                    data = _ipc(part)
                    wire.send(Bytes(len(data)), data)
    except (duckdb.Error, OSError, RuntimeError, ValueError, MemoryError, pa.ArrowException) as error:
        raise QueryError(message_of(error)) from error  # Arrow passes DuckDB's on as its own
    wire.send(End())


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in pieces of about BATCH bytes."""
    rows = max(1, batch.num_rows * BATCH // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
    if not batch.num_rows:
        yield batch


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    if len(data) > FRAME:
        raise QueryError(f"expected rows of at most {FRAME} bytes, found one of {len(data)}: select fewer columns")
    return data
