"""Files and directories that appear when they are complete, and not at all if something goes wrong before."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nfinspect_store.errors import StorageFull


def beside(path: Path) -> Path:
    """A new name in the directory of `path`, where what is to become `path` is written."""
    return path.absolute().with_name(f".{path.absolute().name}.{uuid.uuid4().hex[:8]}")


def check_place(path: Path) -> None:
    """Raises StorageFull where nothing can be made at `path`: before the work whose result is to go there.

    A directory is made beside it and taken away again, with the parents that were missing: what a file system says of
    its permissions is not always what it does.
    """
    probe = beside(path)
    missing: list[Path] = []
    try:
        missing = [one for one in probe.parents if not one.exists()]
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # never made, or somebody has put something there meanwhile
            for one in missing:
                one.rmdir()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write a file; it takes the place of `path` when the block ends well. Raises StorageFull."""
    temporary = beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A directory to fill; it becomes `path` when the block ends well. Raises StorageFull.

    `path` must not hold anything, unless with `force`: then files of the same names are replaced and others
    stay.
    """
    if path.exists() and not path.is_dir():
        raise StorageFull(f"expected a directory to write to, found a file: {path}")
    if not force and path.is_dir() and any(path.iterdir()):
        raise StorageFull(f"{path} is not empty: choose another directory, or --force to replace files in it")
    temporary = beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.is_dir():
            for file in sorted(temporary.iterdir()):
                os.replace(file, path / file.name)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
