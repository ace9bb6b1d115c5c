"""Paths as people write them, and the texts there. What is there is asked with os.path, which takes any name."""

from pathlib import Path

from nfinspect_store.errors import NfinspectError


def expanded(path: str | Path) -> Path:
    """`~/x` and `~user/x` as a shell has them: as it is where there is no such user, or none has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def file_state(path: Path) -> tuple[int, ...]:
    """What changes whenever a file is written or another takes its place; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_text(path: Path, what: str, refused: type[NfinspectError]) -> str:
    """A UTF-8 file, its byte order mark left out. Raises `refused`. what: is to be in it, for the message."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"expected UTF-8 text in {path}, found other bytes at position {error.start}") from error
    except OSError as error:
        raise refused(f"cannot read {what} from {path}: {error.strerror or error}") from error
