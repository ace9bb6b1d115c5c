"""Opening our files in DuckDB, and DuckDB's errors in our words. The one module that calls duckdb.connect.

ATTACH is closer to loading a library than to opening a document, and a run file may be a stranger's. So a file is
attached to an in-memory instance that was locked down before: it reaches that file and nothing else, whatever the file
says (docs/decisions/0007). Before any data is read, the file must be seen to hold what nfinspect writes and nothing
more (layout.py). Several readers of one process may attach the same file, and any number of processes once it is
finished.
"""

import atexit
import functools
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from nfinspect_store.errors import NfinspectError, NotARun, QueryError, RunBusy, RunNotFound, StorageFull, StoreError
from nfinspect_store.layout import check_result, check_run, definitions, refuse_older
from nfinspect_store.memory import run_memory
from nfinspect_store.paths import file_state
from nfinspect_store.schema import quoted
from nfinspect_store.small_files import is_utf8

CATALOG = "run_file"
"""The name under which a run is attached."""

FILE_HEADERS = 3 * 4096
"""Bytes before the first block of a DuckDB file."""

ROW_GROUP_SIZE = 8192

STORAGE_VERSION = "v1.2.0"
"""Of DuckDB's file format, for new files: the DuckDB that people have installed reads it, at equal size and speed."""

LOGS = ("", ".wal", ".wal.checkpoint", ".wal.recovery")
"""Suffixes of what DuckDB opens of a database: the file and its logs."""

WRITING = ("threads", "preserve_insertion_order", "max_vacuum_tasks")
"""The settings that a writer changes from statement to statement."""

COMMIT_CHECKPOINTS = "64KB"
"""Of a writer's log from which a commit is a checkpoint, too: it would write everything to the log first, and again to
the file. The empty tables of a new run stay below (10 KB): a checkpoint of them would leave free room in the file."""

RUN_OPTIONS = f"ROW_GROUP_SIZE {ROW_GROUP_SIZE}"
"""For a new run file. Disk blocks smaller than DuckDB's 256 KiB would cost more than they save: in files of version 1.2
floating-point columns are not compressed in them (docs/decisions/0008)."""

DAMAGE = ("not a valid duckdb", "corrupt", "checksum", "serializ", "could not read enough bytes")
"""What DuckDB says of a file that is not a database, or is damaged."""

_number = itertools.count()

_checked: dict[tuple[int, ...], int] = {}
"""Schema versions of files that this process has checked in full, macros included, by their state: a file that has not
changed since is not checked again, as the check takes longer than the rest of opening it."""


def locked(
    files: Iterable[Path],
    *,
    threads: int | None = None,
    memory: str | None = None,
    changeable: Iterable[str] = (),
    checkpoints: str | None = None,
) -> duckdb.DuckDBPyConnection:
    """An empty instance that can attach these files and reaches nothing else: no other file, no network, no extension,
    no Python variable. Its settings are locked, except the `changeable` ones. checkpoints: size of the log from which a
    commit is a checkpoint. Raises NotARun.
    """
    files = tuple(files)
    for file in files:
        if not is_utf8(file):
            raise NotARun(f"the name {os.fsencode(file)!r} is not UTF-8: rename it")
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
        "python_enable_replacements": False,
        "temp_directory": f"{_spill()}/{next(_number)}",  # large sorts go there, not to the user's folder
    }
    if threads is not None:
        config["threads"] = threads
    if memory is not None:
        config["memory_limit"] = memory
    if checkpoints is not None:
        config["wal_autocheckpoint"] = checkpoints
    with closed_on_error(duckdb.connect(config=config)) as connection:
        allowed = ", ".join(literal(f"{reached(file)}{log}") for file in files for log in LOGS)
        names = ", ".join(literal(name) for name in changeable)
        for statement in (
            "SET enable_progress_bar = false",  # in a REPL DuckDB would draw it over the screen
            f"SET allowed_configs = [{names}]",
            f"SET allowed_paths = [{allowed}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",  # last: nothing can be set after it
        ):
            connection.execute(statement)
    return connection


