"""Read-only SQL over runs, confined: whoever types or pastes a query can read the runs and nothing else.

Three barriers, each enough for most of what could go wrong: the runs are attached read-only; DuckDB itself is cut off
from files, network, extensions and Python variables, with its settings locked; and only reading statements are
accepted, one at a time.
"""

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from nfinspect_store.attached import AttachedPart, parts_in
from nfinspect_store.connect import add_run, first_line, locked, query_message
from nfinspect_store.errors import QueryError, RunBusy, StoreError
from nfinspect_store.heartbeat import being_written
from nfinspect_store.layout import SCRATCH
from nfinspect_store.open_parts import attach_parts
from nfinspect_store.query_place import place_of
from nfinspect_store.query_result import Column, QueryResult
from nfinspect_store.schema import EXPERTS, INTERNAL, PLANTED, PUBLIC, ROUTED, quoted

ALLOWED = "SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT or EXPLAIN"
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)  # a PIVOT without IN is parsed as several
RESERVED = ("memory", "system", "temp", "main", SCRATCH)

CLOSING = 10.0
"""Seconds that `close` waits for cancelled queries; DuckDB stops within milliseconds."""

EXPLAIN = "EXPLAIN\n"

NOT_THERE = (duckdb.BinderException, duckdb.CatalogException)

HINTS = ("Did you mean", "Candidate bindings")
"""How a line of DuckDB's begins that says what could have been meant."""

READ_COLUMNS = """
SELECT c.database_name, c.table_name, c.column_name, c.data_type, v.view_name IS NOT NULL AS is_view
FROM duckdb_columns() c LEFT JOIN duckdb_views() v
    ON (v.database_name, v.schema_name, v.view_name) = (c.database_name, c.schema_name, c.table_name)
WHERE NOT c.internal ORDER BY c.database_name, c.table_name, c.column_index
"""

_EXPLAIN = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b(?:\s*\bANALYZE\b)?(?:\s*\([^)]*\))?", re.IGNORECASE | re.DOTALL
)

PartsOfRun = tuple[Path, str, tuple[AttachedPart, ...]]
"""A run that keeps its values in parts, the name under which it is attached, and its parts."""


@dataclass(frozen=True)
class Table:
    """A table that queries can name, or a view. public: whether it is of the interface that does not change; columns:
    names and types.
    """

    view: bool
    public: bool
    columns: Mapping[str, str]


