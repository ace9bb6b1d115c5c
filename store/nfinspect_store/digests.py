"""The content of each table of a run as one number, so that a later change is noticed: the table `digests`.

A table's digest is the sum of its rows' hashes modulo 2^64: it does not depend on the order of the rows, and the digest
of two parts is the sum of theirs, so a capture adds to it segment by segment. A row's hash depends on the values, not
on their storage: integers by value, floating-point numbers as float64, texts by SHA-256. It guards against accidents
and careless edits; it is not a signature: whoever changes both data and digests goes unnoticed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store import kernels
from nfinspect_store.blob_columns import blob_bytes, blob_offsets
from nfinspect_store.memory import WIDE, pieces, widest_layer
from nfinspect_store.schema import quoted

Hashes = NDArray[np.uint64]

ROWS = 4096
"""Rows hashed at a time, at most."""

HASHED = 4 * 2**20
"""Bytes of rows hashed at a time: while it is hashed, each number takes several times 8 bytes [own]."""

NOT_DIGESTED = ("blocks", "digests")

VALUES = "activations"
"""The digest of the values, however the table `blocks` arranges them."""

LEFT_OUT = {"run": ("schema_version",)}
"""Columns left out, as a migration changes them; a file's version is checked when it is opened."""

TABLES_THERE = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() ORDER BY table_name"

_EMPTY = np.uint64(0x5851F42D4C957F2D)
"""The hash of NULL."""


@dataclass(frozen=True)
class Digest:
    """Of a table, or of some of its rows; digests of different rows can be added."""

    rows: int = 0
    value: int = 0

    def __add__(self, other: "Digest") -> "Digest":
        return Digest(self.rows + other.rows, (self.value + other.value) % 2**64)

    def __sub__(self, other: "Digest") -> "Digest":
        return Digest(self.rows - other.rows, (self.value - other.value) % 2**64)


