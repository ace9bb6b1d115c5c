"""A finished run, open for reading. Any number of processes may read the same file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from nfinspect_store.connect import CATALOG, attach, query_errors, translated
from nfinspect_store.errors import NotARun, SchemaTooNew, StoreError
from nfinspect_store.migrations import SCHEMA_VERSION, migrate
from nfinspect_store.tables import RunTables

FILE_HEADERS = 3 * 4096
"""Bytes before the first block of a DuckDB file."""


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
            _refuse_cut_short(path, connection)
            version = _version(path, connection)
        except BaseException:
            connection.close()
            raise
        if version < SCHEMA_VERSION:
            connection.close()
            with translated(path):
                upgrading = attach(path, read_only=False)
                try:
                    migrate(upgrading, version)
                finally:
                    upgrading.close()
            connection = attach(path, read_only=True)
        return cls(path, connection)

    @property
    def name(self) -> str:
        return self.path.stem

    def sql(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> duckdb.DuckDBPyConnection:
        """The result of a statement, to be fetched as rows, numpy, Arrow or pandas. Raises QueryError."""
        with query_errors():
            return self.cursor().execute(query, parameters)

    def interrupt(self) -> None:
        """Cancel whatever statement this run's main connection is busy with."""
        self._connection.interrupt()

    def require_tokens(self) -> None:
        """Raises StoreError for a run whose capture was cut short before anything was recorded."""
        if self.info.status != "complete" and not self.tokens:
            raise StoreError(
                f"{self.name} holds nothing yet: its capture was cut short; the same capture line plus --resume goes on"
            )

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _refuse_cut_short(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """A file that was not copied whole would fail only where its missing end is read.

    Only used blocks count: DuckDB cuts free ones off the end of a file and goes on counting them.
    """
    if path.with_name(path.name + ".wal").exists():
        return  # what is in the log is not yet in the file
    query = f"SELECT {FILE_HEADERS} + block_size * used_blocks FROM pragma_database_size() WHERE database_name = ?"
    with translated(path):
        expected = connection.execute(query, [CATALOG]).fetchall()[0][0]
        found = path.stat().st_size
    if found < expected:
        raise NotARun(f"{path} is damaged: expected at least {expected} bytes, found {found}; copy it again")


def _version(path: Path, connection: duckdb.DuckDBPyConnection) -> int:
    with translated(path):
        try:
            rows = connection.execute("SELECT schema_version FROM run").fetchall()
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise NotARun(f"{path} is a DuckDB file, but no run of nfinspect: it has no table run") from error
    if not rows or not isinstance(rows[0][0], int):
        raise NotARun(f"{path} holds no run: the capture that made it stopped before its first segment; delete it")
    if rows[0][0] > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {rows[0][0]}, this nfinspect reads up to {SCHEMA_VERSION}: upgrade nfinspect"
        )
    return int(rows[0][0])
