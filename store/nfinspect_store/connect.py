"""Opening run files in DuckDB, and DuckDB's errors in our words. The one module that calls duckdb.connect on a run.

A run is attached to an in-memory instance: the same file may then be attached by several readers of one process, and by
any number of processes once it is finished.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from nfinspect_store.errors import NfinspectError, NotARun, QueryError, RunBusy, RunNotFound, StorageFull, StoreError
from nfinspect_store.schema import quoted

CATALOG = "run_file"
"""The name under which a run is attached."""

ROW_GROUP_SIZE = 8192

DAMAGE = ("not a valid duckdb", "corrupt", "checksum", "serializ", "could not read enough bytes")
"""What DuckDB says of a file that is none of its own, or is damaged."""


def literal(path: Path) -> str:
    """A path as SQL text."""
    return "'" + str(path).replace("'", "''") + "'"


def attach(path: Path, *, read_only: bool, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection whose default catalog is the run at `path`. Raises NotARun, RunBusy, RunNotFound, StorageFull."""
    if read_only and not path.exists():
        raise RunNotFound(f"no run file at {path}")
    if path.is_dir():
        raise NotARun(f"expected a run file, found a directory: {path}")
    connection = duckdb.connect()
    try:
        with translated(path):
            # In a REPL DuckDB would draw its progress over the screen.
            connection.execute("SET enable_progress_bar = false")
            if threads is not None:
                connection.execute(f"SET threads = {int(threads)}")
            options = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {ROW_GROUP_SIZE}"
            # With its type told, DuckDB takes no file for a database of another kind because of its name.
            connection.execute(f"ATTACH {literal(path)} AS {CATALOG} (TYPE duckdb, {options})")
            connection.execute(f"USE {quoted(CATALOG)}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn DuckDB's and the system's errors about `path` into StoreErrors of one line."""
    try:
        yield
    except NfinspectError:
        raise
    except (duckdb.Error, OSError, MemoryError) as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: BaseException) -> StoreError:
    """The StoreError that says in one line what went wrong with `path`."""
    text = first_line(error)
    lowered = text.lower()
    if "no space left" in lowered or "disk full" in lowered or "file too large" in lowered or "quota" in lowered:
        return StorageFull(f"the disk is full while writing {path}: free some space; what was saved before is intact")
    if "lock on file" in lowered or "file handle conflict" in lowered:
        holder = re.search(r"PID (\d+)", text)
        who = f" (process {holder[1]})" if holder else ""
        return RunBusy(
            f"{path.name} is in use by another process{who}, which writes it or has it open, as the app has every run "
            "that was looked at: wait until it has finished, or end it"
        )
    if any(sign in lowered for sign in DAMAGE):
        return NotARun(f"{path} is no run file, or a damaged one: {text}")
    if "read-only file system" in lowered or "permission denied" in lowered:
        return StorageFull(f"cannot write {path}: {text}")
    return StoreError(f"{path}: {text}")


def first_line(error: BaseException) -> str:
    """DuckDB's message without its advice and caret lines."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def query_message(error: BaseException) -> str:
    """What DuckDB says of a statement; of a damaged file, that it is no fault of the statement."""
    text = first_line(error)
    if "corrupt database" in text.lower():
        return f"the run file is damaged: {text} (nfinspect verify RUN says more)"
    return text


@contextmanager
def query_errors() -> Iterator[None]:
    """DuckDB's errors about a statement, as QueryErrors of one line."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise QueryError("the query was cancelled") from error
    except duckdb.Error as error:
        raise QueryError(query_message(error)) from error
