"""The same values in seven kinds of file: bytes, time to write them durably, and how long four questions take.

    python -m tests.benchmarks.peers.stores STORE FOLDER TOKENS

The questions: one neuron on every token; every neuron on one token; every neuron's mean over the prompts of a concept
(the first quarter, which lies together); the prompts in which one neuron is highest. Files are in the page cache and
open; each time another neuron or token is asked for. Before timing, answers are compared with the array's.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.peers import models
from tests.benchmarks.peers.measure import seconds, size
from tests.benchmarks.peers.saving import make_durable
from tests.benchmarks.peers.tool import empty

Floats = NDArray[np.float32]

LENGTH = 128
CHUNK = 256
"""Tokens and neurons of a chunk, tokens of a row group: as many as in a block of nfinspect."""
TOP = 10
ASKED, PATIENCE = 15, 3.0
"""Times that each question is asked, and seconds after which no more are begun."""


class Store:
    """One kind of file. `arrays`: float32[tokens, neurons] for each layer, or what can be sliced like it."""

    arrays: Sequence[Any]

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        raise NotImplementedError

    def open(self, folder: Path) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.arrays = ()

    def neuron(self, layer: int, neuron: int) -> Floats:
        return np.asarray(self.arrays[layer][:, neuron])

    def token(self, token: int) -> Floats:
        return np.concatenate([np.asarray(of_layer[token : token + 1])[0] for of_layer in self.arrays])

    def concept_mean(self, tokens: int) -> Floats:
        """Of the first `tokens` tokens, without each prompt's first."""
        return np.concatenate([mean_of(np.asarray(of_layer[:tokens])) for of_layer in self.arrays])

    def examples(self, layer: int, neuron: int) -> list[int]:
        return top_tokens(self.neuron(layer, neuron))


def mean_of(values: Floats) -> Floats:
    found: Floats = values.reshape(-1, LENGTH, values.shape[-1])[:, 1:].mean(axis=(0, 1), dtype=np.float64)
    return found.astype(np.float32)


def top_tokens(values: Floats) -> list[int]:
    """The tokens with the highest value of their prompt, in the TOP prompts where that is highest."""
    by_prompt = values.reshape(-1, LENGTH)
    best = by_prompt.argmax(axis=1)
    order = np.argsort(-by_prompt.max(axis=1), kind="stable")[:TOP]
    return [int(prompt * LENGTH + best[prompt]) for prompt in order]


class Memmap(Store):
    """A .npy file for each layer."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        for layer, of_layer in enumerate(values):
            np.save(folder / f"{layer:02}.npy", of_layer)
        make_durable(folder)

    def open(self, folder: Path) -> None:
        self.arrays = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]


class Safetensors(Store):
    """One file, a tensor for each layer."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        from safetensors.numpy import save_file

        save_file({str(layer): of_layer for layer, of_layer in enumerate(values)}, folder / "values.safetensors")
        make_durable(folder)

    def open(self, folder: Path) -> None:
        from safetensors import safe_open

        file = safe_open(folder / "values.safetensors", framework="numpy")
        self.arrays = [file.get_slice(name) for name in sorted(file.keys(), key=int)]


class Hdf5(Store):
    """One file, a dataset for each layer, chunks of CHUNK x CHUNK, not compressed."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        import h5py

        with h5py.File(folder / "values.h5", "w") as file:
            for layer, of_layer in enumerate(values):
                file.create_dataset(str(layer), data=of_layer, chunks=(CHUNK, CHUNK))
        make_durable(folder)

    def open(self, folder: Path) -> None:
        import h5py

        self._file = h5py.File(folder / "values.h5", "r")
        self.arrays = [self._file[name] for name in sorted(self._file, key=int)]

    def close(self) -> None:
        self._file.close()


class Zarr(Store):
    """A directory, an array for each layer, chunks of CHUNK x CHUNK, not compressed."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        import zarr

        for layer, of_layer in enumerate(values):
            path = folder / f"{layer:02}"
            array = zarr.create_array(
                path, shape=of_layer.shape, chunks=(CHUNK, CHUNK), dtype="float32", compressors=None
            )
            array[:] = of_layer
        for path in [path for path in folder.rglob("*") if path.is_dir()]:
            make_durable(path)

    def open(self, folder: Path) -> None:
        import zarr

        self.arrays = [zarr.open_array(path, mode="r") for path in sorted(folder.iterdir())]


