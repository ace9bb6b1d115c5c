"""A store: a directory of run files. Lists runs, finds a run's file by name, deletes runs.

Listing must be quick (the app's first paint waits for it), and opening a DuckDB file costs 2–20 ms. So the facts of
every closed run are kept in a small cache file, valid while the size and modification time of the run's file stay the
same; a listing from it opens no database and does not even import duckdb.
"""

import datetime as dt
import difflib
import os
import re
import stat
from pathlib import Path

from nfinspect_store.atomic import clean_leftovers
from nfinspect_store.errors import NotARun, RunBusy, RunNotFound, StorageFull, StoreError
from nfinspect_store.heartbeat import SUFFIX, HeartbeatFile, being_written, read_heartbeat_file
from nfinspect_store.history import history_entries
from nfinspect_store.names import HISTORY_SUFFIX, RUN_SUFFIX, check_name
from nfinspect_store.paths import expanded
from nfinspect_store.run_summary import Facts, FactsCache
from nfinspect_store.small_files import is_utf8, kind_of
from nfinspect_store.types import RunEntry

DEFAULT_STORE = "nfinspect-store"
ENVIRONMENT = "NFINSPECT_STORE"

_COMPANION = re.compile(r"\.heartbeat(\.\d+)?|\.wal(\.checkpoint|\.recovery)?")
"""What companions of a run file append to its name."""


def store_path(explicit: str | Path | None = None) -> Path:
    """The store: `explicit`, else $NFINSPECT_STORE, else ./nfinspect-store. It need not exist yet.

    Raises StoreError if it is a file.
    """
    path = expanded(explicit or os.environ.get(ENVIRONMENT) or DEFAULT_STORE)
    if os.path.exists(path) and not os.path.isdir(path):
        raise StoreError(
            f"expected a directory of runs, found a file: {path} (give a run file where a command takes RUN)"
        )
    return path


def new_run_path(store: Path, name: str) -> Path:
    """The file of a run of that name, whether or not it exists. Raises BadName."""
    return store / (check_name(name) + RUN_SUFFIX)


def merged_path(store: Path, name_or_path: str) -> Path:
    """The file of a run that is to be written, given its name in the store or a path. Raises BadName."""
    if "/" not in name_or_path:
        return new_run_path(store, name_or_path.removesuffix(RUN_SUFFIX))
    path = expanded(name_or_path)
    return new_run_path(path.parent, path.name.removesuffix(RUN_SUFFIX))


def run_path(store: Path, name_or_path: str | Path) -> Path:
    """A run's file, given its name in the store or a path. Raises RunNotFound naming the closest names.

    A training history is not a run: RunNotFound names the command that shows it.
    """
    text = str(name_or_path)
    in_store = store / (text + RUN_SUFFIX)
    is_name = bool(text) and "/" not in text and "\0" not in text
    if is_name and os.path.isfile(in_store):
        return in_store
    if (is_name and os.path.isfile(store / (text + HISTORY_SUFFIX))) or text.endswith(HISTORY_SUFFIX):
        raise RunNotFound(f"{text} is a training history, which holds no tokens: nfinspect watch {text} shows it")
    if os.path.isfile(expanded(text)):
        return expanded(text)
    if is_name and being_written(in_store):
        raise RunBusy(f"{text} is being captured and has nothing to read yet: wait until it has finished")
    names = run_names(store)
    close = difflib.get_close_matches(text, names, n=3, cutoff=0.5) or sorted(names)[:5]
    if not names:
        hint = (
            f"{store} holds no runs: choose another with --store, or capture one"
            if os.path.isdir(store)
            else f"there is no store at {store}"
        )
    else:
        hint = f"{store} holds {', '.join(close)}" + (" …" if len(names) > len(close) else "")
    raise RunNotFound(f"no run {text!r}: {hint}")


def list_runs(store: Path) -> list[RunEntry]:
    """Every run of the store, the newest first. Files that are not runs are listed with their problem.

    Raises StoreError if the store cannot be read. A store that does not exist holds no runs.
    """
    if os.path.exists(store) and not os.path.isdir(store):
        raise StoreError(f"expected a directory of runs, found a file: {store}")
    with FactsCache(store) as cache:
        entries = [_entry(store / (name + RUN_SUFFIX), cache) for name in run_names(store)]
    oldest = dt.datetime.min
    return sorted(
        entries,
        key=lambda e: (e.created_at is None, -((e.created_at or oldest) - oldest).total_seconds(), e.name),
    )


def list_everything(store: Path) -> list[RunEntry]:
    """Every run and every training history of the store, the newest first. Raises StoreError as `list_runs` does."""
    oldest = dt.datetime.min
    return sorted(
        [*list_runs(store), *history_entries(store)],
        key=lambda e: (e.created_at is None, -((e.created_at or oldest) - oldest).total_seconds(), e.name),
    )


