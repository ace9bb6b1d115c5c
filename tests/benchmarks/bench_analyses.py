"""What each analysis takes on runs of more and more tokens, and of more and more neurons.

The runs are planted (planted_activations): gated layers, prompts of 26 tokens of five concepts. The largest by neurons
is a run as a 135 M-parameter Llama gives it: 1,832 tokens x 46,080 neurons. Medians of three, without opening the
file: seconds that passed, and in brackets those of the processor, which other processes lengthen less. The growth is
the exponent of these over the last two sizes, 1 for a straight line, less where a fixed cost is left. Words on the
command line choose analyses by name.
"""

import math
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nfinspect.analyses.sinks import sinks
from nfinspect.analysis.delta import delta
from nfinspect.analysis.health import HealthOptions, classify_run
from nfinspect.analysis.ngrams import ngrams
from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.positions import positions
from nfinspect.analysis.trace import trace
from nfinspect_store.reader import RunFile
from tests.benchmarks.planted_activations import CONCEPTS, plant

ANALYSES: dict[str, Callable[[RunFile], object]] = {
    "ngrams of 1": lambda run: ngrams(run, 1),
    "ngrams of 2": lambda run: ngrams(run, 2),
    "ngrams of 3": lambda run: ngrams(run, 3),
    "positions": lambda run: positions(run, allow_few=True),
    "delta": delta,
    "sinks": lambda run: sinks(run, "mlp"),
    "trace": lambda run: trace(run, CONCEPTS[0]),
    "overlap": lambda run: overlap(run, CONCEPTS[:4]),
    "health, skip-first": lambda run: classify_run(run, None, HealthOptions(skip_first=True)),
}

WIDTH = 1536
BY_TOKENS = tuple((tokens, 4096, 4) for tokens in (512, 2048, 8192, 32_768))
BY_NEURONS = tuple((1832, WIDTH * layers, layers) for layers in (3, 8, 30))
"""Tokens, neurons, layers."""

ROUNDS = 3
ASKED = 2.0
"""Seconds for the largest of BY_NEURONS."""


def seconds(path: Path, work: Callable[[RunFile], object]) -> tuple[float, float]:
    """That passed, and of the processor."""
    with RunFile.open(path) as run:
        work(run)  # imports, and the disk's cache
        times = []
        for _ in range(ROUNDS):
            start, used = time.perf_counter(), time.process_time()
            work(run)
            times.append((time.perf_counter() - start, time.process_time() - used))
    passed, used = map(statistics.median, zip(*times, strict=True))
    return passed, used


def grow(name: str, shapes: tuple[tuple[int, int, int], ...], folder: Path, chosen: list[str]) -> None:
    found: dict[str, list[tuple[float, float]]] = {one: [] for one in chosen}
    for tokens, neurons, layers in shapes:
        path = folder / f"{tokens}x{neurons}.duckdb"
        plant(path, tokens, layers, neurons // layers, even=True)
        for one in chosen:
            found[one].append(seconds(path, ANALYSES[one]))
        path.unlink()
    cells = [tokens * neurons for tokens, neurons, _ in shapes]
    heads = [f"{tokens:,} x {neurons:,}" for tokens, neurons, _ in shapes]
    print(f"\n{name:20}" + "".join(f"{head:>18}" for head in heads) + f"{'ns a value':>12}{'growth':>8}")
    for one, times in found.items():
        used = [each for _, each in times]
        exponent = math.log(used[-1] / used[-2]) / math.log(cells[-1] / cells[-2])
        row = "".join(f"{f'{passed:.3f} ({each:.3f})':>18}" for passed, each in times)
        print(f"{one:20}{row}{used[-1] / cells[-1] * 1e9:>12.2f}{exponent:>8.2f}", flush=True)


def main(words: list[str] | None = None) -> None:
    chosen = [one for one in ANALYSES if not words or any(word in one for word in words)]
    folder = Path(tempfile.mkdtemp())
    try:
        grow("by tokens", BY_TOKENS, folder, chosen)
        grow("by neurons", BY_NEURONS, folder, chosen)
        print(f"asked: at most {ASKED:g} s for {BY_NEURONS[-1][0]:,} x {BY_NEURONS[-1][1]:,}")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, with writing the runs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
