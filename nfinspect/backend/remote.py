"""A run that a backend is writing, for the readers of finished runs: a RunFile whose queries the backend answers.

Each RunUnderWay is one snapshot, as of one commit: everything that is read through it belongs together. To see what was
committed later, open another. The rows that come back are put into a DuckDB instance of this process, so that they turn
into the same Python values and arrays as those of a file.
"""

import atexit
import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import duckdb
import numpy as np
import pyarrow as pa

from nfinspect.backend.client import answer, answered
from nfinspect.backend.directory import NotAnswering, connected, living
from nfinspect.backend.protocol import BadMessage, Bytes, Columns, End, Opened, OpenRun, Query, RunEnded
from nfinspect.backend.wire import Gone, Wire
from nfinspect_store.connect import CATALOG, locked
from nfinspect_store.console import Console
from nfinspect_store.errors import NfinspectError, QueryError, RunBusy, StoreError
from nfinspect_store.heartbeat import read_heartbeat
from nfinspect_store.reader import RunFile
from nfinspect_store.statements import listened
from nfinspect_store.tables import RunTables

ANSWERED = "answered"

COMMIT = 60.0
"""Seconds that a run may take to be opened: a commit that is under way is waited for."""

LOSSY = ("HUGEINT", "UHUGEINT", "UUID", "BIT", "JSON", "TIME WITH TIME ZONE")
"""Types that Arrow has no equal of: what comes back is cast to them again."""


class RunUnderWay(RunFile):
    """A run as of one commit of the capture that a backend makes. Threads may share it; it asks one thing at a time."""

    def __init__(self, path: Path, wire: Wire, commits: int) -> None:
        """commits: how many there have been."""
        self.commits = commits
        self.remote = RemoteConnection(path, wire)
        RunTables.__init__(self, cast(duckdb.DuckDBPyConnection, self.remote))
        self.path = path

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return listened(cast(duckdb.DuckDBPyConnection, self.remote.cursor()))

    def interrupt(self) -> None:
        """Cancel what is being asked, from another thread."""
        self.remote.interrupt()

    def close(self) -> None:
        self.remote.close()


class RemoteConsole(Console):
    """The SQL console over a run that a backend writes: each page is of its last commit. Once the capture has ended,
    its file is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._running = set()
        self._lost = {}
        self._connection = _local().cursor()
        self._file: Console | None = None
        self.names = (CATALOG,)
        self._seen = threading.local()

    @property
    def commits(self) -> int | None:
        """How many commits the last question of this thread saw; None for a file."""
        return getattr(self._seen, "commits", None)

    @contextlib.contextmanager
    def cursor(self, timeout: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
        run = None if self._file is not None else run_under_way(self._path)
        self._seen.commits = None if run is None else run.commits
        if run is None:
            with self._lock:
                self._file = self._file or Console({CATALOG: self._path})
            with self._file.cursor(timeout) as cursor:
                yield cursor
            return
        with self._errors(threading.Event(), timeout), run:
            remote = run.remote.cursor()
            remote.timeout = timeout
            cursor = cast(duckdb.DuckDBPyConnection, remote)
            with self._lock:
                self._running.add(cursor)
            try:
                yield cursor
            finally:
                with self._lock:
                    self._running.discard(cursor)

    def _place(self, sql: str, refused: QueryError) -> int | None:
        return super()._place(sql, refused) if self._file is None else self._file._place(sql, refused)

    def interrupt(self) -> None:
        super().interrupt()
        if self._file is not None:
            self._file.interrupt()

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()


def run_under_way(path: Path) -> RunUnderWay | None:
    """The run at `path` as far as it is committed, if a backend of its store is writing it; None if none is.

    Raises RunNotFound where nothing is committed yet, NotAnswering.
    """
    beat = read_heartbeat(path)
    if beat is None or not beat.alive:
        return None
    store = path.resolve().parent
    for entry in living(store)[0]:
        if entry.pid != beat.pid:
            continue
        try:
            wire = connected(store, entry.id)
        except NotAnswering:
            raise
        except NfinspectError:
            continue
        try:
            wire.send(OpenRun(str(path.resolve())))
            return RunUnderWay(path, wire, answered(wire, Opened, COMMIT).commits)
        except (Gone, RunEnded):
            wire.close()
        except BaseException:
            wire.close()
            raise
    return None


def open_run(path: Path) -> RunFile:
    """A run, finished or under way. Raises what RunFile.open does; RunBusy if it is written by no backend."""
    beat = read_heartbeat(path)
    if beat is None or not beat.alive:
        return RunFile.open(path)
    found = run_under_way(path)
    if found is None:
        raise RunBusy(f"{path.stem} is being captured: wait until it has finished")
    return found


class RemoteConnection:
    """What RunTables and Console ask of a DuckDB connection, answered by a backend."""

    def __init__(self, path: Path, wire: Wire) -> None:
        self._wire = wire
        self._path = path
        self._asking = threading.Lock()
        self._unread: _Stream | None = None

    def cursor(self) -> "RemoteCursor":
        return RemoteCursor(self, _local().cursor())

    def interrupt(self) -> None:
        """Cancel what is being asked: the backend notices, and this connection is of no more use."""
        self._wire.shut()

    def ask(self, query: Query) -> tuple[Columns, "_Stream"]:
        """The columns of a query's result, and its batches, to be read before anything else is asked: if they are not,
        they are read into memory then.
        """
        with self._asking:
            if self._unread is not None:
                self._unread.keep()
                self._unread = None
            try:
                self._wire.send(_plain(query))
                columns = answered(self._wire, Columns)
            except Gone as error:
                raise self._lost(error) from error
            self._unread = _Stream(self, self._wire)
            return columns, self._unread

    def next(self, stream: "_Stream") -> pa.RecordBatch | None:
        with self._asking:
            if stream.kept is not None:
                return stream.kept.pop(0) if stream.kept else None
            return self.received(stream)

    def received(self, stream: "_Stream") -> pa.RecordBatch | None:
        """The next batch from the backend. Call while `_asking` is held."""
        if stream.ended:
            return None
        try:
            told = answer(self._wire)
            if isinstance(told, Bytes):
                with pa.ipc.open_stream(self._wire.frame(told)) as reader:
                    batch: pa.RecordBatch = reader.read_next_batch()
                return batch
            if not isinstance(told, End):
                raise BadMessage(f"expected a batch or the end, found {type(told).__name__}")
        except Gone as error:
            stream.ended = True
            raise self._lost(error) from error
        except BaseException:
            stream.ended = True
            raise
        stream.ended = True
        return None

    def _lost(self, error: Gone) -> StoreError:
        return StoreError(
            f"the backend that writes {self._path.stem} does not answer any more ({error}): open it again"
        )

    def close(self) -> None:
        self._wire.close()


@functools.cache
def _local() -> duckdb.DuckDBPyConnection:
    """An instance of this process that reaches nothing: cursors of it turn Arrow into DuckDB's Python values."""
    atexit.register(_local.cache_clear)  # or nanobind would print what is left of it
    return locked([], threads=1)


