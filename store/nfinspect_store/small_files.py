"""Reading the small files of a store, which anybody may have put there: never blocks, never reads a large file."""

import os
import stat
from pathlib import Path

MOST = 64 * 2**20
"""In bytes. The largest small file is the cache of the list of runs, a few hundred bytes per run."""


def read_small(path: Path, most: int = MOST) -> bytes:
    """The content. Raises OSError, also for a file that is too large or not regular (reading a pipe would block)."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as content:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"expected a file, found {kind_of(status.st_mode)}: {path}")
        if status.st_size > most:
            raise OSError(f"expected a small file, found one of {status.st_size} bytes: {path}")
        return content.read(most)


def is_utf8(path: Path) -> bool:
    """Whether a path can be encoded as UTF-8, to be passed to DuckDB and printed."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(mode: int) -> str:
    """The kind of a file that is not a regular one, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
