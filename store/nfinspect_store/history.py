"""The history of a training that is being watched: `<store>/<run>.history.jsonl`, one JSON object a line.

DuckDB lets no other process read while one writes, and a training is watched while it runs: so its history is an
append-only file (docs/decisions/0006). Each line is one write, and readers take whole lines only: a killed writer costs
at most the line it was writing. Each object has one key, which says what it is: `run` (the first), `reading`, `alert`,
`end` (the last).
"""

import contextlib
import datetime as dt
import difflib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nfinspect_store.errors import NotARun, RunBusy, RunExists, RunNotFound, StorageFull
from nfinspect_store.heartbeat import Heartbeat, being_written, heartbeat_path, read_heartbeat
from nfinspect_store.names import HISTORY_SUFFIX, RUN_SUFFIX, check_name
from nfinspect_store.paths import expanded
from nfinspect_store.types import RunEntry, utc_now

SUFFIX = HISTORY_SUFFIX
FORMAT = 1
"""The version of the format, in the first line as `history_version`."""

END_BYTES = 4096
"""More bytes than the last line of a history that has ended takes."""

FIRST_BYTES = 2**20
"""More bytes than the first line takes, which has the model and the settings."""

BEAT_SECONDS = 1.0
"""Seconds between two heartbeats: each takes a millisecond of the training's time."""


def new_history_path(store: Path, name: str) -> Path:
    """The file of a history of that name, whether or not it exists. Raises BadName."""
    return store / (check_name(name) + SUFFIX)


def history_path(store: Path, name_or_path: str | Path) -> Path:
    """A history's file, given its name in the store or a path. Raises RunNotFound naming the closest names."""
    text = str(name_or_path)
    for path in (store / (text + SUFFIX), expanded(text)):
        if path.name.endswith(SUFFIX) and os.path.isfile(path):
            return path
    if "\0" not in text and (os.path.isfile(store / (text + RUN_SUFFIX)) or text.endswith(RUN_SUFFIX)):
        raise RunNotFound(f"{text} is a run, not a training history: nfinspect health {text} shows its health")
    names = list_histories(store)
    close = difflib.get_close_matches(text, names, n=3, cutoff=0.5) or names[:5]
    held = f"{store} holds {', '.join(close)}" if close else f"{store} holds none: a FiringMonitor writes them"
    raise RunNotFound(f"no training history {text!r}: {held}" + (" …" if len(names) > len(close) else ""))


def list_histories(store: Path) -> list[str]:
    """The names of the histories in a store, sorted."""
    if not os.path.isdir(store):
        return []
    return sorted(p.name.removesuffix(SUFFIX) for p in store.glob(f"*{SUFFIX}") if os.path.isfile(p))


def history_entries(store: Path) -> list[RunEntry]:
    """The histories of a store as lines of the list of runs. Only their first and last lines are read."""
    return [_entry(store / (name + SUFFIX), name) for name in list_histories(store)]


def delete_history(path: Path) -> None:
    """Delete a history. Raises RunBusy while its training runs, RunNotFound, StorageFull."""
    if being_written(path):
        raise RunBusy(f"{path.name.removesuffix(SUFFIX)} is being trained and watched: end the training first")
    try:
        path.unlink()
        heartbeat_path(path).unlink(missing_ok=True)
    except FileNotFoundError:
        raise RunNotFound(f"no training history at {path}") from None
    except OSError as error:
        raise StorageFull(f"cannot delete {path}: {error.strerror or error}") from error


_EXISTS = "a training history {} already exists: choose another run name, or resume it"


class HistoryWriter:
    """Appends lines. One process writes; a heartbeat file next to the history says that it is alive."""

    def __init__(self, path: Path, model: str, *, resume: bool = False) -> None:
        """Raises RunExists for an existing history unless `resume`; RunBusy, StorageFull."""
        self.path = path
        if being_written(path):
            raise RunBusy(f"{path.name.removesuffix(SUFFIX)} is being written by another monitor: end it first")
        if path.exists() and not resume:
            raise RunExists(_EXISTS.format(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _cut_torn_line(path)
            # O_EXCL: only one process creates a new history, even if two try at once.
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | (0 if resume else os.O_EXCL), 0o644)
        except FileExistsError:
            raise RunExists(_EXISTS.format(path)) from None
        except OSError as error:
            raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
        try:
            self._heartbeat = Heartbeat(path, model=model, min_interval=0.0)
        except BaseException:
            os.close(self._file)
            raise
        self._next_beat = 0.0

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        """Append a line. Raises StorageFull; earlier lines stay intact."""
        line = (json.dumps({kind: content}, allow_nan=False) + "\n").encode()
        try:
            start = os.fstat(self._file).st_size
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, start)
                raise StorageFull(f"cannot write {self.path}: the disk is full")
        except OSError as error:
            raise StorageFull(f"cannot write {self.path}: {error.strerror or error}") from error

    def beat(self, step: int) -> None:
        """Record that the writer is alive. Never raises."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._heartbeat.beat(tokens_done=step, phase="training")

    def give_up(self) -> None:
        """Close the history, and delete it if it has no line."""
        self.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                self.path.unlink()

    def close(self) -> None:
        try:
            self._heartbeat.remove()
        finally:
            os.close(self._file)


class HistoryFile:
    """Reads a history while it grows: `new_lines` yields what was added since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def new_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, content) of each whole line not yielded before; malformed lines are skipped.

        Raises RunNotFound for a file that cannot be read, NotARun for one that does not begin as a history or is empty
        with no live writer.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError as error:
            raise RunNotFound(f"cannot read {self.path}: {error.strerror or error}") from error
        if not data and self._offset == 0 and not self.is_written():
            raise NotARun(f"expected a training history, found an empty file: {self.path}")
        for line in data.split(b"\n")[:-1]:
            found = _parsed(line)
            if self._offset == 0 and (found is None or found[0] != "run"):
                raise NotARun(f"expected a training history, found another file: {self.path}")
            self._offset += len(line) + 1
            if found is not None:
                yield found

    def is_written(self) -> bool:
        """Whether the process that writes it is alive."""
        beat = read_heartbeat(self.path)
        return beat is not None and beat.alive


def timestamp() -> str:
    """Now in UTC, in the format of the lines."""
    return utc_now().isoformat(timespec="milliseconds")


def _parsed(line: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or len(found) != 1:
        return None
    ((kind, content),) = found.items()
    return (kind, content) if isinstance(content, dict) else None


def _entry(path: Path, name: str) -> RunEntry:
    try:
        with path.open("rb") as file:
            first = _parsed(file.readline(FIRST_BYTES))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - END_BYTES))
            last = _parsed(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except OSError as error:
        return RunEntry(name, path, "", "", None, None, 0, None, f"cannot read it: {error.strerror}", "history")
    if first is None or first[0] != "run":
        return RunEntry(name, path, "", "", None, None, size, None, "it does not begin as a history", "history")
    facts = first[1]
    try:
        created = dt.datetime.fromisoformat(str(facts.get("created_at")))
        created = created.astimezone(dt.UTC).replace(tzinfo=None) if created.tzinfo else created
    except (ValueError, OverflowError):
        created = None
    beat = read_heartbeat(path)
    progress = beat if beat is not None and beat.alive else None
    ended = str(last[1].get("status")) if last is not None and last[0] == "end" else "interrupted"
    status = "capturing" if progress else ended
    return RunEntry(name, path, status, str(facts.get("model", "")), created, None, size, progress, kind="history")


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
