"""Paths as people write them, and reading text files. Callers test existence with os.path, which accepts any name."""

from pathlib import Path

from nfinspect_store.errors import NfinspectError


def expanded(path: str | Path) -> Path:
    """`~/x` and `~user/x` expanded as in a shell; unchanged where there is no such user or home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def file_state(path: Path) -> tuple[int, ...]:
    """Numbers that change whenever a file is written or replaced; empty if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def nearest_folder(folder: Path) -> Path:
    """A folder if it is there, else the first above it that is: on its disk the folder will be made."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())


def read_text(path: Path, what: str, refused: type[NfinspectError]) -> str:
    """The text of a UTF-8 file, without a byte order mark. what: its content, for the message. Raises `refused`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"expected UTF-8 text in {path}, found other bytes at position {error.start}") from error
    except OSError as error:
        raise refused(f"cannot read {what} from {path}: {error.strerror or error}") from error
