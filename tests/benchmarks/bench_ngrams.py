"""N-gram and positional neurons of one layer of 4,096 neurons over 1 M tokens: tokens/s and memory.

The run is generated prompt by prompt (ReLU neurons that fire on 1 to 20 % of the tokens, the first 64 of them on one
token each), takes about 17 GB of disk and is deleted afterwards. `--tokens` and `--folder` choose a smaller one and
another place. Each analysis runs in a process of its own, so that its memory can be told.
"""

import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfinspect.analyses.positions import positions
from nfinspect.analysis.ngrams import ngrams
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer
from tests.benchmarks.report import SMALLER, options

NEURONS, LENGTH, VOCABULARY, PLANTED = 4096, 1024, 50_257, 64
TOKENS = 1_000_000
ASKED = 4096
"""MB of memory at most."""


def make_run(path: Path, tokens: int) -> None:
    """A run of prompts of 1,024 tokens whose frequencies fall like 1 / (rank + 5)."""
    weights = 1 / (np.arange(VOCABULARY) + 5)
    held = np.cumsum(weights / weights.sum())
    rng = np.random.default_rng(0)
    thresholds = np.interp(rng.random(NEURONS), (0, 1), (0.85, 2.3)).astype(np.float32)
    noise = rng.standard_normal((4 * LENGTH, NEURONS), dtype=np.float32)

    def token_ids(prompt: int) -> NDArray[np.int64]:
        drawn = np.random.default_rng([1, prompt]).random(LENGTH)
        return np.minimum(np.searchsorted(held, drawn), VOCABULARY - 1)

    def values(prompt: int, layer: Layer) -> NDArray[np.float32]:
        start, shift = np.random.default_rng([2, prompt]).integers(0, (3 * LENGTH, NEURONS))
        found = np.roll(noise[start : start + LENGTH], shift, axis=1) - thresholds
        np.maximum(found, 0, out=found)
        found[:, :PLANTED] = token_ids(prompt)[:, None] == np.arange(PLANTED) + 100
        return found

    prompts = [
        ArrayPrompt("corpus", "", ids, [f" w{i}" for i in ids], LENGTH)
        for ids in (token_ids(i).tolist() for i in range(-(-tokens // LENGTH)))
    ]
    write_run(path, layers=[Layer(0, "mlp", 0, "h.0", NEURONS, "relu", "positive")], prompts=prompts, values=values)


def analysed(path: Path, what: int | str) -> tuple[float, int, float]:
    """Seconds, neurons found, and the peak of this process's memory in MB."""
    started = time.perf_counter()
    with RunFile.open(path) as run:
        found = len(ngrams(run, what).detectors) if isinstance(what, int) else len(positions(run).neurons)
    return time.perf_counter() - started, found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(work: Callable[[Path, int | str], tuple[float, int, float]], path: Path, what: int | str):  # type: ignore[no-untyped-def]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, path, what).result()


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "", page=False)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args(words)
    tokens = chosen.tokens // SMALLER if chosen.quick else chosen.tokens
    place = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        path = place / "ngrams.duckdb"
        needed = tokens * NEURONS * 4.4
        if shutil.disk_usage(place).free < 1.2 * needed:
            print(f"needs {needed / 1e9:.0f} GB at {place}: choose another --folder or fewer --tokens")
            return
        started = time.perf_counter()
        make_run(path, tokens)
        with RunFile.open(path) as run:
            tokens = run.tokens
        print(
            f"a run of {tokens} tokens x {NEURONS} neurons, {path.stat().st_size / 1e9:.1f} GB, "
            f"made in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        for what in (1, 2, 3, "positions"):
            seconds, found, peak = apart(analysed, path, what)
            name = what if isinstance(what, str) else f"{what}-grams"
            print(
                f"{name}: {seconds:.1f} s, {tokens / seconds:.0f} tokens/s, {found} neurons found, "
                f"peak {peak:.0f} MB (asked <= {ASKED})",
                flush=True,
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
