"""A run of 1 G values, and one of 5 M tokens with statistics alone: speed of recording, memory, questions, every pane.

    python -m tests.benchmarks.bench_large [--quick] [--page FILE] [--folder FOLDER] [--only values|stats]

GPT-2-small's shape, 12 x 3,072 neurons, 27,136 tokens in prompts of 128: 4.1 GB of disk, deleted afterwards. First as
many as 100 M values alone, then all, in one process; arrays go through the recorder and the writer as a capture hands
them over (feeding.py). The other run has 2 layers of 256 neurons, so that 5 M tokens take minutes.
"""

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from nfinspect.analyses import spec
from nfinspect.capturing.recorder import Recorder
from nfinspect.results import find_or_compute
from nfinspect_store.reader import RunFile
from tests.benchmarks import panes
from tests.benchmarks.feeding import Source, gpt2, record
from tests.benchmarks.memory import peak_mb, resident
from tests.benchmarks.report import SMALLER, conditions, exponent, figure, options, table, tell

VALUES, PART = 1_000_000_000, 100_000_000
STATS_TOKENS, STATS_EVERY = 5_000_000, 500_000
WINDOW = 256
"""Tokens of a batch; the time between two batches is a window."""

QUESTIONS = 21
ROUNDS = 5
"""How often each pane is visited."""

ASKED = 50
"""Milliseconds for one neuron or one token."""

ANALYSES = {"ngrams": {"n": 1}, "positions": {}, "delta": {}, "sinks": {}}
"""Computed and saved, so that their panes have something to show. With their options."""


@dataclass
class Watch:
    """Looks at the clock and at the memory after each batch."""

    neurons: int
    start: float = field(default_factory=time.perf_counter)
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def __call__(self, recorder: Recorder) -> None:
        self.tokens.append(recorder.tokens)
        self.seconds.append(time.perf_counter() - self.start)
        self.memory.append(resident())

    def rate(self, low: int, high: int) -> float:
        """The median of the windows in which values low to high came, M values/s."""
        values, seconds = np.array([0, *self.tokens]) * self.neurons, np.array([0, *self.seconds])
        inside = (values[1:] > low) & (values[1:] <= high)
        return float(np.median((np.diff(values) / np.diff(seconds))[inside])) / 1e6 if inside.any() else math.nan


@dataclass(frozen=True)
class Recorded:
    values: int
    seconds: float
    bytes: int
    watch: Watch

    @property
    def rate(self) -> float:
        """M values/s, opening, commits and closing included."""
        return self.values / self.seconds / 1e6