def digest_of(rows: pa.Table | pa.RecordBatch) -> Digest:
    """The digest of some rows; the order of rows and columns does not matter."""
    total = Digest()
    for whole in rows.to_batches(ROWS) if isinstance(rows, pa.Table) else [rows]:
        step = max(1, whole.num_rows * HASHED // max(1, whole.nbytes))
        for start in range(0, whole.num_rows, step):
            batch = whole.slice(start, step)
            hashes = np.zeros(batch.num_rows, np.uint64)
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                hashes += _mixed(_hashes(column) ^ np.uint64(_of_bytes(name.encode())))
            total += Digest(batch.num_rows, int(_mixed(hashes).sum(dtype=np.uint64)))
    return total


def select_digested(table: str) -> str:
    """The query for a table's rows, without the columns left out."""
    columns = f"* EXCLUDE ({', '.join(map(quoted, LEFT_OUT[table]))})" if table in LEFT_OUT else "*"
    return f"SELECT {columns} FROM {quoted(table)}"


def digest_table(connection: duckdb.DuckDBPyConnection, table: str) -> Digest:
    """The digest of a whole table as the connection sees it; all rows of a wide one must be committed (memory.py)."""
    total = Digest()
    for piece in pieces(connection, table, widest_layer(connection) if table in WIDE else 0):
        query = f"{select_digested(table)} WHERE {piece}"
        total += sum(map(digest_of, connection.sql(query).to_arrow_reader(ROWS)), Digest())
    return total


def read_digests(connection: duckdb.DuckDBPyConnection) -> dict[str, Digest]:
    """The digests that the run records, by table (and VALUES)."""
    rows = connection.execute('SELECT part, "rows", digest FROM digests').fetchall()
    return {part: Digest(count, value) for part, count, value in rows}


def write_digests(connection: duckdb.DuckDBPyConnection, digests: dict[str, Digest]) -> None:
    """Set the digests of these tables; those of others stay."""
    parts = {"parts": list(digests)}
    connection.execute("DELETE FROM digests WHERE part IN (SELECT unnest($parts::VARCHAR[]))", parts)
    numbers = {"rows": [d.rows for d in digests.values()], "values": [d.value for d in digests.values()]}
    connection.execute(
        "INSERT INTO digests SELECT unnest($parts::VARCHAR[]), unnest($rows::BIGINT[]), unnest($values::UBIGINT[])",
        parts | numbers,
    )


def values_digest(
    layer_id: int,
    neuron: NDArray[np.int32],
    first: int,
    values: NDArray[np.float32],
    fired: NDArray[np.bool_] | None,
) -> Digest:
    """The digest of some neurons of a layer, each once, on consecutive tokens from `first`: float32[neurons, tokens].

    The bits of each value are multiplied by a number for its token and one for its neuron: the sum does not depend on
    how blocks divide the values, and notices one changed value or two that were swapped.
    """
    of_token = value_numbers(first, values.shape[1])
    given = np.asarray(values, np.float32)
    if kernels.compiled():
        sums = kernels.row_sums(given, fired, of_token, firing_numbers(of_token))
    else:
        sums = np.einsum("ij,j->i", given.view(np.uint32), of_token)
        if fired is not None:
            sums += np.einsum("ij,j->i", fired.astype(np.uint8), firing_numbers(of_token))
    return digest_of_sums(layer_id, neuron, sums, values.size)


def value_numbers(first: int, tokens: int) -> Hashes:
    """uint64[tokens]: what the bits of a value on each of the tokens from `first` on are multiplied by."""
    return _mixed(np.arange(first, first + tokens, dtype=np.uint64)) | np.uint64(1)


def firing_numbers(of_token: Hashes) -> Hashes:
    """uint64[tokens]: what is added where a neuron fires, from the tokens' value_numbers."""
    return _mixed(of_token)


def digest_of_sums(layer_id: int, neuron: NDArray[np.int32], sums: Hashes, values: int) -> Digest:
    """From each neuron's sum over its values, and how many values they are."""
    of_neuron = _mixed(neuron.astype(np.uint64) + (np.uint64(layer_id + 1) << np.uint64(32))) | np.uint64(1)
    return Digest(values, int((sums * of_neuron).sum(dtype=np.uint64)))


def renew_digests(connection: duckdb.DuckDBPyConnection) -> None:
    """Recompute the digest of every table, and of the values if the run stores them and which of them fired."""
    from nfinspect_store.tables import RunTables

    connection.execute("DELETE FROM digests")
    names = [row[0] for row in connection.execute(TABLES_THERE).fetchall() if row[0] not in NOT_DIGESTED]
    write_digests(connection, {name: digest_table(connection, name) for name in names})
    tables = RunTables(connection, in_transaction=True)
    if tables.has_values and tells_firing(connection):
        total = Digest()
        for layer in tables.layers:
            for rows in tables.stored_blocks(layer, fired=True):
                total += values_digest(layer.layer_id, rows.neuron, rows.first, rows.values, rows.fired)
        write_digests(connection, {VALUES: total})


def tells_firing(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the blocks say where gated neurons fired: those written with the first schema do not."""
    query = """SELECT count(*) FROM (SELECT 1 FROM blocks b JOIN layers l USING (layer_id)
               WHERE l.fires = 'gate' AND b.fired IS NULL LIMIT 1)"""
    return bool(connection.execute(query).fetchall()[0][0] == 0)


def _hashes(array: pa.Array) -> Hashes:
    """A hash of each value of a column, not mixed yet: uint64[rows]."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):  # JSON
        return _hashes(array.storage)
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        hashes = _of_lists(array)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        hashes = _of_texts(array)
    elif _is_binary(kind):
        hashes = _of_blobs(array)
    elif pa.types.is_floating(kind):
        numbers = np.asarray(_filled(array, 0).to_numpy(zero_copy_only=False), np.float64) + 0.0  # -0.0 is 0.0
        numbers[np.isnan(numbers)] = np.nan  # one pattern for all of them
        hashes = numbers.view(np.uint64)
    else:  # whole numbers, booleans, times
        counted = array.cast(pa.timestamp("us")) if pa.types.is_timestamp(kind) else array
        numbers = _filled(counted.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        hashes = np.asarray(numbers, np.int64).view(np.uint64)
    if array.null_count:
        missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), np.bool_)
        hashes = np.where(missing, _EMPTY, hashes)
    return hashes


def _filled(array: pa.Array, value: object) -> pa.Array:
    """NULLs replaced by a value. Skipped where there are none: Arrow's call costs as much as hashing a small column."""
    return array.fill_null(value) if array.null_count else array


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _of_texts(array: pa.Array) -> Hashes:
    """Each distinct text is hashed once, as tokens repeat."""
    encoded = _filled(array, "").dictionary_encode()
    hashes = _array(_of_bytes(one.encode("utf-8", "surrogatepass")) for one in encoded.dictionary.to_pylist())
    found: Hashes = hashes[encoded.indices.to_numpy()]
    return found


def _of_blobs(array: pa.Array) -> Hashes:
    """Each BLOB's length, and the sum of its words of 4 bytes, each times the number for its place: see values_digest.
    Those of one length together: 0.3 ns a byte.
    """
    column = _filled(array.cast(pa.binary()), b"")
    lengths = np.diff(blob_offsets(column))
    hashes = np.empty(len(column), np.uint64)
    for length in np.unique(lengths).tolist():
        alike = lengths == length
        rows = column if alike.all() else column.filter(pa.array(alike))
        content = blob_bytes(rows).reshape(len(rows), length)
        words = (np.pad(content, ((0, 0), (0, -length % 4))) if length % 4 else content).view("<u4")
        hashes[alike] = np.einsum("ij,j->i", words, value_numbers(0, words.shape[1])) + np.uint64(length)
    return _mixed(hashes)


def _of_lists(array: pa.Array) -> Hashes:
    """Each list's length, and its elements with their positions."""
    lengths = np.asarray(_filled(array.value_lengths(), 0).to_numpy(zero_copy_only=False), np.int64)
    elements = _hashes(array.flatten())
    start = np.cumsum(lengths) - lengths
    place = (np.arange(len(elements)) - np.repeat(start, lengths)).astype(np.uint64)
    hashes = _mixed(lengths.view(np.uint64))
    there = lengths > 0
    if there.any():
        hashes[there] += np.add.reduceat(_mixed(elements + _mixed(place)), start[there])
    return hashes


def _of_bytes(value: bytes) -> int:
    return int.from_bytes(hashlib.sha256(value).digest()[:8], "little")


def _array(values: Iterable[int]) -> Hashes:
    return np.fromiter(values, np.uint64)


def _mixed(x: Hashes) -> Hashes:
    """The output function of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
