"""What the list of runs shows of each closed run file, and the cache that spares opening all of them."""

import contextlib
import datetime as dt
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nfinspect_store.errors import NfinspectError, NotARun, RunBusy

if TYPE_CHECKING:
    import duckdb

CACHE_NAME = ".nfinspect-runs.json"
CACHE_VERSION = 1

READ_FACTS = """
SELECT status, model, created_at, (SELECT count(*) FROM run_file.tokens), schema_version FROM run_file.run
"""


@dataclass(frozen=True)
class Facts:
    """A run file's own facts."""

    status: str
    model: str
    created_at: dt.datetime | None
    tokens: int | None
    problem: str | None


class FactsCache:
    """Facts by file, read once per version of the file. Save by leaving the `with` block.

    A version is the size and the time of change of the file and of its write-ahead log. A store that cannot
    be written (a colleague's, read-only) is listed all the same, only slower.
    """

    def __init__(self, store: Path | None) -> None:
        """store: None keeps nothing."""
        self._file = store / CACHE_NAME if store is not None and store.is_dir() else None
        self._known = self._load()
        self._seen: dict[str, dict[str, Any]] = {}
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        if error is None and self._file is not None and self._seen != self._known:
            _replace(self._file, json.dumps({"version": CACHE_VERSION, "runs": self._seen}))

    def facts(self, path: Path) -> Facts:
        """What the file at `path` says of itself; a file that is no run has a `problem`. Raises RunBusy."""
        version = _version(path)
        known = self._known.get(path.name)
        if known is not None and known["file"] == version:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                facts = _from_json(known["facts"])
                self._seen[path.name] = known
                return facts
        facts = self._read(path)
        if facts.problem is None and version == _version(path):  # a problem may go away with the next nfinspect
            self._seen[path.name] = {"file": version, "facts": _to_json(facts)}
        return facts

    def _read(self, path: Path) -> Facts:
        try:
            row = self._row(path)
        except RunBusy:
            raise
        except NfinspectError as error:
            return Facts("", "", None, None, str(error))
        if row is None:
            return Facts("", "", None, None, f"{path} holds no run: its capture stopped before anything was saved")
        from nfinspect_store.migrations import SCHEMA_VERSION

        status, model, created_at, tokens, version = row
        problem = None
        if version > SCHEMA_VERSION:
            problem = f"{path} was written by a newer nfinspect (schema {version}, this one reads {SCHEMA_VERSION})"
        return Facts(status, model, created_at, tokens, problem)

    def _row(self, path: Path) -> tuple[Any, ...] | None:
        """One in-memory database takes one run after the other: a database of its own for each costs ten
        times as much.
        """
        import duckdb  # takes 0.1 s: not spent where the cache knows everything

        from nfinspect_store.connect import translated

        if self._connection is None:
            self._connection = duckdb.connect()
        literal = "'" + str(path).replace("'", "''") + "'"
        with translated(path):
            self._connection.execute(f"ATTACH {literal} AS run_file (READ_ONLY)")
            try:
                return self._connection.execute(READ_FACTS).fetchone()
            except (duckdb.CatalogException, duckdb.BinderException) as error:
                raise NotARun(f"{path} is a DuckDB file, but no run of nfinspect: it has no table run") from error
            finally:
                self._connection.execute("DETACH run_file")

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._file is None:
            return {}
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            runs = content["runs"] if content["version"] == CACHE_VERSION else {}
            return {name: run for name, run in runs.items() if isinstance(run, dict) and "file" in run}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _to_json(facts: Facts) -> dict[str, Any]:
    return {**asdict(facts), "created_at": facts.created_at.isoformat() if facts.created_at else None}


def _from_json(stored: dict[str, Any]) -> Facts:
    created = stored["created_at"]
    return Facts(**{**stored, "created_at": dt.datetime.fromisoformat(created) if created else None})


def _version(path: Path) -> list[int]:
    numbers: list[int] = []
    for part in (path, path.with_name(path.name + ".wal")):
        try:
            status = part.stat()
        except OSError:
            numbers += [-1, -1]
        else:
            numbers += [status.st_size, status.st_mtime_ns]
    return numbers


def _replace(file: Path, content: str) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
