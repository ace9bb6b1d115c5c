"""Reading the small files of a store, which anybody may have put there: never waiting, never more than is small."""

import os
import stat
from pathlib import Path

MOST = 64 * 2**20
"""Bytes; the largest small file is the cache of the list of runs, some hundred bytes for each."""


def read_small(path: Path, most: int = MOST) -> bytes:
    """The content. Raises OSError, also for what is no regular file (a pipe would be waited for) or too large."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as content:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"expected a file, found {kind_of(status.st_mode)}: {path}")
        if status.st_size > most:
            raise OSError(f"expected a small file, found one of {status.st_size} bytes: {path}")
        return content.read(most)


def is_utf8(path: Path) -> bool:
    """Whether a path can be said to DuckDB, and printed."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(mode: int) -> str:
    """What a file that is no regular one is, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
