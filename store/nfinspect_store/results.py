"""Saved results of long analyses, each in a file of its own next to the run, with the settings it was computed for.

A result is a small DuckDB file: its table `result` has one row, with the settings and the JSON document that the
command prints; data too long for a document are in further tables. Files appear once complete: cancelled work leaves
nothing behind. A result is found only by its settings, the run's id (so a run captured again finds no old results) and
the format of its kind (so a version with other fields or figures computes its own).
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from nfinspect_store.atomic import check_place, replaced
from nfinspect_store.connect import CATALOG, add_result, create, locked, translated
from nfinspect_store.errors import StorageFull, StoreError
from nfinspect_store.names import MODEL_SUFFIX
from nfinspect_store.schema import RESULT_TABLE, quoted
from nfinspect_store.small_files import is_utf8
from nfinspect_store.types import utc_now

SUFFIX = ".results"

_OURS = re.compile(r"[\w+-]+-[0-9a-f]{10}\.duckdb(\.wal)?|\..*\.nfinspect-.*|prompts\.jsonl|marked\.txt")
"""Our files in a folder of results: results, unfinished ones, and the files that the app passes to commands."""

BLOCK_SIZE = 16384
"""DuckDB's smallest, in bytes: small tables then take little space."""

FORMATS: Mapping[str, int] = {
    "perplexity": 1,
    "substitution": 1,
}
"""Formats of the kinds for which callers give none: raise one when its document, its tables or the meaning of a figure
changes. A result saved in another format is treated as absent."""

READ_NAMES = f"SELECT table_name FROM duckdb_tables() WHERE database_name = '{CATALOG}' ORDER BY ALL"


@dataclass(frozen=True)
class Result:
    """A saved result. document: as `--json` prints it; settings: what was asked for, as JSON values."""

    kind: str
    settings: Mapping[str, Any]
    document: Mapping[str, Any]
    run_id: str | None
    made_at: dt.datetime  # UTC, without a zone
    nfinspect_version: str
    path: Path

    def table(self, name: str) -> pa.Table:
        """A table saved with the document. Raises StoreError if there is none of that name."""
        with locked([self.path], threads=1) as connection, _attached(connection, self.path):
            names = [row[0] for row in connection.execute(READ_NAMES).fetchall()]
            if name not in names:
                raise StoreError(f"{self.path} has no table {name}: it has {', '.join(names)}")
            return connection.sql(f"FROM {CATALOG}.main.{quoted(name)}").to_arrow_table()


def run_results(run: Path) -> Path:
    """The folder of a run's results. run: the run's file."""
    return run.with_name(run.name.removesuffix(".duckdb") + SUFFIX)


def model_results(store: Path, model: str) -> Path:
    """The folder in a store for results about a model that belong to no run. Models whose names differ only before the
    last slash share it.
    """
    name = re.sub(r"[^\w.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.") or "model"
    return store / f"{name[:80]}{MODEL_SUFFIX}{SUFFIX}"


def check_keeping(folder: Path) -> None:
    """Raises StorageFull if no result can be saved in this folder: call it before the work."""
    try:
        check_place(folder / "result" if folder.exists() else folder)
    except StorageFull as error:
        raise StorageFull(f"{error}; results are saved there: copy the run to a place that can be written") from error