class Console:
    """SQL over one or more runs. Threads may share a console: every query has a cursor of its own.

    One statement per call, without parameters. The first run is the default catalog, so `FROM neurons` reads its table;
    the others are named: `FROM "other-run".neurons`.
    """

    def __init__(self, runs: str | Path | Mapping[str, Path]) -> None:
        """runs: one run file, or run files by the names under which they are attached.

        Raises RunNotFound, NotARun, RunBusy.
        """
        paths = runs if isinstance(runs, Mapping) else {Path(runs).stem: Path(runs)}
        if not paths:
            raise ValueError("a console needs at least one run")
        self._lock = threading.Lock()
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._lost: dict[str, str] = {}  # why a part that holds values cannot be read, by its name in SQL
        files = {name: Path(path) for name, path in paths.items()}
        self._open(files)
        if parts := self._parts(files):
            self._connection.close()  # it can reach no other file than those that it was made for
            self._open(files, parts)

    @property
    def default(self) -> str:
        """The run whose tables are meant when a query names no run."""
        return self.names[0]

    def _open(self, files: Mapping[str, Path], parts: Sequence[PartsOfRun] = ()) -> None:
        reached = [part.path(run) for run, _, of_run in parts for part in of_run]
        self._connection = locked([*files.values(), *reached], memory="50%")
        try:
            self.names = tuple(self._attach(name, path) for name, path in files.items())
            for run, name, of_run in parts:
                try:
                    attach_parts(self._connection, run, name, of_run)
                except StoreError as error:  # all but the values can be asked for
                    self._lost |= {part.name: str(error) for part in of_run}
        except BaseException:
            self.close()
            raise

    def _parts(self, files: Mapping[str, Path]) -> list[PartsOfRun]:
        try:
            named = zip(files.values(), self.names, strict=True)
            found = [(path, name, parts_in(self._connection, name)) for path, name in named]
            return [(path, name, parts) for path, name, parts in found if parts]
        except BaseException:
            self.close()
            raise

    def _attach(self, name: str, path: Path) -> str:
        if being_written(path):
            raise RunBusy(f"{path.stem} is being captured: wait until it has finished")
        name = f"{name}_run" if name.lower() in RESERVED else name
        add_run(self._connection, path, name)
        return name

    def run(self, sql: str, *, timeout: float | None = None) -> QueryResult:
        """Check and prepare one statement. Its rows are computed when a page of them is requested.

        timeout: seconds that each page may take. Raises QueryError for a refused statement, or one that DuckDB does not
        understand.
        """
        try:
            statement = self._only_statement(sql)
            with self.cursor(timeout) as cursor:
                relation = cursor.sql(statement)
                columns = tuple(Column(n, str(t)) for n, t in zip(relation.columns, relation.types, strict=True))
        except QueryError as error:
            if error.place is None:  # else a backend has told it
                error.place = self._place(sql, error)
            raise
        return QueryResult(self, statement, columns, timeout)

    def _place(self, sql: str, refused: QueryError) -> int | None:
        with contextlib.suppress(duckdb.Error), self._connection.cursor() as cursor:
            with contextlib.suppress(duckdb.Error):
                cursor.execute(f"USE {quoted(self.default)}")
            return place_in(cursor, sql, refused.__cause__)
        return None

    def interrupt(self) -> None:
        """Cancel every query that is running; each raises QueryError in its thread."""
        with self._lock:
            for cursor in self._running:
                cursor.interrupt()

    def tables(self) -> dict[str, Table]:
        """Tables by name, as a query writes it: public ones first, those of other runs prefixed with the run's name."""
        with self.cursor(None) as cursor:
            rows = cursor.execute(READ_COLUMNS).fetchall()
        found: dict[str, Table] = {}
        for run in self.names:
            for table in (*PUBLIC, EXPERTS, ROUTED, PLANTED, *INTERNAL):
                here = [row[2:] for row in rows if row[:2] == (run, table)]
                if here:
                    name = table if run == self.default else f"{quoted(run)}.{table}"
                    columns = {column: kind for column, kind, _ in here}
                    found[name] = Table(bool(here[0][2]), table not in INTERNAL, columns)
        return found

    def close(self) -> None:
        """Cancel running queries, wait until they have stopped, and detach the runs."""
        deadline = time.monotonic() + CLOSING
        while self._busy() and time.monotonic() < deadline:
            self.interrupt()
            time.sleep(0.01)
        with contextlib.suppress(duckdb.Error):  # still busy: it ends with the process
            self._connection.close()

    def _busy(self) -> bool:
        with self._lock:
            return bool(self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def cursor(self, timeout: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor on the default run, which `interrupt` and the timeout can cancel; errors become QueryErrors."""
        late = threading.Event()
        with self._errors(late, timeout), self._connection.cursor() as cursor:
            cursor.execute(f"USE {quoted(self.default)}")  # a cursor does not inherit the default catalog

            def stop() -> None:
                late.set()
                cursor.interrupt()

            timer = threading.Timer(timeout, stop) if timeout is not None else None
            with self._lock:
                self._running.add(cursor)
            try:
                if timer is not None:
                    timer.daemon = True
                    timer.start()
                yield cursor
            finally:
                if timer is not None:
                    timer.cancel()
                with self._lock:
                    self._running.discard(cursor)

    @contextlib.contextmanager
    def _errors(self, late: threading.Event, timeout: float | None) -> Iterator[None]:
        try:
            yield
        except duckdb.ConnectionException as error:
            raise QueryError("the console has been closed") from error
        except (duckdb.Error, OSError, MemoryError, RuntimeError, ValueError) as error:
            # Arrow readers pass DuckDB's errors on as OSError, and Ctrl-C ends a statement with RuntimeError.
            text = first_line(error)
            if "nterrupt" in text:
                reason = f"took longer than {timeout:g} s and was stopped" if late.is_set() else "was interrupted"
                raise QueryError(f"the query {reason}") from error
            lost = next((reason for name, reason in self._lost.items() if name in text), None)
            raise QueryError(lost or message_of(error)) from error

    def _only_statement(self, sql: str) -> str:
        with self._connection.cursor() as cursor:
            return only_statement(cursor, sql)


def place_in(cursor: duckdb.DuckDBPyConnection, sql: str, error: BaseException | None) -> int | None:
    """The character of a statement that DuckDB's error is about; None if it points to none.

    A name that is not there is pointed to only by a statement as a whole, not by the relation that a query is here:
    then it is asked for by EXPLAIN, which executes nothing. cursor: of the tables that the statement was about.
    """
    if (found := place_of(sql, str(error or ""))) is not None or not isinstance(error, NOT_THERE):
        return found
    explained = f"{EXPLAIN}{sql}"
    try:
        cursor.execute(explained)
    except duckdb.Error as again:
        found = place_of(explained, str(again))
    return None if found is None else max(0, found - len(EXPLAIN))


def only_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The one statement in `sql`, without the semicolon. Raises QueryError unless it only reads.

    connection: of any instance; nothing is executed.
    """
    statements = _parse(connection, sql)
    if not statements:
        raise QueryError(f"expected a query ({ALLOWED}), found nothing")
    if len(statements) > 1:
        raise QueryError(f"expected one statement at a time, found {len(statements)}")
    _check_reading(connection, statements[0], sql)
    return _without_semicolon(sql)


def _check_reading(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, sql: str) -> None:
    try:
        kind = statement.type
    except ValueError:  # a kind unknown to this version of the Python client
        raise QueryError(f"only queries are run here ({ALLOWED})") from None
    if kind == duckdb.StatementType.EXPLAIN:  # EXPLAIN ANALYZE executes its statement
        match = _EXPLAIN.match(sql)
        inner = _parse(connection, sql[match.end() :]) if match else []
        if len(inner) == 1:
            _check_reading(connection, inner[0], sql[match.end() :] if match else "")
            return
    if kind not in READING:
        raise QueryError(f"only queries are run here ({ALLOWED}): found {kind.name}")


def _parse(connection: duckdb.DuckDBPyConnection, sql: str) -> list[duckdb.Statement]:
    try:
        return connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(message_of(error)) from error
    except (TypeError, UnicodeEncodeError):  # a lone surrogate, as undecodable bytes of a terminal become
        raise QueryError("the query is not valid text: it holds characters that UTF-8 cannot") from None


def _without_semicolon(sql: str) -> str:
    """One statement without a trailing semicolon and comments, so that it can be nested in another."""
    text = sql.encode()
    end = len(text)
    for start, kind in reversed(duckdb.tokenize(sql)):  # offsets in bytes
        if kind != duckdb.token_type.comment and text[start : start + 1] != b";":
            break
        end = start
    return text[:end].decode() + "\n"  # a comment at the end must not swallow what follows


def message_of(error: BaseException) -> str:
    """DuckDB's first line and its suggestion, without the excerpt and the caret."""
    hint = next((line for line in str(error).splitlines()[1:] if line.startswith(HINTS)), "")
    return f"{query_message(error)} {hint}".strip()


def open_console(runs: Mapping[str, Path]) -> Console:
    """A console over runs by name; a file given under two names is attached once. Raises StoreError."""
    if not runs:
        raise StoreError("expected at least one run")
    files: dict[Path, str] = {}
    for name, path in runs.items():
        files.setdefault(path.resolve(), name)
    return Console({name: runs[name] for name in files.values()})
