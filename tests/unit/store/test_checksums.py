from pathlib import Path

import duckdb
import numpy as np

from nfinspect_store.checksums import MODULUS, blocks_checksum, record, recorded, stored_checksum
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK
from nfinspect_store.verify import verify_run

LEDGER = """
CREATE TABLE IF NOT EXISTS checksums (segment INTEGER, table_name VARCHAR, "rows" BIGINT, checksum VARCHAR)
"""


def some_blocks(rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return np.arange(rows, dtype=np.int32), rng.normal(size=(rows, BLOCK)).astype(np.float32)


def test_a_sum_does_not_depend_on_the_order_or_the_split_of_the_rows() -> None:
    neuron, values = some_blocks()
    whole = blocks_checksum(2, neuron, 5, values)
    assert blocks_checksum(2, neuron[::-1], 5, values[::-1]) == whole
    parts = blocks_checksum(2, neuron[:2], 5, values[:2]) + blocks_checksum(2, neuron[2:], 5, values[2:])
    assert parts % MODULUS == whole


def test_a_sum_changes_with_every_bit_and_with_the_place() -> None:
    neuron, values = some_blocks()
    whole = blocks_checksum(2, neuron, 5, values)
    sums = {whole, blocks_checksum(3, neuron, 5, values), blocks_checksum(2, neuron, 6, values)}
    sums |= {blocks_checksum(2, neuron[::-1], 5, values), blocks_checksum(2, neuron, 5, values[:, ::-1])}
    for place in range(0, values.size, 97):
        for bit in (0, 22, 31):
            changed = values.copy()
            changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            sums.add(blocks_checksum(2, neuron, 5, changed))
    assert len(sums) == 5 + 3 * len(range(0, values.size, 97))


def test_zero_and_minus_zero_differ() -> None:
    zeros = np.zeros((1, BLOCK), np.float32)
    neuron = np.zeros(1, np.int32)
    assert blocks_checksum(0, neuron, 0, zeros) != blocks_checksum(0, neuron, 0, -zeros)


def test_the_ledger_adds_up_what_went_in_and_what_was_taken_out() -> None:
    with duckdb.connect() as connection:
        assert recorded(connection) == {}
        connection.execute(LEDGER)
        record(connection, 0, "blocks", 10, MODULUS - 1)
        record(connection, 1, "blocks", -2, -5)
        record(connection, 1, "blocks", 3, 7)
        assert recorded(connection) == {"blocks": (11, 1)}


def test_verify_compares_the_file_with_its_ledger(store: Path) -> None:
    path = store / "planted.duckdb"
    with RunFile.open(path) as run:
        rows, total = stored_checksum(run.cursor())
        first = stored_checksum(run.cursor(), "block = ?", [0])
    assert rows == 5 * 240
    assert first[0] == 240
    with duckdb.connect(str(path)) as connection:
        connection.execute(LEDGER)
        connection.execute("DELETE FROM checksums")
        record(connection, 0, "blocks", rows, total)
    assert verify_run(path).ok
    with duckdb.connect(str(path)) as connection:
        record(connection, 1, "blocks", 0, 1)
    assert any("checksums: the blocks sum to" in problem for problem in verify_run(path).problems)