class _Stream:
    """The batches of one answer."""

    def __init__(self, connection: RemoteConnection, wire: Wire) -> None:
        self._connection = connection
        self.kept: list[pa.RecordBatch] | None = None
        self.ended = False

    def keep(self) -> None:
        """Read what is left into memory. Call while the connection's `_asking` is held."""
        kept: list[pa.RecordBatch] = []
        while (batch := self._connection.received(self)) is not None:
            kept.append(batch)
        self.kept = kept

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._connection.next(self)) is not None:
            yield batch


class RemoteCursor:
    """A cursor. What a query returned is read from a local instance, in which tables can be registered, too."""

    def __init__(self, connection: RemoteConnection, local: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._local = local
        self._registered: set[str] = set()
        self.timeout: float | None = None

    def execute(self, query: str, parameters: object = None) -> Self:
        if query == f"USE {CATALOG}":
            return self
        if any(name in query for name in self._registered):
            self._local.execute(query, parameters)
            return self
        relation = self.sql(query, params=parameters)
        self._local.register(ANSWERED, relation.to_arrow_table())
        self._local.execute(f"SELECT {relation.casts()} FROM {ANSWERED}")
        return self

    def sql(self, query: str, *, params: object = None) -> "RemoteRelation":
        return RemoteRelation(self._connection, Query(query, cast(Any, params), timeout=self.timeout))

    def register(self, name: str, table: pa.Table) -> Self:
        self._local.register(name, table)
        self._registered.add(name)
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._local.fetchall()

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._local.fetchone()

    def fetchnumpy(self) -> dict[str, Any]:
        return self._local.fetchnumpy()

    def to_arrow_table(self) -> pa.Table:
        return self._local.to_arrow_table()

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class RemoteRelation:
    """A query that is run when its rows, or its columns, are wanted."""

    def __init__(self, connection: RemoteConnection, query: Query) -> None:
        self._connection = connection
        self._query = query
        self._told: Columns | None = None

    def _columns(self) -> Columns:
        if self._told is None:
            self._told, stream = self._connection.ask(replace(self._query, describe=True))
            list(stream)
        return self._told

    @property
    def columns(self) -> list[str]:
        return list(self._columns().names)

    @property
    def types(self) -> list[str]:
        return list(self._columns().types)

    def casts(self) -> str:
        """The columns of the answer, of the types that they had."""
        told = self._columns()
        return ", ".join(
            f'"{name}"::{kind} AS "{name}"' if kind in LOSSY else f'"{name}"'
            for name, kind in zip((n.replace('"', '""') for n in told.names), told.types, strict=True)
        )

    def limit(self, most: int, offset: int = 0) -> "RemoteRelation":
        return RemoteRelation(self._connection, replace(self._query, most=most, start=offset))

    def aggregate(self, what: str) -> "RemoteRelation":
        """`count(*)`, and nothing else."""
        if what != "count(*)":
            raise QueryError(f"expected count(*), found {what}")
        return RemoteRelation(self._connection, replace(self._query, count=True))

    def to_arrow_reader(self, rows: int) -> Iterator[pa.RecordBatch]:
        self._told, stream = self._connection.ask(replace(self._query, rows=rows))
        return (batch for batch in stream if batch.num_rows)

    def to_arrow_table(self) -> pa.Table:
        self._told, stream = self._connection.ask(self._query)
        batches = list(stream)
        return pa.Table.from_batches(batches)


def _plain(query: Query) -> Query:
    """With parameters as JSON has them."""
    return replace(query, parameters=_json(query.parameters))


def _json(value: Any) -> Any:
    match value:
        case np.generic():
            return value.item()
        case np.ndarray():
            return value.tolist()
        case Mapping():
            return {str(key): _json(one) for key, one in value.items()}
        case list() | tuple():
            return [_json(one) for one in value]
        case _:
            return value