def keep_result(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    document: Mapping[str, Any],
    *,
    run_id: str | None,
    tables: Mapping[str, pa.Table] | None = None,
    in_format: int | None = None,
) -> Result:
    """Save a result; it replaces an earlier one of the same kind and settings. Raises StorageFull.

    settings, document: JSON values (no NaN). in_format: the kind's format, by default from FORMATS, else 1.
    """
    path = _place(folder, kind, settings)
    made_at = utc_now()
    text = json.dumps(document, allow_nan=False)
    row = [kind, _json(settings), text, run_id, made_at, _version(), _format(kind, in_format)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(f"cannot make {folder}: {error.strerror or error}") from error
    with (
        replaced(path) as temporary,
        create(temporary, options=f"BLOCK_SIZE {BLOCK_SIZE}") as connection,
        translated(path),
    ):
        connection.execute(RESULT_TABLE)
        connection.execute("INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        for name, table in (tables or {}).items():
            connection.register("incoming", table)
            connection.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM incoming")
            connection.unregister("incoming")
        connection.execute("CHECKPOINT")
    return Result(kind, json.loads(_json(settings)), json.loads(text), run_id, made_at, _version(), path)


def find_result(
    folder: Path, kind: str, settings: Mapping[str, Any], run_id: str | None, in_format: int | None = None
) -> Result | None:
    """The saved result of exactly these settings, this run and this format; None if there is none that can be read."""
    path = _place(folder, kind, settings)
    if not path.is_file():
        return None
    try:
        with locked([path], threads=1) as connection:
            found = _read(connection, path, {} if in_format is None else {kind: in_format})
    except StoreError:  # damaged, or in another format: the caller recomputes it
        return None
    return found if found.run_id == run_id and found.settings == json.loads(_json(settings)) else None


def list_results(
    folder: Path, run_id: str | None = None, kind: str | None = None, formats: Mapping[str, int] | None = None
) -> tuple[Result, ...]:
    """The saved results in a folder, by kind, the newest first; of one run or kind if given.

    formats: of kinds that are not in FORMATS. Damaged results and those in other formats are left out.
    """
    paths = sorted(filter(is_utf8, folder.glob(f"{kind or '*'}-*.duckdb"))) if folder.is_dir() else []
    if not paths:
        return ()
    found = []
    # One instance for all of them: creating one takes longer than reading a result.
    with locked(paths, threads=1) as connection:
        for path in paths:
            try:
                result = _read(connection, path, formats or {})
            except StoreError:
                continue
            if run_id is None or result.run_id == run_id:
                found.append(result)
    return tuple(sorted(found, key=lambda r: (r.kind, -r.made_at.timestamp())))


def delete_results(folder: Path) -> None:
    """Delete a folder of results, if it exists, except files in it that nfinspect did not write."""
    if not folder.is_dir() or folder.is_symlink() or not folder.name.endswith(SUFFIX):
        return
    for file in folder.iterdir():
        if _OURS.fullmatch(file.name) and (file.is_symlink() or not file.is_dir()):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        folder.rmdir()


def _place(folder: Path, kind: str, settings: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(_json(settings).encode()).hexdigest()[:10]
    return folder / f"{kind}-{key}.duckdb"


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, allow_nan=False)


@contextmanager
def _attached(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[None]:
    """A saved result as CATALOG of a locked instance that can reach it."""
    add_result(connection, path)
    try:
        with translated(path):
            yield
    finally:
        connection.execute(f"DETACH {CATALOG}")


def _read(connection: duckdb.DuckDBPyConnection, path: Path, formats: Mapping[str, int]) -> Result:
    with _attached(connection, path):
        rows = connection.execute(f"FROM {CATALOG}.main.result LIMIT 2").fetchall()
    if len(rows) != 1:
        raise StoreError(f"{path} holds no result, or more than one: delete it")
    kind, settings, document, run_id, made_at, made_by, made_in = rows[0]
    if kind is None or made_at is None or made_by is None:
        raise StoreError(f"{path} lacks its kind, its time or the version that wrote it: delete it")
    read = _format(kind, formats.get(kind))
    if made_in != read:
        raise StoreError(f"{path} is in format {made_in}, expected {read}: it has to be recomputed")
    return Result(kind, _object(path, settings), _object(path, document), run_id, made_at, made_by, path)


def _object(path: Path, text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds no JSON object as its settings or its document: delete it")
    return found


def _format(kind: str, told: int | None) -> int:
    return FORMATS.get(kind, 1) if told is None else told


def _version() -> str:
    try:
        return version("nfinspect")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
