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
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from nfinspect_store.atomic import check_place, replaced
from nfinspect_store.connect import CATALOG, add_result, create, locked, settled_state, translated
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
    "walk": 1,
}
"""Formats of the kinds for which callers give none: raise one when its document, its tables or the meaning of a figure
changes. A result saved in another format is treated as absent."""

REMEMBERED = 32 * 2**20
"""Characters of settings and documents up to which results that were read are kept in memory, where they take about
three bytes each."""

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
        found = next(iter(_readable([path], {} if in_format is None else {kind: in_format})), None)
    except StoreError:  # a name that cannot be opened
        return None
    if found is None:  # damaged, or in another format: the caller recomputes it
        return None
    return found if found.run_id == run_id and found.settings == json.loads(_json(settings)) else None


def list_results(
    folder: Path, run_id: str | None = None, kind: str | None = None, formats: Mapping[str, int] | None = None
) -> tuple[Result, ...]:
    """The saved results in a folder, by kind, the newest first; of one run or kind if given.

    formats: of kinds that are not in FORMATS. Damaged results and those in other formats are left out.
    """
    paths = sorted(filter(is_utf8, folder.glob(f"{kind or '*'}-*.duckdb"))) if folder.is_dir() else []
    found = [result for result in _readable(paths, formats or {}) if run_id in (None, result.run_id)]
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


@dataclass(frozen=True)
class _Read:
    """A result as it is in its file. text: characters of its settings and document."""

    result: Result
    in_format: int
    text: int


_remembered: OrderedDict[tuple[Path, tuple[int, ...]], _Read] = OrderedDict()
"""The results that this process has read, by path and `settled_state`; those last asked for are last."""

_remembering = threading.Lock()


def _readable(paths: Iterable[Path], formats: Mapping[str, int]) -> list[Result]:
    """The results in these files, in their order, except damaged ones and those in other formats.

    A file that has not changed is not read again: that takes as long as a page of a table may.
    """
    states = {path: settled_state(path) for path in paths}
    with _remembering:
        known = {path: read for path, state in states.items() if (read := _recall(path, state)) is not None}
    unread = [path for path in states if path not in known]
    if unread:
        # One instance for all of them: creating one takes longer than reading a result.
        with locked(unread, threads=1) as connection:
            for path in unread:
                with suppress(StoreError):
                    known[path] = _read(connection, path)
                    _remember(path, states[path], known[path])
    every = (known[path] for path in states if path in known)
    return [read.result for read in every if read.in_format == _format(read.result.kind, formats.get(read.result.kind))]


def _recall(path: Path, state: tuple[int, ...]) -> _Read | None:
    found = _remembered.get((path, state)) if state else None
    if found is not None:
        _remembered.move_to_end((path, state))
    return found


def _remember(path: Path, state: tuple[int, ...], read: _Read) -> None:
    if not state or read.text > REMEMBERED:
        return
    with _remembering:
        for place in [place for place in _remembered if place[0] == path]:
            del _remembered[place]
        _remembered[path, state] = read
        while sum(one.text for one in _remembered.values()) > REMEMBERED:
            _remembered.popitem(last=False)


def _read(connection: duckdb.DuckDBPyConnection, path: Path) -> _Read:
    with _attached(connection, path):
        rows = connection.execute(f"FROM {CATALOG}.main.result LIMIT 2").fetchall()
    if len(rows) != 1:
        raise StoreError(f"{path} holds no result, or more than one: delete it")
    kind, settings, document, run_id, made_at, made_by, made_in = rows[0]
    if kind is None or made_at is None or made_by is None:
        raise StoreError(f"{path} lacks its kind, its time or the version that wrote it: delete it")
    asked, found = _object(path, settings), _object(path, document)
    result = Result(kind, asked, found, run_id, made_at, made_by, path)
    return _Read(result, made_in, len(settings) + len(document))


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
