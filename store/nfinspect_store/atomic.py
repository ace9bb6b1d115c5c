"""Files and directories that appear when they are complete, and not at all if something goes wrong before.

A link stays a link: what it leads to is written. A device, a pipe or a socket is never replaced: it is written into.
What a killed process left unfinished is recognised by its name, and removed when the same thing is written again.
"""

import errno
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
"""Characters of a name that stand in the name of its unfinished version: file systems take 255 bytes."""


OPEN_FILES = (("fd",), ("stdin",), ("stdout",), ("stderr",))
"""Names in /dev."""


def next_to(path: Path) -> Path:
    """A new name in the directory of `path`, where what is to become `path` is written. It tells who writes."""
    return path.absolute().with_name(f"{_prefix(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _prefix(path: Path) -> str:
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
    return f".{path.absolute().name[:SHOWN]}.nfinspect-{host}-"


def clean_leftovers(path: Path) -> None:
    """Remove what processes of this machine that are gone have left unfinished of `path`. Never raises."""
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
    """Take away a file or a folder of ours, with the log that DuckDB may have beside it. Never raises."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    for file in (path, path.with_name(path.name + ".wal")):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether `path` is to be written into rather than replaced: a device, a pipe, a socket, or the name of an open
    file, as /dev/stdout is one even where it leads to a file.
    """
    parts = path.absolute().parts
    if parts[1:2] == ("proc",) or (parts[1:2] == ("dev",) and parts[2:3] in OPEN_FILES):
        return not path.is_dir()
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing there, or nothing that can be
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def place_of(path: Path) -> Path:
    """Where `path` leads to through links: what is to be made or replaced. Raises StorageFull."""
    try:
        place = path.resolve()
        if place.is_symlink():  # one that leads to itself, which Python from 3.13 on leaves as it is
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with suppress(FileNotFoundError):
            place.lstat()  # a name that is too long, a parent that is no directory
        return place
    except (OSError, RuntimeError) as error:  # a link that leads to itself is a RuntimeError before Python 3.13
        raise StorageFull(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def check_place(path: Path) -> None:
    """Raises StorageFull where nothing can be made at `path`: before the work whose result is to go there.

    A directory is made beside it and taken away again, with the parents that were missing: what a file system says of
    its permissions is not always what it does.
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
        with suppress(OSError):  # never made, or somebody has put something there meanwhile
            for one in missing:
                one.rmdir()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write a file; it takes the place of `path`, with its permissions, when the block ends well.

    What is no regular file gets the content when the block ends well. Raises StorageFull.
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
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever reads has gone: no fault of ours
        raise
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error


def _put(file: Path, place: Path) -> None:
    """A finished file to its place, on whatever file system that is."""
    with suppress(OSError):  # there was none, or its permissions cannot be had
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
    """A directory to fill; it becomes `path` when the block ends well. Raises StorageFull.

    `path` must not hold anything, unless with `force`: then files of the same names are replaced and others stay.
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
    """Files into a directory that holds others. Raises StorageFull before any is replaced where one cannot be."""
    places = [place_of(directory / file.name) for file in files]
    for place in places:
        if place.exists() and not place.is_file():
            raise StorageFull(f"expected a file to replace, found something else: {place}; move it away")
    for file, place in zip(files, places, strict=True):
        _put(file, place)
