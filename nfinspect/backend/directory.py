"""The backends of a store: `<store>/.nfinspect-backends` has a socket, a lock and a few facts of each. No torch.

A server holds its lock as long as it lives, and the system lets go of it however the server ends. So whoever gets a
lock knows that its server is dead, and cleans up what it left.
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nfinspect.backend.wire import Gone, Silent, Wire
from nfinspect_store.errors import NfinspectError, RequestError, StorageFull
from nfinspect_store.small_files import read_small

FOLDER = ".nfinspect-backends"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
SUFFIXES = (".sock", ".json", ".log")

ANSWER = 5.0
"""Seconds that a backend has to greet: its connections are served whatever its job does."""

LOCK_TRIES = 6


class BackendRuns(NfinspectError):
    """A backend of that name is there already."""


class NoBackend(NfinspectError):
    """There is no such backend."""


class NotAnswering(NfinspectError):
    """A backend that lives, and says nothing."""


@dataclass(frozen=True)
class Entry:
    """What a backend has written of itself. job: the arguments of the command that it runs, if it does; directory: in
    which it runs it.
    """

    id: str
    pid: int
    model: str
    job: tuple[str, ...] = ()
    directory: str = ""


def check_id(name: str) -> str:
    """Raises RequestError for a name that could not be a file's."""
    if not ID.fullmatch(name):
        raise RequestError(f"expected an --id of at most 64 letters, digits and ._@+-, found {name!r}")
    return name


def check_system() -> None:
    """Raises NoBackend where the user of a peer cannot be found out."""
    if not hasattr(socket, "SO_PEERCRED") or not os.path.isdir("/proc/self/fd"):
        raise NoBackend(f"backends need Linux, whose sockets say whose they are; this is {sys.platform}")


class Place:
    """A server's place among the backends of a store. Leave it with `close`."""

    def __init__(self, store: Path, name: str) -> None:
        """Raises BackendRuns if one of that name lives, StorageFull if the store cannot be written."""
        check_system()
        self.id = check_id(name)
        self._folder = store / FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._locked()
            _clean(self._folder, self.id)
            self.socket = self._bound()
        except OSError as error:
            raise StorageFull(f"cannot put a socket into {self._folder}: {error.strerror or error}") from error

    def _locked(self) -> int:
        for _ in range(LOCK_TRIES):
            lock = _lock_file(self._folder, self.id, create=True)
            assert lock is not None
            if _try_lock(lock) and _is_at(lock, self._folder / f"{self.id}.lock"):
                return lock
            os.close(lock)
            time.sleep(0.05)  # who cleans up after a dead backend holds its lock for a moment, and removes it
        pid = next((f" (process {entry.pid})" for entry in _entries(self._folder) if entry.id == self.id), "")
        raise BackendRuns(
            f"a backend {self.id} runs already{pid}: --backend on commands uses it, --id NAME starts another, "
            f"nfinspect backends --stop {self.id} ends it"
        )

    def _bound(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with _short(self._folder) as folder:
                made.bind(f"{folder}/{self.id}.sock")
            made.listen(64)
        except BaseException:
            made.close()
            raise
        finally:
            os.umask(before)
        return made

    def tell(self, entry: Entry) -> None:
        """Write what the backend is and does. Never raises: a full disk must not end it."""
        path = self._folder / f"{self.id}.json"
        new = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(asdict(entry)), encoding="utf-8")
            os.replace(new, path)

    def close(self) -> None:
        """Leave nothing behind."""
        self.socket.close()
        _clean(self._folder, self.id)
        with contextlib.suppress(OSError):
            (self._folder / f"{self.id}.lock").unlink()
        os.close(self._lock)
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def living(store: Path) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The backends of a store that live, by name, and those that were killed: what these left is removed."""
    folder = store / FOLDER
    alive, dead = [], []
    for entry in _entries(folder):
        try:
            lock = _lock_file(folder, entry.id, create=False)
        except OSError:
            continue  # a colleague's
        if lock is None or _try_lock(lock):
            _clean(folder, entry.id)
            with contextlib.suppress(OSError):
                (folder / f"{entry.id}.lock").unlink()
            dead.append(entry)
        else:
            alive.append(entry)
        if lock is not None:
            os.close(lock)
    return tuple(alive), tuple(dead)


def connected(store: Path, name: str) -> Wire:
    """A connection to a backend that lives. Raises NoBackend, NotAnswering for one that is stopped or hangs,
    NotAllowed, BadMessage for one of another version.
    """
    check_system()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(ANSWER)
    try:
        with _short(store / FOLDER) as folder:
            made.connect(f"{folder}/{check_id(name)}.sock")
    except OSError as error:
        made.close()
        raise NoBackend(f"no backend {name} answers in {store}: {error.strerror or error}") from error
    wire = Wire(made)
    try:
        wire.check_peer("backend")
        wire.greet(ANSWER)
    except Silent as error:
        wire.close()
        raise NotAnswering(silence(store, name, ANSWER)) from error
    except Gone as error:
        wire.close()
        raise NoBackend(f"the backend {name} in {store} does not answer: {error}") from error
    except BaseException:
        wire.close()
        raise
    return wire


def silence(store: Path, name: str, seconds: float) -> str:
    """What is known of a backend that has said nothing for so long."""
    pid = next((entry.pid for entry in _entries(store / FOLDER) if entry.id == name), 0)
    told = f"the backend {name}" + (f" (process {pid})" if pid else "")
    if _is_stopped(pid):
        return f"{told} is stopped: kill -CONT {pid} lets it go on"
    return f"{told} has said nothing for {seconds:.0f} s: it hangs, or the machine is short of memory"


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process, as ctrl-Z does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].startswith(("T", "t"))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path to a folder that is short enough for a socket's address, which holds 108 bytes, however deep it is."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _entries(folder: Path) -> list[Entry]:
    """What is written in a folder of backends, living or dead."""
    found = {}
    with contextlib.suppress(OSError):
        for file in sorted(folder.iterdir()):
            if file.suffix in (".lock", *SUFFIXES) and ID.fullmatch(file.stem):
                found[file.stem] = _entry(folder, file.stem)
    return list(found.values())


def _entry(folder: Path, name: str) -> Entry:
    try:
        told = json.loads(read_small(folder / f"{name}.json"))
        job = tuple(map(str, told["job"]))
        return Entry(name, int(told["pid"]), str(told["model"]), job, str(told.get("directory", "")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it has only just started
        return Entry(name, 0, "")


def _lock_file(folder: Path, name: str, *, create: bool) -> int | None:
    """The open lock file; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    return None


def _try_lock(lock: int) -> bool:
    """Whether nobody holds the lock: then it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except OSError:
        return False


def _clean(folder: Path, name: str) -> None:
    """Remove what a backend left. Only sockets and regular files are: nothing else is ever ours."""
    for suffix in (*SUFFIXES, ".new"):
        file = folder / f"{name}{suffix}"
        with contextlib.suppress(OSError):
            mode = file.lstat().st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISREG(mode):
                file.unlink()
