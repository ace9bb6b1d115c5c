"""Whether the end of a run file is missing, as after a copy that broke off."""

import math
from pathlib import Path

import duckdb

from nfinspect_store.connect import CATALOG, FILE_HEADERS, translated
from nfinspect_store.errors import NotARun


def refuse_cut_short(
    path: Path, connection: duckdb.DuckDBPyConnection, before: int = 0, *, catalog: str = CATALOG
) -> None:
    """Raises NotARun for an incompletely copied file, which would otherwise fail only where its missing end is read.

    Only used blocks count: DuckDB truncates free ones at the end of a file but goes on counting them. It may count
    those that its last checkpoint freed, too: then the last block that anything is in decides. before: the file's size
    before it was opened, as a writer that ends may have put a smaller copy without free space in its place since.
    catalog: the default one of the connection, under which the run is attached.
    """
    if path.with_name(path.name + ".wal").exists():
        return  # the log holds what is not in the file yet
    with translated(path):
        expected, size = _counted(connection, catalog)
    found = max(before, path.stat().st_size)
    if found < expected and found < FILE_HEADERS + size * (_last_block(connection, catalog) + 1):
        raise NotARun(f"{path} is damaged: expected at least {expected} bytes, found {found}; copy it again")


def _counted(connection: duckdb.DuckDBPyConnection, catalog: str) -> tuple[int, int]:
    """Bytes of the file with the blocks that it counts as used; bytes of a block."""
    query = f"""SELECT {FILE_HEADERS} + block_size * used_blocks, block_size FROM pragma_database_size()
                WHERE database_name = ?"""
    expected, size = connection.execute(query, [catalog]).fetchall()[0]
    return int(expected), int(size)


def _last_block(connection: duckdb.DuckDBPyConnection, catalog: str) -> float:
    """The highest number of a block in use; infinity where that cannot be read."""
    query = "SELECT max(greatest(block_id, list_max(additional_block_ids))) FROM pragma_storage_info(?)"
    try:
        tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [catalog])
        held = [connection.execute(query, [name]).fetchall()[0][0] for (name,) in tables.fetchall()]
        held.append(connection.execute("SELECT max(block_id) FROM pragma_metadata_info(?)", [catalog]).fetchall()[0][0])
    except duckdb.Error:
        return math.inf
    return max((number for number in held if number is not None), default=0)
