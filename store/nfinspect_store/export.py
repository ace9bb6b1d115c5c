"""A run as files for other programs: tables as Parquet or CSV, activations as safetensors or Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfinspect_store.atomic import new_directory
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK, EXPERTS, PLANTED, PUBLIC, ROUTED, quoted
from nfinspect_store.types import Layer

FORMATS = ("parquet", "csv", "safetensors")
TABLES = tuple(name for name in PUBLIC if name != "activations")
"""Of every run, `unrecorded` if it has such tokens; a simulated run has `planted` as well, one that holds neurons of a
mixture of experts `experts`."""

BATCH = 65_536

NESTED_AS_TEXT = {"layer_health": ("issues",)}
"""Lists, which CSV cannot hold: there their elements are joined by '; '."""

OF_EXPERTS = "neurons of experts, which have no value on most tokens and are not exported as tensors"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Export:
    """The files written, and their size together."""

    directory: Path
    files: tuple[str, ...]
    bytes: int


def export_run(
    path: str | Path,
    out_dir: str | Path,
    *,
    formats: Iterable[str] = FORMATS,
    tables: Iterable[str] | None = None,
    activations: bool = True,
    force: bool = False,
    tell: Tell = lambda text: None,
) -> Export:
    """Write a run's tables and activations to a directory, which appears once it is complete.

    Tables (by default all public ones that the run has) go to `<table>.parquet` and `<table>.csv`. Activations go to
    `activations-<site>-L<layer>.safetensors`, one tensor `activations` of float32[tokens, neurons], and to
    `activations-<site>-L<layer>.parquet`, a row per neuron and block with `neuron, first_token, values`; never to CSV
    (ten times the bytes). Of a run that keeps only values beyond a percentile, and of neurons of experts, which have no
    value on most tokens, the Parquet file has a row for each value, `neuron, token_idx, value`, and there is no tensor.
    Memory use is one block of a layer. Raises RequestError, StoreError, StorageFull.
    """
    wanted = set(formats)
    _check(wanted, FORMATS, "format")
    if not wanted:
        raise RequestError(f"expected one or more formats of {', '.join(FORMATS)}, found none")
    out = Path(out_dir)
    with RunFile.open(path) as run:
        held = _tables(run)
        names = held if tables is None else tuple(dict.fromkeys(tables))
        _check(set(names), held, "table")
        if activations and not run.has_values and wanted & {"safetensors"}:
            if wanted == {"safetensors"}:
                raise StoreError(f"{run.name} holds {run.kept}: there are no activations to export as tensors")
            tell(f"{run.name} holds {run.kept}: no activations are exported as tensors")
        if activations and run.has_values and wanted == {"safetensors"} and all(layer.experts for layer in run.layers):
            raise StoreError(f"{run.name} holds {OF_EXPERTS}: choose the format parquet")
        with new_directory(out, force=force) as directory:
            for name in names:
                if "parquet" in wanted:
                    _table_to_parquet(run, name, directory / f"{name}.parquet")
                if "csv" in wanted:
                    _table_to_csv(run, name, directory / f"{name}.csv")
            if activations and run.beyond is not None and "parquet" in wanted:
                for layer in run.layers:
                    _beyond_to_parquet(run, layer, directory / f"activations-{layer.site}-L{layer.layer}.parquet")
            if activations and run.has_values:
                if run.attached:
                    tell(f"{run.name} keeps its values in {len(run.attached)} parts: they are read there")
                for layer in run.layers:
                    stem = f"activations-{layer.site}-L{layer.layer}"
                    tell(f"{stem}: {run.tokens:,} tokens, {layer.neurons:,} neurons")
                    if "safetensors" in wanted and layer.experts:
                        tell(f"{stem}: {OF_EXPERTS}")
                    elif "safetensors" in wanted:
                        _write_safetensors(run, layer, directory / f"{stem}.safetensors")
                    if "parquet" in wanted and layer.experts:
                        _routed_to_parquet(run, layer, directory / f"{stem}.parquet")
                    elif "parquet" in wanted:
                        _blocks_to_parquet(run, layer, directory / f"{stem}.parquet")
            written = sorted(directory.iterdir())
            result = Export(out, tuple(file.name for file in written), sum(f.stat().st_size for f in written))
    return result


def _tables(run: RunFile) -> tuple[str, ...]:
    """The public tables that a run has, `unrecorded` only if there are such tokens."""
    held = tuple(name for name in TABLES if name != "unrecorded" or run.unrecorded)
    query = "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() AND table_name = $name"
    optional = [name for name in (EXPERTS, ROUTED, PLANTED) if run.cursor().execute(query, {"name": name}).fetchone()]
    return (*held, *optional)


def _check(found: set[str], allowed: tuple[str, ...], what: str) -> None:
    unknown = sorted(found - set(allowed))
    if unknown:
        raise RequestError(f"no {what} {unknown[0]!r}: choose {', '.join(allowed)}")


def _table_to_parquet(run: RunFile, name: str, path: Path) -> None:
    relation = run.cursor().sql(f"FROM {quoted(name)}")
    reader = relation.to_arrow_reader(BATCH)
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _table_to_csv(run: RunFile, name: str, path: Path) -> None:
    texts = [f"array_to_string({c}, '; ') AS {c}" for c in NESTED_AS_TEXT.get(name, ())]
    columns = f"* REPLACE ({', '.join(texts)})" if texts else "*"
    reader = run.cursor().sql(f"SELECT {columns} FROM {quoted(name)}").to_arrow_reader(BATCH)
    with pyarrow.csv.CSVWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _rows(run: RunFile, layer: Layer) -> Iterator[NDArray[np.float32]]:
    """A layer's values block by block: float32[up to 256 tokens, neurons]."""
    for first in range(0, run.tokens, BLOCK):
        values = np.empty((min(BLOCK, run.tokens - first), layer.neurons), np.float32)
        there = 0
        for part in run.blocks(layer, tokens=(first, first + len(values))):
            values[part.first - first : part.tokens.stop - first, part.neuron] = part.values.T
            there += part.values.size
        if there != values.size:
            block = f"block {first // BLOCK} of {layer.site} layer {layer.layer}"
            raise StoreError(f"{run.name} is damaged: {block} is incomplete")
        yield values