class Parquet(Store):
    """A file for each layer, a column for each neuron, not compressed: one neuron is one column."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for layer, of_layer in enumerate(values):
            table = pa.table({str(neuron): column for neuron, column in enumerate(np.ascontiguousarray(of_layer.T))})
            path = folder / f"{layer:02}.parquet"
            pq.write_table(table, path, row_group_size=CHUNK, compression="none", use_dictionary=False)
        make_durable(folder)

    def open(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        self._files = [pq.ParquetFile(path, memory_map=True) for path in sorted(folder.glob("*.parquet"))]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def neuron(self, layer: int, neuron: int) -> Floats:
        return self._files[layer].read(columns=[str(neuron)]).column(0).to_numpy()

    def token(self, token: int) -> Floats:
        group, row = divmod(token, CHUNK)
        rows = [file.read_row_group(group).slice(row, 1) for file in self._files]
        return np.array([column[0].as_py() for table in rows for column in table.columns], np.float32)

    def concept_mean(self, tokens: int) -> Floats:
        means = []
        for file in self._files:
            table = file.read_row_groups(range(-(-tokens // CHUNK))).slice(0, tokens)
            means.append(mean_of(np.stack([column.to_numpy() for column in table.columns], axis=1)))
        return np.concatenate(means)


class TallDuckdb(Store):
    """One table of layer, neuron, token and value, in the order of a capture; questions in SQL."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        import duckdb
        import pyarrow as pa

        with duckdb.connect(folder / "values.duckdb") as connection:
            connection.execute("CREATE TABLE tall (layer SMALLINT, neuron INTEGER, token INTEGER, value FLOAT)")
            for layer, of_layer in enumerate(values):
                tokens, neurons = of_layer.shape
                columns = {
                    "layer": np.full(of_layer.size, layer, np.int16),
                    "neuron": np.tile(np.arange(neurons, dtype=np.int32), tokens),
                    "token": np.repeat(np.arange(tokens, dtype=np.int32), neurons),
                    "value": of_layer.reshape(-1),
                }
                rows = pa.table(columns)  # noqa: F841  (DuckDB finds it by its name)
                connection.execute("INSERT INTO tall FROM rows")
        make_durable(folder)

    def open(self, folder: Path) -> None:
        import duckdb

        self._connection = duckdb.connect(folder / "values.duckdb", read_only=True)

    def close(self) -> None:
        self._connection.close()

    def _column(self, query: str, *parameters: int) -> NDArray[Any]:
        return self._connection.execute(query, list(parameters)).fetchnumpy()["value"]

    def neuron(self, layer: int, neuron: int) -> Floats:
        return self._column("SELECT value FROM tall WHERE layer = ? AND neuron = ? ORDER BY token", layer, neuron)

    def token(self, token: int) -> Floats:
        return self._column("SELECT value FROM tall WHERE token = ? ORDER BY layer, neuron", token)

    def concept_mean(self, tokens: int) -> Floats:
        query = """SELECT avg(value)::FLOAT AS value FROM tall WHERE token < ? AND token % ? <> 0
                   GROUP BY layer, neuron ORDER BY layer, neuron"""
        return self._column(query, tokens, LENGTH)

    def examples(self, layer: int, neuron: int) -> list[int]:
        query = """SELECT arg_max(token, value) AS value FROM tall WHERE layer = ? AND neuron = ?
                   GROUP BY token // ? ORDER BY max(tall.value) DESC LIMIT ?"""
        return self._column(query, layer, neuron, LENGTH, TOP).tolist()


