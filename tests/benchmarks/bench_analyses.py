"""What each analysis takes on runs of more and more tokens, and of more and more neurons.

The runs are planted (planted_activations): gated layers, prompts of 26 tokens of five concepts. The largest by neurons
is a run as a 135 M-parameter Llama gives it: 1,832 tokens x 46,080 neurons. Medians of three, without opening the
file: seconds that passed, and in brackets those of the processor, which other processes lengthen less. The growth is
the exponent of these over the last two sizes, 1 for a straight line, less where a fixed cost is left.

    python -m tests.benchmarks.bench_analyses [--quick] [--page FILE] [WORD …]

Words choose analyses by name.
"""

import resource
import shutil
import statistics
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
from tests.benchmarks.report import SMALLER, conditions, exponent, figure, options, table, tell

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


def grow(name: str, shapes: tuple[tuple[int, int, int], ...], folder: Path, chosen: list[str]) -> str:
    found: dict[str, list[tuple[float, float]]] = {one: [] for one in chosen}
    for tokens, neurons, layers in shapes:
        path = folder / f"{tokens}x{neurons}.duckdb"
        plant(path, tokens, layers, neurons // layers, even=True)
        for one in chosen:
            found[one].append(seconds(path, ANALYSES[one]))
        path.unlink()
    cells = [tokens * neurons for tokens, neurons, _ in shapes]
    rows = []
    for one, times in found.items():
        used = [each for _, each in times]
        passed = (f"{passed:.3f} ({each:.3f})" for passed, each in times)
        rows.append([one, *passed, figure(used[-1] / cells[-1] * 1e9), figure(exponent(cells, used))])
    heads = (f"{tokens:,} x {neurons:,}" for tokens, neurons, _ in shapes)
    return table([name, *heads, "ns a value", "growth"], rows)


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("word", nargs="*")
    given = parser.parse_args(words)
    lines = [conditions(quick=given.quick)]
    chosen = [one for one in ANALYSES if not given.word or any(word in one for word in given.word)]
    folder = Path(tempfile.mkdtemp())
    by_tokens, by_neurons = BY_TOKENS, BY_NEURONS
    if given.quick:
        by_tokens = tuple((max(tokens // SMALLER, 300), 64, 4) for tokens, _, _ in BY_TOKENS[-2:])
        by_neurons = tuple((300, 32 * layers, layers) for _, _, layers in BY_NEURONS[:2])
    try:
        lines.append(grow("by tokens", by_tokens, folder, chosen))
        lines.append(grow("by neurons", by_neurons, folder, chosen))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines.append(
        f"Goal: at most {ASKED:g} s for {BY_NEURONS[-1][0]:,} x {BY_NEURONS[-1][1]:,}. Peak memory {peak:,.0f} MB, "
        "writing the runs included."
    )
    tell("bench-analyses", "\n\n".join(lines), given.page)


if __name__ == "__main__":
    main()
