"""Several runs in one DuckDB instance: parts that are merged, and those that hold a run's values (attached.py)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from nfinspect_store.attached import AttachedPart, contents_digest
from nfinspect_store.connect import CATALOG, add_run, add_runs, closed_on_error, locked, translated
from nfinspect_store.contents import check_contents
from nfinspect_store.cut_short import refuse_cut_short
from nfinspect_store.errors import NotARun, PartLost, RunBusy, StoreError
from nfinspect_store.memory import memory_for
from nfinspect_store.schema import quoted
from nfinspect_store.tables import RunTables

READ_LAYERS = "SELECT layer_id, site, layer, neurons, activation, fires FROM {}.main.layers ORDER BY layer_id"

OPEN_TOGETHER = 64
"""Runs that are open at a time where nothing needs them all: some systems let a process open 256 files [own]."""


class OpenRun(RunTables):
    """One of several runs in one DuckDB instance, read-only."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, catalog: str) -> None:
        super().__init__(connection, streaming=lambda: connection, catalog=catalog)  # its memory is limited
        self.path = path

    @property
    def name(self) -> str:
        return self.path.stem


Each = Callable[[], Iterator[OpenRun]]
"""Goes through some runs, in order. Each is open until the next one is asked for, at least."""


@contextmanager
def runs_together(paths: Sequence[Path], *, widest: int = 0, most: int = OPEN_TOGETHER) -> Iterator[Each]:
    """Yields what goes through these runs, none of which is there twice, any number of times.

    As many as `most` are opened once, in one DuckDB instance, which takes a fifth of the time; of more, so many at a
    time. widest: neurons of the widest layer. Raises what RunFile.open does, then or in going through them.
    """
    memory = memory_for(widest)
    if len(paths) <= most:
        with _opened(paths, memory) as each:
            yield each
        return

    def in_turn() -> Iterator[OpenRun]:
        for start in range(0, len(paths), most):
            with _opened(paths[start : start + most], memory) as each:
                yield from each()

    yield in_turn


@contextmanager
def _opened(paths: Sequence[Path], memory: str) -> Iterator[Each]:
    """The same of runs that are all open meanwhile."""
    runs = {f"run_{number}": path for number, path in enumerate(paths)}
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    with locked(paths, memory=memory) as connection:
        add_runs(connection, runs)
        for (name, path), size in zip(runs.items(), sizes, strict=True):
            with connection.cursor() as cursor, translated(path):
                cursor.execute(f"USE {quoted(name)}")
                refuse_cut_short(path, cursor, size, catalog=name)
                check_contents(cursor, path)
        yield lambda: (OpenRun(path, connection, name) for name, path in runs.items())


def with_parts(path: Path, parts: Sequence[AttachedPart], *, memory: str | None = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the run at `path`, its default catalog, and to the parts that hold its values, each
    under its name. Raises PartLost, and what connect.attach raises.
    """
    with closed_on_error(locked([path, *(part.path(path) for part in parts)], memory=memory)) as connection:
        add_run(connection, path, CATALOG)
        attach_parts(connection, path, CATALOG, parts)
        connection.execute(f"USE {CATALOG}")
    return connection


def attach_parts(connection: duckdb.DuckDBPyConnection, run: Path, catalog: str, parts: Sequence[AttachedPart]) -> None:
    """Attach the parts of the run at `run`, attached as `catalog`, to a locked instance that can reach them. Raises
    PartLost for one that is missing, cannot be read, or is another than it was; then none is attached.
    """
    for part in parts:
        if problem := part.problem(run):
            raise _lost(run, problem)
    try:
        add_runs(connection, {part.name: part.path(run) for part in parts})
        try:
            _check_parts(connection, run, catalog, parts)
        except BaseException:
            for part in parts:
                with suppress(duckdb.Error):
                    connection.execute(f"DETACH {quoted(part.name)}")
            raise
    except RunBusy:
        raise
    except StoreError as error:
        raise _lost(run, str(error)) from error


def _check_parts(connection: duckdb.DuckDBPyConnection, run: Path, catalog: str, parts: Sequence[AttachedPart]) -> None:
    """Raises NotARun for an attached part that is not what the run says of it."""
    layers = connection.execute(READ_LAYERS.format(quoted(catalog))).fetchall()
    for part in parts:
        path = part.path(run)
        with connection.cursor() as cursor, translated(path):
            cursor.execute(f"USE {quoted(part.name)}")
            same = layers == cursor.execute(READ_LAYERS.format(quoted(part.name))).fetchall()
            if different := _different(cursor, part) or ("" if same else "its layers"):
                raise NotARun(f"{path} is not as it was when it was attached: {different}")
            check_contents(cursor, path)


def _different(cursor: duckdb.DuckDBPyConnection, part: AttachedPart) -> str:
    """In what a part differs from what the run says of it; empty if in nothing."""
    run_id, tokens = cursor.execute("SELECT run_id, (SELECT count(*) FROM tokens) FROM run").fetchall()[0]
    if run_id != part.run_id:
        return "it is another run"
    return "its contents" if tokens != part.tokens or contents_digest(cursor) != part.digest else ""


def _lost(run: Path, reason: str) -> PartLost:
    return PartLost(
        f"{run.stem} keeps its values in parts, and one of them cannot be read: {reason}. Put it back, or attach the "
        f"parts where they are: nfinspect merge {run.stem} PART… --attach"
    )