def _write_safetensors(run: RunFile, layer: Layer, path: Path) -> None:
    """One tensor, row by row: the safetensors library takes a whole array, which may be larger than memory.

    The format is the length of a JSON header in 8 bytes, the header, the values (huggingface.co/docs/safetensors).
    On a full disk a plain write raises an error; a memory-mapped file that cannot grow would kill the process.
    """
    metadata = {
        "run": run.name,
        "model": run.info.model,
        "site": layer.site,
        "layer": str(layer.layer),
        "module": layer.module,
    }
    shape = [run.tokens, layer.neurons]
    values = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    header = json.dumps({"__metadata__": metadata, "activations": values}).encode()
    header += b" " * (-len(header) % 8)  # the values must begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for rows in _rows(run, layer):
            file.write(np.asarray(rows, "<f4").data)


BLOCK_FILE = pa.schema(
    [
        ("neuron", pa.int32()),
        ("first_token", pa.int64()),
        ("values", pa.list_(pa.field("item", pa.float32(), nullable=False))),
    ]
)


def _blocks_to_parquet(run: RunFile, layer: Layer, path: Path) -> None:
    neurons = np.arange(layer.neurons, dtype=np.int32)
    with pq.ParquetWriter(path, BLOCK_FILE, compression="zstd") as writer:
        for number, rows in enumerate(_rows(run, layer)):
            offsets = pa.array(np.arange(layer.neurons + 1, dtype=np.int32) * len(rows))
            values = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows.T).reshape(-1)))
            first = np.full(layer.neurons, number * BLOCK, np.int64)
            columns = [pa.array(neurons), pa.array(first), values.cast(BLOCK_FILE.field("values").type)]
            writer.write_batch(pa.record_batch(columns, schema=BLOCK_FILE))


BEYOND_FILE = pa.schema([("neuron", pa.int32()), ("token_idx", pa.int64()), ("value", pa.float32())])


def _routed_to_parquet(run: RunFile, layer: Layer, path: Path) -> None:
    with pq.ParquetWriter(path, BEYOND_FILE, compression="zstd") as writer:
        for rows in run.blocks(layer, routed=True):
            assert rows.routed is not None
            neurons, tokens = rows.values.shape
            columns = [
                np.repeat(rows.neuron, tokens),
                np.tile(rows.routed, neurons),
                np.ascontiguousarray(rows.values, np.float32).reshape(-1),
            ]
            writer.write_batch(pa.record_batch([pa.array(one) for one in columns], schema=BEYOND_FILE))


def _beyond_to_parquet(run: RunFile, layer: Layer, path: Path) -> None:
    with pq.ParquetWriter(path, BEYOND_FILE, compression="zstd") as writer:
        for batch in run.beyond_batches(layer):
            writer.write_batch(batch.cast(BEYOND_FILE))
