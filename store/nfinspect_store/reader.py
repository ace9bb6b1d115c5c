"""A finished run, open for reading. Any number of processes may read the same file."""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from nfinspect_store.addresses import Address
from nfinspect_store.connect import CATALOG, attach, closed_on_error, query_errors, translated
from nfinspect_store.contents import check_contents
from nfinspect_store.cut_short import refuse_cut_short
from nfinspect_store.errors import NotARun, PartLost, QueryError, StoreError
from nfinspect_store.open_parts import with_parts
from nfinspect_store.run_values import RunValues
from nfinspect_store.tables import RunTables

STREAMING_MEMORY = "1GB"
"""DuckDB's memory limit while values are streamed. By default it keeps what it reads until 80 % of the machine's memory
is full: 5.7 GB for a run of 5 GB, where 1.8 GB suffice and take no longer."""

SMALL = 256 * 2**20
"""Bytes up to which a file's values may stay in memory: creating a second instance for streaming them would take longer
than most streams."""


class RunFile(RunTables):
    """One run, read-only. Threads may share it: every method takes a cursor of its own."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        streaming = self._streaming_connection if path.stat().st_size > SMALL else None
        super().__init__(connection, streaming=streaming)
        self.path = path
        self._second: duckdb.DuckDBPyConnection | None = None
        self._whole: duckdb.DuckDBPyConnection | None = None  # the run with its parts
        self._second_whole: duckdb.DuckDBPyConnection | None = None
        self._streaming_memory = STREAMING_MEMORY
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, *, streaming_memory: str = STREAMING_MEMORY) -> Self:
        """Open a run. streaming_memory: DuckDB's limit while values are streamed.

        Raises RunNotFound, NotARun (also if changed or damaged), RunBusy, SchemaTooNew, SchemaTooOld.
        """
        path = Path(path)
        before = path.stat().st_size if path.exists() else 0
        with closed_on_error(attach(path)) as connection:
            refuse_cut_short(path, connection, before)
            with translated(path):
                check_contents(connection, path)
                run = cls(path, connection)
                run._streaming_memory = streaming_memory
                return run

    @property
    def name(self) -> str:
        return self.path.stem

    def sql(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> duckdb.DuckDBPyConnection:
        """The result of a statement, to be fetched as rows, numpy, Arrow or pandas. Raises QueryError."""
        cursor, lost = self.cursor(), None
        if self.attached:
            try:
                cursor = self._with_parts().cursor()
                cursor.execute(f"USE {CATALOG}")
            except PartLost as error:  # all but the values can be asked for
                lost = error
        try:
            with query_errors():
                return cursor.execute(query, parameters)
        except QueryError as error:
            if lost is not None and any(part.name in str(error) for part in self.attached):
                raise QueryError(str(lost)) from error
            raise

    def check_parts(self) -> None:
        """Raises PartLost for a run whose values are in parts, if one of them cannot be read or was changed."""
        if self.attached:
            self._with_parts()

    def _holders(self) -> Sequence[tuple[RunValues, int]]:
        if not self.attached:
            return super()._holders()
        self.check_parts()
        return self._parts

    @cached_property
    def _parts(self) -> tuple[tuple[RunTables, int], ...]:
        connection = self._with_parts()
        streaming = self._streaming_parts if sum(part.bytes for part in self.attached) > SMALL else None
        return tuple(
            (RunTables(connection, catalog=part.name, streaming=streaming), part.first_token) for part in self.attached
        )

    def _with_parts(self) -> duckdb.DuckDBPyConnection:
        """To the run with its parts, opened on first use: whoever asks for no values does without them."""
        parts = self.attached
        if sum(part.tokens for part in parts) != self.tokens or any(layer.experts for layer in self.layers):
            raise NotARun(f"{self.path} is damaged: its parts cannot hold the values of its neurons and tokens")
        with self._lock:
            if self._whole is None:
                self._whole = with_parts(self.path, parts)
            return self._whole

    def _streaming_parts(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._second_whole is None:
                self._second_whole = with_parts(self.path, self.attached, memory=self._streaming_memory)
            return self._second_whole

    def require_tokens(self) -> None:
        """Raises StoreError for a run whose capture was cut short before anything was recorded."""
        if self.info.status != "complete" and not self.tokens:
            raise StoreError(
                f"{self.name} holds nothing yet: its capture was cut short; repeat it with --resume to continue"
            )

    def marked(self, name: str = "marked") -> tuple[Address, ...]:
        """The neurons of this run in a set of its store (`<store>/marks.jsonl`), in order of marking.

        name: of the set, such as "hot" or "@hot"; "marked": those marked in the app. Raises RequestError for a set
        without a neuron of this run, StoreError for a file of marks that cannot be read.
        """
        return self.marked_and_absent(name)[0]

    def marked_and_absent(self, name: str) -> tuple[tuple[Address, ...], int]:
        """As `marked`; and how many neurons of the set are at sites or layers that this run does not have."""
        from nfinspect_store.marks import Subject
        from nfinspect_store.marks_file import set_of

        layers = {(layer.site, layer.layer): layer.neurons for layer in self.layers}
        return set_of(self.path.parent, Subject.of(self.info, self.name), layers, name)

    def _streaming_connection(self) -> duckdb.DuckDBPyConnection:
        """To a second DuckDB instance, opened on first use: a memory limit applies to a whole instance."""
        with self._lock:
            if self._second is None:
                self._second = attach(self.path, memory=self._streaming_memory)
            return self._second

    def close(self) -> None:
        self._connection.close()
        with self._lock:
            for other in (self._second, self._whole, self._second_whole):
                if other is not None:
                    other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
