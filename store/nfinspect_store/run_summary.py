"""What the list of runs shows of each closed run file, and the cache that saves opening all of them."""

import contextlib
import datetime as dt
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nfinspect_store.attached import attached_parts
from nfinspect_store.edits import UNREADABLE, edits_text
from nfinspect_store.errors import NfinspectError, NotARun, RunBusy
from nfinspect_store.part_settings import SHARD
from nfinspect_store.small_files import is_utf8, read_small

if TYPE_CHECKING:
    import duckdb

CACHE_NAME = ".nfinspect-runs.json"
CACHE_VERSION = 3

READ_FACTS = """
SELECT status, model, created_at, settings, (SELECT count(*) FROM run_file.main.tokens) FROM run_file.main.run
"""


@dataclass(frozen=True)
class Facts:
    """A run file's own facts."""

    status: str
    model: str
    created_at: dt.datetime | None
    tokens: int | None
    problem: str | None
    edits: str = ""  # of the model, in one line
    is_part: bool = False  # of a capture
    parts: tuple[str, ...] = ()  # in which its values are, each a path from its folder


class FactsCache:
    """Facts by file, read once per version of the file. Leaving the `with` block saves them.

    A version is the size and modification time of the file and of its write-ahead log. A store that cannot be written
    (a colleague's, read-only) is listed all the same, only slower.
    """

    def __init__(self, store: Path | None) -> None:
        """store: None keeps nothing."""
        self._store = store if store is not None and store.is_dir() else None
        self._file = self._store / CACHE_NAME if self._store is not None else None
        self._known = self._load()
        self._seen: dict[str, dict[str, Any]] = {}
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._reachable: set[Path] = set()

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
        """What the file at `path` says of itself; `problem` is set for a file that is not a run. Raises RunBusy."""
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
            status, model, created_at, settings, tokens = self._row(path)
        except RunBusy:
            raise
        except NfinspectError as error:
            return Facts("", "", None, None, str(error))
        if not isinstance(created_at, dt.datetime) or created_at.year >= dt.MAXYEAR:  # 'infinity', or before year 1
            problem = f"{path} is not a run, or is damaged: its time of creation is missing or impossible"
            return Facts("", "", None, None, problem)
        told = _settings(settings)
        edits = UNREADABLE if told is None else edits_text(told)
        parts = tuple(part.told for part in attached_parts(told or {}))
        return Facts(status or "", model or "", created_at, tokens, None, edits, SHARD in (told or {}), parts)

    def _row(self, path: Path) -> tuple[Any, ...]:
        """READ_FACTS of a file. One in-memory instance attaches runs in turn: one each would cost ten times as much."""
        # importing duckdb takes 0.1 s: not spent where the cache knows everything
        from nfinspect_store.connect import CATALOG, add_run, translated

        connection = self._reaching(path)
        # No function is called here, so it does not matter whether the file has macros.
        add_run(connection, path, CATALOG, older=True, macros=False)
        try:
            with translated(path):
                row: tuple[Any, ...] = connection.execute(READ_FACTS).fetchall()[0]
                return row
        except (ValueError, OverflowError) as error:  # a time that Python cannot represent
            raise NotARun(f"{path} is not a run, or was changed: {error}") from error
        finally:
            connection.execute(f"DETACH {CATALOG}")

    def _reaching(self, path: Path) -> "duckdb.DuckDBPyConnection":
        """The DuckDB instance, which can attach the run files of the store and this one."""
        from nfinspect_store.connect import locked

        if self._connection is None or path not in self._reachable:
            if self._connection is not None:
                self._connection.close()
            others = self._store.glob("*.duckdb") if self._store is not None else ()
            self._reachable = {path, *filter(is_utf8, others)}
            self._connection = locked(self._reachable)
        return self._connection

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._file is None:
            return {}
        try:
            content = json.loads(read_small(self._file))
            runs = content["runs"] if content["version"] == CACHE_VERSION else {}
            return {name: run for name, run in runs.items() if isinstance(run, dict) and "file" in run}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def _settings(text: object) -> dict[str, Any] | None:
    try:
        found = json.loads(str(text or "{}"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _to_json(facts: Facts) -> dict[str, Any]:
    return {**asdict(facts), "created_at": facts.created_at.isoformat() if facts.created_at else None}


def _from_json(stored: dict[str, Any]) -> Facts:
    """Raises KeyError, TypeError or ValueError for what we never write: the store may be a stranger's."""
    names = ("status", "model", "created_at", "tokens", "edits", "is_part", "parts")
    status, model, created, tokens, edits, is_part, parts = (stored[name] for name in names)
    texts = (status, model, edits, *parts)
    if not all(isinstance(text, str) for text in texts) or type(tokens) is not int or type(is_part) is not bool:
        raise TypeError("expected the facts of a run")
    at = dt.datetime.fromisoformat(created) if created else None
    facts = Facts(status, model, at, tokens, None, edits, is_part, tuple(parts))
    if facts.created_at is not None and facts.created_at.tzinfo is not None:
        raise ValueError("a time with a zone")
    return facts


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