class Nfinspect(Store):
    """A run file, written with its statistics by the recorder of a capture, asked through `nf.open_run`."""

    def write(self, folder: Path, values: Sequence[Floats]) -> None:
        from nfinspect.capturing.arrays import ArrayPrompt, write_run
        from nfinspect_store.types import Layer

        prompts = len(values[0]) // LENGTH
        words = [f" w{i}" for i in range(LENGTH)]
        write_run(
            folder / "run.duckdb",
            layers=[Layer(i, "mlp", i, f"layers.{i}", v.shape[1], "silu", "positive") for i, v in enumerate(values)],
            prompts=[
                ArrayPrompt("tulip" if i < prompts // 4 else "corpus", "", list(range(LENGTH)), words, LENGTH)
                for i in range(prompts)
            ],
            values=lambda prompt, layer: values[layer.layer][prompt * LENGTH : (prompt + 1) * LENGTH],
        )

    def open(self, folder: Path) -> None:
        import nfinspect as nf

        self._run = nf.open_run(folder / "run.duckdb")

    def close(self) -> None:
        self._run.close()

    def neuron(self, layer: int, neuron: int) -> Floats:
        return self._run.neuron(layer, neuron)

    def token(self, token: int) -> Floats:
        return self._run.token_values(token)

    def concept_mean(self, tokens: int) -> Floats:
        return self._run.prompt_means("all", "mlp", ["tulip"]).values.mean(axis=0)

    def examples(self, layer: int, neuron: int) -> list[int]:
        found = self._run.examples("mlp", layer, neuron)
        return [example.token_idx for example in found if example.kind == "top"]


STORES: dict[str, Callable[[], Store]] = {
    "np.memmap": Memmap,
    "safetensors": Safetensors,
    "HDF5": Hdf5,
    "zarr": Zarr,
    "Parquet": Parquet,
    "DuckDB, tall": TallDuckdb,
    "nfinspect": Nfinspect,
}


def median_seconds(work: Callable[[], object], times: int) -> float:
    taken: list[float] = []
    while len(taken) < times and sum(taken) < PATIENCE:
        taken.append(seconds(work))
    return statistics.median(taken)


def check(store: Store, values: Sequence[Floats], concept: int) -> None:
    """Every answer against the array itself. Raises AssertionError."""
    for layer, neuron, token in ((0, 0, 0), (len(values) - 1, values[0].shape[1] - 1, len(values[0]) - 1)):
        assert np.array_equal(store.neuron(layer, neuron), values[layer][:, neuron]), "another neuron"
        assert np.array_equal(store.token(token), np.concatenate([v[token] for v in values])), "another token"
        expected = top_tokens(values[layer][:, neuron])
        assert store.examples(layer, neuron)[:TOP] == expected, f"other examples than {expected}"
    means = np.concatenate([mean_of(v[:concept]) for v in values])
    assert np.allclose(store.concept_mean(concept), means, rtol=1e-4, atol=1e-6), "another mean"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=STORES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokens", type=int)
    chosen = parser.parse_args()
    model = models.build("gated")
    values = [v.numpy() for v in models.reference(model, models.batches(model, chosen.tokens, LENGTH))]
    tokens, neurons = values[0].shape
    concept = tokens // 4 // LENGTH * LENGTH
    store = STORES[chosen.store]()
    written = median_seconds(lambda: store.write(empty(chosen.folder), values), 3)
    count = tokens * neurons * len(values)
    row: dict[str, Any] = {
        "store": chosen.store,
        "values": count,
        "bytes_per_value": size(chosen.folder) / count,
        "values_per_second": count / written,
    }
    rng = np.random.default_rng(0)

    def opened() -> None:
        store.open(chosen.folder)
        store.neuron(3, int(rng.integers(neurons)))
        store.close()

    row["opened_ms"] = 1e3 * median_seconds(opened, 5)
    store.open(chosen.folder)
    check(store, values, concept)
    questions: dict[str, Callable[[], object]] = {
        "neuron_ms": lambda: store.neuron(int(rng.integers(len(values))), int(rng.integers(neurons))),
        "token_ms": lambda: store.token(int(rng.integers(tokens))),
        "concept_ms": lambda: store.concept_mean(concept),
        "examples_ms": lambda: store.examples(int(rng.integers(len(values))), int(rng.integers(neurons))),
    }
    for name, ask in questions.items():
        row[name] = 1e3 * median_seconds(ask, ASKED)
    store.close()
    shutil.rmtree(chosen.folder)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
