"""Opens the parts that hold a run's values, in one DuckDB instance, and knows them again (attached.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from nfinspect_store.attached import AttachedPart, contents_digest
from nfinspect_store.connect import CATALOG, add_run, locked, translated
from nfinspect_store.contents import check_contents
from nfinspect_store.errors import NotARun, PartLost, RunBusy, StoreError
from nfinspect_store.schema import quoted

READ_LAYERS = "SELECT layer_id, site, layer, neurons, activation, fires FROM {}.main.layers ORDER BY layer_id"


def with_parts(path: Path, parts: Sequence[AttachedPart], *, memory: str | None = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the run at `path`, its default catalog, and to the parts that hold its values, each
    under its name. Raises PartLost, and what connect.attach raises.
    """
    connection = locked([path, *(part.path(path) for part in parts)], memory=memory)
    try:
        add_run(connection, path, CATALOG)
        attach_parts(connection, path, CATALOG, parts)
        connection.execute(f"USE {CATALOG}")
    except BaseException:
        connection.close()
        raise
    return connection


def runs_together(runs: Mapping[str, Path], *, memory: str) -> duckdb.DuckDBPyConnection:
    """A read-only connection to several runs, each under its name; the default catalog is none of them. Raises what
    connect.attach raises.
    """
    connection = locked(runs.values(), memory=memory)
    try:
        for name, path in runs.items():
            add_run(connection, path, name)
    except BaseException:
        connection.close()
        raise
    return connection


def attach_parts(connection: duckdb.DuckDBPyConnection, run: Path, catalog: str, parts: Sequence[AttachedPart]) -> None:
    """Attach the parts of the run at `run`, attached as `catalog`, to a locked instance that can reach them. Raises
    PartLost for one that is missing, cannot be read, or is another than it was.
    """
    for part in parts:
        path = part.path(run)
        if problem := part.problem(run):
            raise _lost(run, problem)
        try:
            add_run(connection, path, part.name)
            with connection.cursor() as cursor, translated(path):
                layers = [cursor.execute(READ_LAYERS.format(quoted(name))).fetchall() for name in (catalog, part.name)]
                cursor.execute(f"USE {quoted(part.name)}")
                if different := _different(cursor, part) or ("its layers" if layers[0] != layers[1] else ""):
                    raise NotARun(f"{path} is not as it was when it was attached: {different}")
                check_contents(cursor, path)
        except RunBusy:
            raise
        except StoreError as error:
            raise _lost(run, str(error)) from error


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
