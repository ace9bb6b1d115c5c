"""The directory of a report: it appears when it is complete, and replaces nothing but an earlier report.

Its `report.json` names every file with its digest, so that what a user has put there, or changed, is never deleted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfinspect.figures.page import dumped
from nfinspect_store.atomic import check_place, clean_leftovers, next_to, place_of
from nfinspect_store.errors import StorageFull

MANIFEST = "report.json"


def write_manifest(directory: Path, about: Mapping[str, Any]) -> None:
    """Write `report.json`: `about`, and the SHA-256 of every file in the directory."""
    files = {file.name: _digest(file) for file in sorted(directory.iterdir())}
    (directory / MANIFEST).write_text(dumped({**about, "files": files}), encoding="utf-8")


def check_directory(path: Path) -> None:
    """Raises StorageFull where a report cannot be written: at a file, in a directory with anything but an unchanged
    report, or at a place that cannot be written to.
    """
    place = place_of(path)
    try:
        _check_contents(place)
    except OSError as error:
        raise StorageFull(f"cannot read {path}: {error.strerror or error}") from error
    check_place(place)


def _check_contents(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise StorageFull(f"expected a directory to write to, found a file: {path}")
    if not path.is_dir() or not any(path.iterdir()):
        return
    other = "choose another directory; only an earlier report is replaced, and only as it was written"
    digests = _listed(path / MANIFEST)
    if digests is None:
        raise StorageFull(f"{path} is not empty and holds no report: {other}")
    for file in sorted(path.iterdir()):
        if file.name == MANIFEST:
            continue
        if file.is_symlink() or not file.is_file() or file.name not in digests:
            raise StorageFull(f"{path} holds {file.name}, which is of no report: {other}")
        if _digest(file) != digests[file.name]:
            raise StorageFull(f"{file} has been changed since the report was written: {other}")


@contextmanager
def report_directory(path: Path) -> Iterator[Path]:
    """A directory to fill; it becomes `path` when the block ends well. Raises StorageFull."""
    path = place_of(path)  # a link stays a link
    clean_leftovers(path)
    check_directory(path)
    new, old = next_to(path), next_to(path)
    try:
        new.mkdir(parents=True)
        yield new
        check_directory(path)  # again, as drawing took a while
        if path.is_dir():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except BaseException:
            if old.is_dir():
                os.rename(old, path)
            raise
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def _listed(manifest: Path) -> Mapping[str, str] | None:
    """The digests by file name, None if this is no manifest of a report."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if isinstance(files, dict) else None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
