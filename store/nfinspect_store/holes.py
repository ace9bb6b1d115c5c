"""Free space within a closed run file."""

from pathlib import Path

from nfinspect_store.connect import CATALOG, FILE_HEADERS, add, locked

MOST_HOLES = 0.025
"""Share of a file's blocks that may stay free. A commit rewrites the statistics, and of the other tables the last,
incomplete row groups: little of a file with values, more of one with only statistics [own].
"""

SMALL = 4 * 2**20
"""Bytes up to which a file is closed as it is: looking for free blocks would take longer than they are worth."""


def has_holes(path: Path) -> bool:
    """Whether copying the file is worth the space that it frees."""
    return path.stat().st_size > SMALL and hole_share(path) > MOST_HOLES


def hole_share(path: Path) -> float:
    """The share of a closed file's disk blocks that are free. Found from the file's size, as DuckDB also counts blocks
    that it has truncated; and after closing, as until then it counts blocks freed by the last checkpoint as used.
    """
    with locked([path], threads=1) as connection:
        add(connection, path, CATALOG)
        query = "SELECT block_size, used_blocks FROM pragma_database_size() WHERE database_name = ?"
        size, used = connection.execute(query, [CATALOG]).fetchall()[0]
    blocks = (path.stat().st_size - FILE_HEADERS) // size
    return float((blocks - used) / max(blocks, 1))
