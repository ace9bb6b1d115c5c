"""Files and directories that appear only once they are complete, and not at all if something goes wrong before.

A link stays a link: its target is written. A device, a pipe or a socket is never replaced: it is written to.
What a killed process left unfinished is recognised by its name, and removed when the same path is written again.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nfinspect_store.errors import StorageFull

SHOWN = 80
"""Characters of a name that its unfinished version repeats: file systems allow names of 255 bytes."""


OPEN_FILES = (("fd",), ("stdin",), ("stdout",), ("stderr",))
"""Names in /dev."""


def next_to(path: Path) -> Path:
    """A new name in the directory of `path`, for writing what will become `path`. It names the host and process."""
    return path.absolute().with_name(f"{_prefix(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _prefix(path: Path) -> str:
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
    return f".{path.absolute().name[:SHOWN]}.nfinspect-{host}-"


def clean_leftovers(path: Path) -> None:
    """Remove unfinished versions of `path` left by dead processes of this machine. Never raises."""
    prefix = _prefix(path)
    with suppress(OSError):
        for left in path.absolute().parent.iterdir():
            made_by = re.match(r"(\d+)-[0-9a-f]{8}", left.name.removeprefix(prefix))
            if left.name.startswith(prefix) and made_by and not _runs(int(made_by[1])):
                remove(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Delete a file or folder of ours, and DuckDB's log (.wal) next to a file. Never raises."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    for file in (path, path.with_name(path.name + ".wal")):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether `path` is to be written to rather than replaced: a device, a pipe, a socket, or the name of an open
    file such as /dev/stdout, even where that leads to a regular file.
    """
    parts = path.absolute().parts
    if parts[1:2] == ("proc",) or (parts[1:2] == ("dev",) and parts[2:3] in OPEN_FILES):
        return not path.is_dir()
    try:
        mode = path.stat().st_mode
    except OSError:  # it does not exist, or cannot
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def place_of(path: Path) -> Path:
    """The target of `path` through links: what is to be created or replaced. Raises StorageFull."""
    try:
        place = path.resolve()
        if place.is_symlink():  # a loop: Python 3.13 and later return it unresolved
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with suppress(FileNotFoundError):
            place.lstat()  # fails on a name that is too long or a parent that is not a directory
        return place
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise StorageFull(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def check_place(path: Path) -> None:
    """Raises StorageFull where nothing can be written at `path`, before the work whose result will go there.

    Creates a directory next to it and removes it again, missing parents included: the permissions that a file system
    reports are not always those it grants.
    """
    if is_stream(path):
        return
    place = place_of(path)
    probe = next_to(place)
    missing: list[Path] = []
    try:
        missing = [one for one in probe.parents if not one.exists()]
        probe.mkdir(parents=True)
        with suppress(FileNotFoundError):
            place.lstat()  # the name itself may be too long
        probe.rmdir()
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            probe.rmdir()
        with suppress(OSError):  # never created, or no longer empty
            for one in missing:
                one.rmdir()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a path to write to; that file replaces `path`, keeping its permissions, when the block ends without error.

    A device, pipe or socket (`is_stream`) is then written to instead. Raises StorageFull.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory(prefix="nfinspect-") as folder, _explained(path):
            temporary = Path(folder) / "content"
            yield temporary
            with temporary.open("rb") as content, path.open("wb", buffering=0) as stream:
                shutil.copyfileobj(content, stream)
        return
    place = place_of(path)
    clean_leftovers(place)
    temporary = next_to(place)
    try:
        with _explained(path):
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield temporary
            _put(temporary, place)
    finally:
        remove(temporary)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of those who enter this for files of one folder, one at a time: for a last look at `path` before it is replaced.

    Locks the folder, which must be there; the system lets go of it if the process dies. Where the file system has no
    such locks, nobody waits.
    """
    folder = os.open(place_of(path).parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has gone: not our error
        raise
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error


def _put(file: Path, place: Path) -> None:
    """Move a finished file to its place, on another file system too."""
    with suppress(OSError):  # nothing is replaced, or its permissions cannot be copied
        shutil.copymode(place, file)
    try:
        os.replace(file, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = next_to(place)
        try:
            shutil.copy(file, near)
            os.replace(near, place)
        finally:
            remove(near)


@contextmanager
def new_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a directory to fill; it becomes `path` when the block ends without error. Raises StorageFull.

    `path` must be empty or absent, unless `force`: then files of the same names are replaced and others stay.
    """
    place = place_of(path)
    if place.exists() and not place.is_dir():
        raise StorageFull(f"expected a directory to write to, found a file: {path}")
    clean_leftovers(place)
    temporary = next_to(place)
    try:
        with _explained(path):
            if not force and place.is_dir() and any(place.iterdir()):
                raise StorageFull(f"{path} is not empty: choose another directory, or --force to replace files in it")
            temporary.mkdir(parents=True)
            yield temporary
            if place.is_dir():
                _fill(place, sorted(temporary.iterdir()))
            else:
                os.replace(temporary, place)
    finally:
        remove(temporary)


def _fill(directory: Path, files: list[Path]) -> None:
    """Move files into a directory with others. Raises StorageFull before replacing any if one cannot be replaced."""
    places = [place_of(directory / file.name) for file in files]
    for place in places:
        if place.exists() and not place.is_file():
            raise StorageFull(f"expected a file to replace, found something else: {place}; move it away")
    for file, place in zip(files, places, strict=True):
        _put(file, place)
