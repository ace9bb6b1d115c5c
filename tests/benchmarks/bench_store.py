"""The store against one np.save of the same array: 100.7 M float32 values, 4 layers x 3072 neurons x 8192 tokens.

Ingest speed and memory, bytes per value, and how long a warm question takes. Everything in one run, printed as ratios.
"""

import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.trace import trace
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect.capturing.transfer import by_neuron
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer, Prompt, TokenRows
from nfinspect_store.writer import RunWriter
from tests.benchmarks.report import SMALLER, options

LAYERS, NEURONS, TOKENS, BATCH = 4, 3072, 8192, 512
FEW = TOKENS // SMALLER
"""Tokens of --quick."""
ROUNDS = 5
CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")


def layers() -> list[Layer]:
    return [Layer(i, "mlp", i, f"h.{i}.mlp", NEURONS, "gelu_new", "positive") for i in range(LAYERS)]


def values(tokens: int) -> np.ndarray:
    """float32[layers, tokens, neurons]."""
    return np.random.default_rng(0).standard_normal((LAYERS, tokens, NEURONS), dtype=np.float32)


def ingest(path: Path, array: np.ndarray) -> None:
    """The values through the writer alone, as a capture hands them over."""
    writer = RunWriter.create(path, array_info("ingest", 0), layers())
    for index, start in enumerate(range(0, array.shape[1], BATCH)):
        tokens = np.arange(start, min(start + BATCH, array.shape[1]))
        size = len(tokens)
        none = [None] * size
        rows = TokenRows(tokens, np.full(size, index), tokens - start, tokens * 0, ["t"] * size, tokens < 0, none, none)
        for layer in range(LAYERS):
            writer.put(layer, by_neuron(array[layer, start : start + size]))
        writer.add([Prompt(index, "corpus", "", start, size, size)], rows, [])
    writer.commit(
        [], lambda tables: (_nothing("neurons", tables), _nothing("layer_health", tables)), {"status": "complete"}
    )
    writer.close()


def _nothing(table: str, tables):  # type: ignore[no-untyped-def]
    return tables.cursor().sql(f"FROM {table}").to_arrow_table()


def save(path: Path, array: np.ndarray, *, durably: bool) -> None:
    """np.save, with an fsync where asked: a commit of the store has one, np.save alone may leave all in memory."""
    with open(path, "wb") as file:
        np.save(file, array)
        if durably:
            file.flush()
            os.fsync(file.fileno())
    path.unlink()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def warm(name: str, work: Callable[[], object], asked: float) -> None:
    for _ in range(3):
        work()
    times = [seconds(work) * 1e3 for _ in range(21)]
    print(
        f"{name}: median {statistics.median(times):.1f} ms, worst of 21 {max(times):.1f} ms (asked <= {asked})",
        flush=True,
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(words: list[str] | None = None) -> None:
    quick = options(__doc__ or "", page=False).parse_args(words).quick
    tokens, rounds_asked = (FEW, 1) if quick else (TOKENS, ROUNDS)
    folder = Path(tempfile.mkdtemp())
    try:
        array = values(tokens)
        before = peak()
        rounds = []
        for round_ in range(rounds_asked):
            saved = [seconds(lambda d=d: save(folder / "array.npy", array, durably=d)) for d in (False, True)]
            path = folder / f"ingest{round_}.duckdb"
            rounds.append((seconds(lambda path=path: ingest(path, array)), *saved))
            stored = path.stat().st_size / array.size
            if round_:
                path.unlink()
        for name, column in zip(("ingest", "np.save", "np.save + fsync"), zip(*rounds, strict=True), strict=True):
            ratio = statistics.median(times / ours for (ours, *_), times in zip(rounds, column, strict=True))
            rates = ", ".join(f"{array.size / s / 1e6:.0f}" for s in column)
            print(f"{name}: {rates} M values/s" + (f"; ingest {ratio:.2f} x (asked >= 0.3)" if ratio != 1 else ""))
        print(
            f"{stored:.3f} bytes/value (asked <= 4.4), peak memory +{peak() - before:.0f} MB over the array",
            flush=True,
        )

        with RunFile.open(folder / "ingest0.duckdb") as run:
            warm(f"one neuron, {tokens} values", lambda: run.neuron(2, 1234), 10)
            warm("all neurons at one token", lambda: run.token_values(tokens // 2), 20)
            one = "SELECT token_idx, value FROM activations WHERE layer = 2 AND neuron = 1234 ORDER BY token_idx"
            warm("one neuron, SQL view", lambda: run.sql(one).fetchnumpy(), 10)
            token = f"SELECT layer, neuron, value FROM activations WHERE token_idx = {tokens // 2}"
            warm("all neurons at one token, SQL view", lambda: run.sql(token).fetchnumpy(), 20)
        (folder / "ingest0.duckdb").unlink()

        prompts = [ArrayPrompt(CONCEPTS[i % 5], f"prompt {i}", [1] * 32, ["t"] * 32, 12) for i in range(60)]
        rng = np.random.default_rng(1)
        big = [Layer(i, "mlp", i, f"h.{i}.mlp", NEURONS, "gelu_new", "positive") for i in range(12)]
        drawn = rng.standard_normal((32, NEURONS), dtype=np.float32)
        write_run(
            folder / "gpt2.duckdb",
            layers=big,
            prompts=prompts,
            values=lambda p, layer: drawn * (1 + (p * 7 + layer.layer) % 11),
        )
        with RunFile.open(folder / "gpt2.duckdb") as run:
            warm("trace, 36864 neurons x 60 prompts", lambda: trace(run, "tulip"), 100)
            warm("overlap of 4 concepts", lambda: overlap(run, CONCEPTS[:4]), 100)
            warm("overlap of 4 concepts by AUROC", lambda: overlap(run, CONCEPTS[:4], rank="auroc"), 100)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