def recorded(path: Path, source: Source, values: int) -> Recorded:
    watch = Watch(source.neurons)
    tokens = record(path, source, -(-values // source.neurons), after=watch)
    return Recorded(tokens * source.neurons, time.perf_counter() - watch.start, path.stat().st_size, watch)


def of_values(folder: Path, quick: bool) -> list[str]:
    """Recording 1 G values, and everything that can be asked of them."""
    store = folder / "values"
    store.mkdir()
    all_values, part = (VALUES // SMALLER, PART // SMALLER) if quick else (VALUES, PART)
    source = Source(gpt2(), 128, WINDOW)
    small = recorded(store / "part.duckdb", source, part)
    before = resident()
    whole = recorded(store / "large.duckdb", source, all_values)
    # The first windows fill the queue to the disk, and are faster than the disk.
    first, last = whole.watch.rate(part // 2, 3 * part // 2), whole.watch.rate(whole.values - part, whole.values)
    rows = [
        ["whole runs, M values/s", figure(small.rate), figure(whole.rate), figure(whole.rate / small.rate)],
        ["median window near there, in the larger run, M/s", figure(first), figure(last), figure(last / first)],
        ["seconds", figure(small.seconds), figure(whole.seconds), None],
        ["bytes per value", f"{small.bytes / small.values:.3f}", f"{whole.bytes / whole.values:.3f}", None],
    ]
    heads = ["recording", f"{small.values / 1e6:,.0f} M values", f"{whole.values / 1e6:,.0f} M", "ratio (goal >= 0.9)"]
    parts = [table(heads, rows)]
    parts.append(memory_table("values, M", [n * source.neurons / 1e6 for n in whole.watch.tokens], whole.watch, before))
    parts.append(questions(store / "large.duckdb"))
    parts.append(analysed(store / "large.duckdb"))
    parts.append(panes.timed(store, "large", "part", 1 if quick else ROUNDS))
    shutil.rmtree(store)
    return parts


def of_stats(folder: Path, quick: bool) -> list[str]:
    """Statistics over 5 M tokens."""
    store = folder / "stats"
    store.mkdir()
    tokens, every = (STATS_TOKENS // SMALLER, STATS_EVERY // SMALLER) if quick else (STATS_TOKENS, STATS_EVERY)
    source = Source(gpt2(2, 256), 1024)
    before = resident()
    watch = Watch(source.neurons)
    read = record(store / "stats.duckdb", source, tokens, keep="stats", after=watch)
    seconds = time.perf_counter() - watch.start
    larger = seconds * 12 * 3072 / source.neurons / 3600
    parts = [
        f"`--keep stats`, 2 x 256 neurons, {read:,} tokens in prompts of 1,024: {figure(seconds)} s, "
        f"{figure(read / seconds)} tokens/s, {figure(seconds / read / source.neurons * 1e9)} ns per value, "
        f"{(store / 'stats.duckdb').stat().st_size / 2**20:,.0f} MB of disk. GPT-2-small's 12 x 3,072 neurons would "
        f"take {figure(larger)} hours at that.",
        memory_table("tokens, k", [n / 1e3 for n in watch.tokens], watch, before, every / 1e3),
        panes.timed(store, "stats", None, 1 if quick else ROUNDS),
    ]
    shutil.rmtree(store)
    return parts


def memory_table(name: str, at: list[float], watch: Watch, before: float, every: float = 0) -> str:
    """Resident memory over the time of recording. at: of each look, which are shown `every` so many."""
    step = every or at[-1] / 10
    wanted = (min(step * k, at[-1]) for k in range(1, round(at[-1] / step) + 1))
    marks = list(dict.fromkeys(next(i for i, n in enumerate(at) if n >= some) for some in wanted))
    memory = [watch.memory[i] for i in marks]
    half = max(len(marks) // 2 - 1, 0)
    growth = exponent([at[marks[half]], at[marks[-1]]], [memory[half] - before, memory[-1] - before])
    return table(
        [name, "0", *(f"{at[i]:,.0f}" for i in marks), "most", "growth from the half on, of what was added"],
        [["resident MB", *(f"{m:,.0f}" for m in (before, *memory, max(watch.memory))), figure(growth)]],
    )


def questions(path: Path) -> str:
    """One neuron and one token, another each time."""
    rng = np.random.default_rng(1)
    with RunFile.open(path) as run:
        tokens, layers, neurons = run.tokens, len(run.layers), run.layers[0].neurons
        one = "SELECT token_idx, value FROM activations WHERE layer = ? AND neuron = ? ORDER BY token_idx"
        other = "SELECT layer, neuron, value FROM activations WHERE token_idx = ?"
        asked: dict[str, Callable[[RunFile], object]] = {
            f"one neuron, {tokens:,} values": lambda r: r.neuron(*_pair(rng, layers, neurons)),
            "one neuron, SQL": lambda r: r.sql(one, _pair(rng, layers, neurons)).fetchnumpy(),
            f"one token, {layers * neurons:,} values": lambda r: r.token_values(int(rng.integers(tokens))),
            "one token, SQL": lambda r: r.sql(other, [int(rng.integers(tokens))]).fetchnumpy(),
        }
        _read_through(path)
        warm = {
            name: [_milliseconds(lambda ask=ask: ask(run)) for _ in range(QUESTIONS)] for name, ask in asked.items()
        }
    rows = []
    for name, ask in asked.items():
        cold = statistics.median(_from_disk(path, ask) for _ in range(3))
        rows.append([name, *map(figure, (statistics.median(warm[name]), max(warm[name]), cold))])
    heads = ["question", f"median of {QUESTIONS}, ms (goal {ASKED})", "worst, ms"]
    return table([*heads, "from disk, opening it included, ms"], rows)


def _pair(rng: np.random.Generator, layers: int, neurons: int) -> list[int]:
    return [int(rng.integers(layers)), int(rng.integers(neurons))]


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _read_through(path: Path) -> None:
    """So that the file is in the operating system's memory, as far as there is room."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def _from_disk(path: Path, ask: Callable[[RunFile], object]) -> float:
    """With the file out of the operating system's memory. In a connection of its own, opening it included."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)

    def work() -> None:
        with RunFile.open(path) as run:
            ask(run)

    return _milliseconds(work)


def analysed(path: Path) -> str:
    """Analyses over all values, which are saved beside the run."""
    rows = []
    for name, chosen in ANALYSES.items():
        with RunFile.open(path) as run:
            taken: list[float] = []
            work = lambda name=name, chosen=chosen, run=run: find_or_compute(  # noqa: E731
                spec(name), run, "mlp", None, **chosen
            )
            peak = peak_mb(lambda work=work, taken=taken: taken.append(_milliseconds(work)))
            rows.append([name, figure(taken[0] / 1e3), figure(peak)])
    return table(["analysis of the whole run", "seconds", "peak MB above the start"], rows)


PARTS: dict[str, Callable[[Path, bool], list[str]]] = {"values": of_values, "stats": of_stats}


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--folder", type=Path, help="where there is room for 5 GB")
    parser.add_argument("--only", choices=list(PARTS))
    chosen = parser.parse_args(words)
    lines = [conditions(quick=chosen.quick)]
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        needed = 4.6 * VALUES / (SMALLER if chosen.quick else 1)
        if shutil.disk_usage(folder).free < 1.2 * needed:
            raise SystemExit(f"needs {needed / 1e9:.0f} GB at {folder}: choose another --folder")
        for name, part in PARTS.items():
            if chosen.only in (None, name):
                lines += part(folder, chosen.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell("bench-large", "\n\n".join(lines), chosen.page)


if __name__ == "__main__":
    main()
