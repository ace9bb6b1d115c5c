"""The result of a query, by pages or as a stream, so that a huge result is never in memory at once."""

import datetime as dt
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from nfinspect_store.errors import QueryError
from nfinspect_store.query_place import place_of

CHUNK = 1_000
"""The least number of rows that a page request computes: scrolling by a line must not run the query again."""

HELD = 10_000
"""Rows computed with the first page. Shorter results are held whole, so their order cannot change between pages."""

KEPT_CHUNKS = 32


@dataclass(frozen=True)
class Column:
    """A column of a result: its name and DuckDB's name for its type."""

    name: str
    type: str


class Cursors(Protocol):
    """What a result needs from its console."""

    def cursor(self, timeout: float | None) -> AbstractContextManager[duckdb.DuckDBPyConnection]: ...


class QueryResult:
    """Rows of a checked statement, computed on demand, so any method may raise QueryError. Threads may share it.

    Without ORDER BY, a result of more than HELD rows may come in a different order with every page.
    """

    def __init__(self, console: Cursors, sql: str, columns: tuple[Column, ...], timeout: float | None) -> None:
        self._console = console
        self.sql = sql
        self.columns = columns
        self._timeout = timeout
        self._lock = threading.Lock()
        self._first: pa.Table | None = None
        self._chunks: OrderedDict[int, pa.Table] = OrderedDict()
        self._rows: int | None = None

    @property
    def rows(self) -> int | None:
        """How many rows there are, once known: after the first page of a short result, or after `count`."""
        return self._rows

    def count(self) -> int:
        """How many rows there are; runs the query if that is not known yet."""
        if self._rows is None:
            self.page(0, 1)
        if self._rows is None:
            with self._console.cursor(self._timeout) as cursor:
                counted = cursor.sql(self.sql).aggregate("count(*)").to_arrow_table()
            self._rows = int(counted.column(0)[0].as_py())
        return self._rows

    def page(self, offset: int = 0, limit: int = 100) -> list[tuple[Any, ...]]:
        """Up to `limit` rows from row `offset` on, as Python values; fewer at the end, none past it."""
        offset, limit = max(0, offset), max(0, limit)
        with self._lock:
            if self._first is None:
                held = self._fetch(0, HELD + 1)
                if held.num_rows <= HELD:
                    self._rows = held.num_rows
                self._first = held.slice(0, HELD)
            found = list(python_rows(self._first.slice(min(offset, HELD), limit)))
            while len(found) < limit and offset + len(found) >= HELD and not self._past_end(offset + len(found)):
                number, skip = divmod(offset + len(found), CHUNK)
                chunk = self._chunk(number)
                found += python_rows(chunk.slice(skip, limit - len(found)))
                if chunk.num_rows < CHUNK:  # the end, unless the page starts after it
                    if chunk.num_rows or found:
                        self._rows = number * CHUNK + chunk.num_rows
                    break
            return found

    def _past_end(self, offset: int) -> bool:
        return self._rows is not None and offset >= self._rows

    def _chunk(self, number: int) -> pa.Table:
        if number not in self._chunks:
            self._chunks[number] = self._fetch(number * CHUNK, CHUNK)
            if len(self._chunks) > KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def _fetch(self, offset: int, limit: int) -> pa.Table:
        # LIMIT around the statement, not a stream left half read: then DuckDB sorts only for the rows wanted.
        try:
            with self._console.cursor(self._timeout) as cursor:
                return cursor.sql(self.sql).limit(limit, offset=offset).to_arrow_table()
        except QueryError as error:
            if error.place is None:  # else a backend has told it
                error.place = place_of(self.sql, str(error.__cause__ or ""))
            raise

    def batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The whole result as a stream of Arrow batches; the query runs once, in constant memory."""
        with self._console.cursor(self._timeout) as cursor:
            yield from cursor.sql(self.sql).to_arrow_reader(rows)

    def schema(self) -> pa.Schema:
        """The Arrow schema of `batches`."""
        with self._console.cursor(self._timeout) as cursor:
            return cursor.sql(self.sql).limit(0).to_arrow_table().schema

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """All rows, as a stream of Python values."""
        for batch in self.batches():
            yield from python_rows(pa.Table.from_batches([batch]))

    def unique_names(self) -> list[str]:
        """Column names made unique, for formats that need it: a, a_1, …"""
        names: list[str] = []
        for column in self.columns:
            name, number = column.name, 0
            while name in names:
                number += 1
                name = f"{column.name}_{number}"
            names.append(name)
        return names


def python_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows of Python values, by position: two columns may have the same name."""
    columns = [_python_column(column) for column in table.columns]
    return zip(*columns, strict=True) if columns else iter([()] * table.num_rows)


def _python_column(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)  # Python has no nanoseconds
    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    except (
        ValueError,
        OverflowError,
        pa.ArrowException,
    ):  # 'infinity'::TIMESTAMP, years before 1: Python has neither
        values = column.cast(pa.string()).to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:  # sums of whole numbers come as HUGEINT
        return [None if value is None else int(value) for value in values]
    return values


def plain_value(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become null, times ISO, decimals numbers, blobs base64."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case bytes():
            import base64

            return base64.b64encode(value).decode("ascii")
        case dict():
            return {str(key): plain_value(item) for key, item in value.items()}
        case list():
            return [plain_value(item) for item in value]
        case _:
            return str(value)
