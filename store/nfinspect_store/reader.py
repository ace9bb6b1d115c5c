"""A finished run, open for reading. Any number of processes may read the same file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from nfinspect_store.connect import attach, query_errors, translated
from nfinspect_store.errors import NotARun, SchemaTooNew
from nfinspect_store.migrations import SCHEMA_VERSION, migrate
from nfinspect_store.tables import RunTables


class RunFile(RunTables):
    """One run, read-only. Threads may share it: every method takes a cursor of its own."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(connection)
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises RunNotFound, NotARun (no run, or damaged), RunBusy (being written), SchemaTooNew."""
        path = Path(path)
        connection = attach(path, read_only=True)
        try:
            version = _version(path, connection)
        except BaseException:
            connection.close()
            raise
        if version < SCHEMA_VERSION:
            connection.close()
            with translated(path):
                upgrading = attach(path, read_only=False)
                migrate(upgrading, version)
                upgrading.close()
            connection = attach(path, read_only=True)
        return cls(path, connection)

    @property
    def name(self) -> str:
        return self.path.stem

    def sql(
        self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """The result of a statement, to be fetched as rows, numpy, Arrow or pandas. Raises QueryError."""
        with query_errors():
            return self.cursor().execute(query, parameters)

    def interrupt(self) -> None:
        """Cancel whatever statement this run's main connection is busy with."""
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _version(path: Path, connection: duckdb.DuckDBPyConnection) -> int:
    with translated(path):
        try:
            rows = connection.execute("SELECT schema_version FROM run").fetchall()
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise NotARun(f"{path} is a DuckDB file, but no run of nfinspect: it has no table run") from error
    if not rows:
        raise NotARun(f"{path} holds no run: the capture that made it stopped before its first segment; delete it")
    if rows[0][0] > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {rows[0][0]}, this nfinspect reads up to {SCHEMA_VERSION}: upgrade nfinspect"
        )
    return int(rows[0][0])
