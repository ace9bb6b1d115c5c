"""What was put into a run file, written down beside it: the table `checksums`, a ledger of (segment, table,
rows, sum).

DuckDB checks each of its disk blocks, so that a flipped bit is found when it is read. The ledger says
something else: that every row which the capture handed over is there, with the bits it had. A row's sum does
not depend on where the row stands, and the sums add up modulo 2^64, so a segment adds a line without reading
what is there already; what a segment takes out again (the padded block that the next one fills up) is a line
with negative rows.

Defined here in numpy, not by DuckDB's hash(), which may change from one version to the next. 100 M values
take 0.2 s.
"""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.schema import BLOCK

MODULUS = 1 << 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: multiplying by it loses nothing
_LOW = np.uint64(0xFFFFFFFF)
_WEIGHTS = ((np.arange(BLOCK, dtype=np.uint64) * np.uint64(2) + np.uint64(1)) * _GOLDEN).reshape(2, -1)

READ_BLOCKS = 'SELECT layer_id, neuron, block, "values" FROM blocks'

LEDGER_THERE = """
SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND table_name = 'checksums'
"""

BATCH = 8192
"""Blocks read at a time: 8 MB."""


def blocks_checksum(
    layer_id: NDArray[np.integer[Any]] | int,
    neuron: NDArray[np.integer[Any]],
    block: NDArray[np.integer[Any]] | int,
    values: NDArray[np.float32],
) -> int:
    """The sum of some rows of `blocks`, 0 <= sum < 2^64. values: float32[rows, 256], C order.

    Sensitive to every bit of the values, to their order, and to which row they stand in.
    """
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values).view(np.uint64)  # [rows, 128]: two floats a word
        # Halves apart: a flipped top bit times an odd weight is a flipped top bit, and two of them cancel.
        content = (bits & _LOW) @ _WEIGHTS[0] + (bits >> np.uint64(32)) @ _WEIGHTS[1]
        key = (np.uint64(1) + _words(layer_id)) * _GOLDEN + _words(neuron)
        key = (key ^ (key >> np.uint64(29))) * _GOLDEN + _words(block)
        mixed = (content ^ (content >> np.uint64(32))) * (key | np.uint64(1)) + key
        return int(np.add.reduce(mixed, dtype=np.uint64))


def _words(numbers: NDArray[np.integer[Any]] | int) -> NDArray[np.uint64]:
    return np.asarray(numbers).astype(np.uint64)


def batch_checksum(batch: pa.RecordBatch) -> int:
    """The sum of a batch with the columns of `blocks`."""
    return blocks_checksum(
        batch.column("layer_id").to_numpy(),
        batch.column("neuron").to_numpy(),
        batch.column("block").to_numpy(),
        block_values(batch),
    )


def block_values(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """The values of a batch of blocks: float32[rows, 256]."""
    flat = batch.column("values").flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, BLOCK)


def stored_checksum(
    connection: duckdb.DuckDBPyConnection, condition: str = "TRUE", parameters: Sequence[Any] = ()
) -> tuple[int, int]:
    """Rows and sum of the stored blocks that meet a condition, read as a stream."""
    rows, total = 0, 0
    relation = connection.sql(f"{READ_BLOCKS} WHERE {condition}", params=list(parameters))
    for batch in relation.to_arrow_reader(BATCH):
        rows += batch.num_rows
        total += batch_checksum(batch)
    return rows, total % MODULUS


def record(connection: duckdb.DuckDBPyConnection, segment: int, table: str, rows: int, checksum: int) -> None:
    """Add a line to the ledger. What a segment takes out goes in with -rows and -checksum."""
    connection.execute(
        "INSERT INTO checksums VALUES (?, ?, ?, ?)", [segment, table, rows, f"{checksum % MODULUS:016x}"]
    )


def recorded(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    """Rows and sum of each table that the ledger knows; nothing where the run has no ledger."""
    totals: dict[str, tuple[int, int]] = {}
    if connection.execute(LEDGER_THERE).fetchone() == (0,):
        return totals
    for table, rows, checksum in connection.execute(
        'SELECT table_name, "rows", checksum FROM checksums'
    ).fetchall():
        known_rows, known = totals.get(table, (0, 0))
        totals[table] = (known_rows + rows, (known + int(checksum or "0", 16)) % MODULUS)
    return totals
