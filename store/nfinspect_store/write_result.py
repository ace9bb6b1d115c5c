"""Query results as CSV, JSON or Parquet, streamed, so that a result larger than memory can be written."""

import csv
import json
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from nfinspect_store.atomic import replaced
from nfinspect_store.errors import QueryError
from nfinspect_store.query_result import QueryResult, plain_value

Format = Literal["csv", "json", "parquet"]


def write_csv(result: QueryResult, out: TextIO) -> int:
    """A header line and one line per row; NULL is empty, NaN is nan. Returns the number of rows."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.name for column in result.columns)
    rows = 0
    for row in result:
        writer.writerow(_csv_cell(value) for value in row)
        rows += 1
    return rows


def _csv_cell(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    plain = plain_value(value)
    return json.dumps(plain) if isinstance(plain, dict | list) else plain


def write_json(result: QueryResult, out: TextIO) -> int:
    """A list of objects, one per row and line. Columns of the same name become a, a_1, … Returns the number of rows."""
    names = result.unique_names()
    rows = 0
    out.write("[")
    for row in result:
        values = dict(zip(names, map(plain_value, row), strict=True))
        out.write(("," if rows else "") + "\n" + json.dumps(values, allow_nan=False))
        rows += 1
    out.write("\n]\n" if rows else "]\n")
    return rows


def write_parquet(result: QueryResult, out: BinaryIO) -> int:
    """Parquet with zstd, about 65,536 rows in a row group. Returns the number of rows. Raises QueryError."""
    names = result.unique_names()
    schema = pa.schema([field.with_name(name) for field, name in zip(result.schema(), names, strict=True)])
    rows = 0
    try:
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in result.batches():
                writer.write_batch(batch.rename_columns(names))
                rows += batch.num_rows
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise QueryError(f"Parquet cannot hold this result: {error}; cast the column to VARCHAR") from error
    return rows


def write_result(result: QueryResult, format: Format, path: str | Path) -> int:  # noqa: A002
    """Write a result to a file, which appears once it is complete. Returns the number of rows. Raises QueryError,
    StorageFull.
    """
    with replaced(Path(path)) as temporary:
        if format == "parquet":
            with temporary.open("wb") as out:
                return write_parquet(result, out)
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as text:
            return write_csv(result, text) if format == "csv" else write_json(result, text)