@contextmanager
def closed_on_error(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yields it, and closes it only if an error ends the block: for those who make a connection and return it."""
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def attach(
    path: Path, *, older: bool = False, threads: int | None = None, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """A read-only connection whose default catalog is the run at `path`.

    older: accept a run of an earlier schema, too. Raises NotARun, RunBusy, RunNotFound, SchemaTooNew, SchemaTooOld.
    """
    return _attached(path, locked([path], threads=threads, memory=memory), "READ_ONLY", older)


def attach_to_write(path: Path, *, older: bool = False, readers: bool = False) -> duckdb.DuckDBPyConnection:
    """As `attach`, but to continue writing the run. It is checked first through a read-only connection.

    readers: as in `memory_for`.
    """
    with attach(path, older=older) as checked, translated(path):
        memory = run_memory(checked, readers=readers)
    connection = locked([path], threads=1, memory=memory, changeable=WRITING, checkpoints=COMMIT_CHECKPOINTS)
    return _attached(path, connection, f"ROW_GROUP_SIZE {ROW_GROUP_SIZE}", older)


def create(path: Path, *, memory: str | None = None, options: str = RUN_OPTIONS) -> duckdb.DuckDBPyConnection:
    """A writing connection whose default catalog is a new, empty file. Raises StorageFull."""
    new = locked([path], threads=1, memory=memory, changeable=WRITING, checkpoints=COMMIT_CHECKPOINTS)
    with closed_on_error(new) as connection:
        add_new(connection, path, CATALOG, options)
        connection.execute(f"USE {CATALOG}")
    return connection


def add(connection: duckdb.DuckDBPyConnection, path: Path, name: str, options: str = "READ_ONLY") -> None:
    """Attach an existing file to a locked instance under a name, its content still unchecked.

    Raises RunNotFound, NotARun, RunBusy.
    """
    if not path.exists():
        raise RunNotFound(f"no run file at {path}")
    if not path.is_file():  # opening a pipe would block
        what = "a directory" if path.is_dir() else "something that is not a file"
        raise NotARun(f"expected a run file, found {what}: {path}")
    with translated(path):
        # With the type given, DuckDB does not guess another kind of database from the file's name.
        connection.execute(f"ATTACH {literal(reached(path))} AS {quoted(name)} (TYPE duckdb, {options})")


def add_run(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    name: str,
    options: str = "READ_ONLY",
    *,
    older: bool = False,
    macros: bool = True,
) -> None:
    """Attach a run to a locked instance under a name, and check that it is a run and nothing else (layout.check_run).

    Raises what `add` does, SchemaTooNew, and SchemaTooOld unless `older`; the run is then detached again.
    """
    add_runs(connection, {name: path}, options, older=older, macros=macros)


def add_runs(
    connection: duckdb.DuckDBPyConnection,
    runs: Mapping[str, Path],
    options: str = "READ_ONLY",
    *,
    older: bool = False,
    macros: bool = True,
) -> None:
    """The same of several runs under their names, at less cost than one by one. All are detached if one is refused."""
    states: dict[str, tuple[int, ...]] = {}
    try:
        for name, path in runs.items():
            states[name] = settled_state(path)
            add(connection, path, name, options)
        unknown = [name for name, state in states.items() if state not in _checked]
        with translated(next(iter(runs.values()))):
            found = definitions(connection, unknown, macros=macros) if unknown else {}
        for name, path in runs.items():
            with translated(path):
                state = states[name]
                version = check_run(connection, name, path, found[name]) if name in found else _checked[state]
                if name in found and macros and state and state == settled_state(path):
                    _checked[state] = version
                if not older:
                    refuse_older(path, version)
    except BaseException:
        for name in states:
            with suppress(duckdb.Error):
                connection.execute(f"DETACH {quoted(name)}")
        raise


def remember(path: Path, version: int) -> None:
    """Record that a file which this process has just written and closed is a run of that version, without checking."""
    state = settled_state(path)
    if state:
        _checked[state] = version


def add_result(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Attach a saved result to a locked instance as CATALOG, and check that it is one. It never becomes the default
    catalog, so its macros cannot shadow DuckDB's functions. Raises what `add` does; the file is then detached again.
    """
    add(connection, path, CATALOG)
    try:
        with translated(path):
            check_result(connection, CATALOG, path)
    except BaseException:
        with suppress(duckdb.Error):
            connection.execute(f"DETACH {CATALOG}")
        raise


def settled_state(path: Path) -> tuple[int, ...]:
    """`file_state` of a database; empty where a log next to it holds more."""
    place = reached(path)
    return () if place.with_name(f"{place.name}.wal").exists() else file_state(place)


def add_new(connection: duckdb.DuckDBPyConnection, path: Path, name: str, options: str) -> None:
    """Attach a new file, in the format STORAGE_VERSION, to a locked instance under a name."""
    with translated(path):
        new = f"TYPE duckdb, STORAGE_VERSION '{STORAGE_VERSION}', {options}"
        connection.execute(f"ATTACH {literal(reached(path))} AS {quoted(name)} ({new})")


def _attached(
    path: Path, connection: duckdb.DuckDBPyConnection, options: str, older: bool
) -> duckdb.DuckDBPyConnection:
    with closed_on_error(connection):
        add_run(connection, path, CATALOG, options, older=older)
        connection.execute(f"USE {CATALOG}")
    return connection


def reached(path: Path) -> Path:
    """The resolved, absolute path: DuckDB keeps its log next to a link's target, and takes the part of a relative path
    before a colon for a database type.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links: reported later as a missing file
        return path.absolute()


def literal(text: object) -> str:
    """A path or a name as SQL text."""
    return "'" + str(text).replace("'", "''") + "'"


@functools.cache
def _spill() -> str:
    """A folder of this process, readable only by its user; deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="nfinspect-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of DuckDB and of the system about `path` into one-line StoreErrors."""
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
            "that was opened in it: wait until it has finished, or end it"
        )
    if any(sign in lowered for sign in DAMAGE):
        return NotARun(f"{path} is not a run file, or is damaged: {text}")
    if "read-only file system" in lowered or "permission denied" in lowered:
        return StorageFull(f"cannot write {path}: {text}")
    return StoreError(f"{path}: {text}")


def first_line(error: BaseException) -> str:
    """The first line of DuckDB's message, without its advice and caret lines."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def query_message(error: BaseException) -> str:
    """What DuckDB says of a statement; for a damaged file, that the file is at fault."""
    text = first_line(error)
    if "corrupt database" in text.lower():
        return f"the run file is damaged: {text} (nfinspect verify RUN says more)"
    return text


@contextmanager
def query_errors() -> Iterator[None]:
    """Turn DuckDB's errors about a statement into one-line QueryErrors."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise QueryError("the query was cancelled") from error
    except duckdb.Error as error:
        raise QueryError(query_message(error)) from error