def _entry(path: Path, cache: FactsCache) -> RunEntry:
    beat = read_heartbeat_file(path)
    if beat and beat.progress.alive:
        return _from_heartbeat(path, beat)
    try:
        problem = _oddity(path)
        facts = Facts("", "", None, None, problem) if problem else cache.facts(path)
    except RunBusy as error:  # a writer without a heartbeat, or one that has only just started
        return RunEntry(path.stem, path, "capturing", "", None, None, _size(path), None, str(error))
    except Exception as error:  # a file of unknown origin may spoil its own line, never the list
        problem = f"{path} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        facts = Facts("", "", None, None, problem)
    # A process that was killed, or lost with its machine, could not record that it was interrupted.
    status = "interrupted" if facts.status == "capturing" else facts.status
    return RunEntry(
        path.stem, path, status, facts.model, facts.created_at, facts.tokens, _size(path), None, facts.problem,
        edits=facts.edits, parts=facts.parts,
    )  # fmt: skip


def _oddity(path: Path) -> str | None:
    """Why this cannot be a run file, without opening it (opening a pipe would block); None if it can."""
    if not is_utf8(path):
        return f"the name {os.fsencode(path.name)!r} is not UTF-8: rename it"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"{path} leads nowhere: the file that the link names is gone"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return None if stat.S_ISREG(mode) else f"expected a run file, found {kind_of(mode)}: {path}"


def _from_heartbeat(path: Path, beat: HeartbeatFile) -> RunEntry:
    started = dt.datetime.fromtimestamp(beat.progress.started_at, dt.UTC).replace(tzinfo=None)
    size = max(_size(path), beat.progress.bytes)
    return RunEntry(
        path.stem, path, "capturing", beat.model, started, beat.progress.tokens_done, size, beat.progress,
        edits=beat.progress.edits,
    )  # fmt: skip


def run_names(store: Path) -> list[str]:
    """Sorted names with a run file, or with the heartbeat of a capture that has not created its file yet.

    Raises StoreError if the store cannot be read.
    """
    if not os.path.isdir(store):
        return []
    names = set()
    try:
        with os.scandir(store) as files:
            for file in files:
                beating = file.name.endswith(RUN_SUFFIX + SUFFIX)
                stem = file.name.removesuffix(SUFFIX) if beating else file.name
                if not stem.endswith(RUN_SUFFIX) or stem.startswith(".") or _is_directory(file):
                    continue
                if not beating or being_written(store / stem):
                    names.add(stem.removesuffix(RUN_SUFFIX))
    except OSError as error:
        raise StoreError(f"the store {store} cannot be read: {error.strerror or error}") from error
    return sorted(names)


def _is_directory(file: "os.DirEntry[str]") -> bool:
    try:
        return file.is_dir()
    except OSError:  # a link that leads to itself
        return False


def companions(path: Path) -> list[Path]:
    """The files that nfinspect and DuckDB keep next to a run file: heartbeat and logs."""
    return [file for file in _beside(path) if _COMPANION.fullmatch(file.name.removeprefix(path.name))]


def _beside(path: Path) -> list[Path]:
    """Every file named as the run's file plus a suffix."""
    try:
        files = list(path.parent.iterdir())
    except OSError:
        return []
    return sorted(p for p in files if p.name.startswith(path.name + ".") and not p.name.endswith(RUN_SUFFIX))


def delete_run(path: Path, *, force: bool = False) -> list[Path]:
    """Delete a run with its companions and results; returns files named after it that stay, as nfinspect did not write
    them.

    Raises RunBusy while its writer is alive, RunNotFound, NotARun, StorageFull; StoreError for a part in which another
    run of the store keeps its values. A file that cannot be read as a run is deleted only with `force`: a mistyped path
    must not cost someone a file.
    """
    if not path.is_file():
        raise RunNotFound(f"no run file at {path}")
    if being_written(path):
        raise RunBusy(f"{path.stem} is being captured: stop the capture (Ctrl-C) before deleting its run")
    with FactsCache(None) as cache:
        facts = cache.facts(path)  # raises RunBusy if a process without a heartbeat is writing to it
    if facts.problem and not force:
        raise NotARun(f"{facts.problem} (--force deletes it all the same)")
    if facts.is_part and (keeps := _keeping(path)):
        raise StoreError(
            f"{keeps} keeps its values in {path.stem}: delete {keeps} first, or make one file of it "
            f"(nfinspect merge {keeps} {keeps})"
        )
    try:
        path.unlink()
        for companion in companions(path):
            companion.unlink(missing_ok=True)
        clean_leftovers(path)
        from nfinspect_store.results import delete_results, run_results  # imports duckdb, which a listing does not need

        results = run_results(path)
        delete_results(results)
        return [*_beside(path), *([results] if results.exists() else [])]
    except OSError as error:
        raise StorageFull(f"cannot delete {path}: {error.strerror or error}") from error


def kept_elsewhere(path: Path) -> tuple[str, ...]:
    """The parts in which the run at `path` keeps its values, each a path from its folder. Raises RunBusy."""
    with FactsCache(None) as cache:
        return cache.facts(path).parts


def _keeping(part: Path) -> str | None:
    """The run beside a part that keeps its values in it."""
    for entry in list_runs(part.parent):
        folder = entry.path.resolve().parent
        if any((folder / told).resolve() == part.resolve() for told in entry.parts):
            return entry.name
    return None


def _size(path: Path) -> int:
    total = 0
    for part in (path, path.with_name(path.name + ".wal")):
        try:
            total += part.stat().st_size
        except OSError:
            continue
    return total
