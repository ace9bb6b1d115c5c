"""Where the time of recording goes: nanoseconds of processor time per value, stage by stage, and the cost of a run.

    python -m tests.benchmarks.bench_stages [--quick] [--page FILE]

Arrays go through the recorder and the writer as a capture hands them over (feeding.py), for prompts of several lengths,
two shapes, and each way of keeping values. The clocks stand around the product's own functions, put there from outside;
a stage does not include the stages inside it. Medians of three runs.
"""

import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nfinspect.capturing import recorder as recording
from nfinspect.capturing.examples import RandomTokens
from nfinspect.capturing.statistics import LayerStatistics
from nfinspect_store import blocks, writer
from nfinspect_store.types import Keep, Layer, Precision
from tests.benchmarks.feeding import Source, gated, gpt2, record
from tests.benchmarks.report import SMALLER, conditions, figure, options, table, tell

LENGTHS = (1, 26, 128, 1024)
SHAPES: dict[str, tuple[Callable[[], list[Layer]], int]] = {
    "Gated, 8 x 1,408 neurons": (gated, 4096),
    "GPT-2-small's shape, 12 x 3,072 neurons": (gpt2, 1024),
}
"""Layers and tokens."""

WAYS: dict[str, tuple[Keep, Precision]] = {
    "float32": ("all", "float32"),
    "float16": ("all", "float16"),
    "int8": ("all", "int8"),
    "--keep stats": ("stats", "float32"),
}
ROUNDS = 3
ASKED = 300
"""Milliseconds that a run may cost whatever its size: open, classes, final commit, close."""

STAGES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("statistics", LayerStatistics, ("begin",)),
    ("examples", RandomTokens, ("add",)),
    ("examples", recording._LayerRecord, ("begin_random",)),
    ("turning", blocks.BlockBuffer, ("_take",)),
    ("blocks", blocks.BlockBuffer, ("_rows",)),
    ("blocks", blocks, ("reduced",)),
    ("waiting", blocks.BlockStream, ("_wait_until_at_most", "_end")),
    ("rows", writer.RunWriter, ("_insert_segment",)),
    ("open", writer.RunWriter, ("_lay_out", "__init__")),
    ("open", writer, ("create",)),
    ("statistics' tables", writer.RunWriter, ("_replace_statistics",)),
    ("classes", recording, ("classify_tables",)),
    ("commit", writer.RunWriter, ("commit",)),
    ("close", writer.RunWriter, ("close",)),
)
"""What each stage is: functions of a class or module. `statistics` are those of neurons, concepts and prompts with the
examples of largest and smallest values, in one pass; `examples` are the random ones; `blocks` rounds and packs them,
`turning` takes digests, too.
"""

PER_VALUE = ("statistics", "examples", "turning", "blocks", "rows")
FIXED = ("open", "statistics' tables", "classes", "commit", "close")
"""`open` and `close` are of the file; `commit` is what the others leave of it: digests, and the sync of the disk."""


@dataclass
class Clocks:
    """Seconds of each stage on the thread that made them, without the stages inside it."""

    def __post_init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._thread = threading.get_ident()
        self._inside: list[list[float]] = []  # wall and processor time of the stages inside each open one

    def around(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return work(*args, **kwargs)
            self._inside.append([0.0, 0.0])
            start = time.perf_counter(), time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start[0], time.thread_time() - start[1]
                within = self._inside.pop()
                self.wall[stage] += whole[0] - within[0]
                self.cpu[stage] += whole[1] - within[1]
                if self._inside:
                    self._inside[-1][0] += whole[0]
                    self._inside[-1][1] += whole[1]

        return timed


@contextmanager
def clocked() -> Iterator[Clocks]:
    """Clocks around all stages."""
    clocks = Clocks()
    kept = []
    try:
        for stage, owner, names in STAGES:
            for name in names:
                plain = vars(owner)[name]
                kept.append((owner, name, plain))
                work = plain.__func__ if isinstance(plain, staticmethod) else plain
                timed = clocks.around(stage, work)
                setattr(owner, name, staticmethod(timed) if isinstance(plain, staticmethod) else timed)
        yield clocks
    finally:
        for owner, name, plain in reversed(kept):
            setattr(owner, name, plain)


def once(path: Path, source: Source, tokens: int, keep: Keep, precision: Precision) -> dict[str, float]:
    """ns per value: of processor time by stage and in all, and that passed; ms that passed in what a run costs once."""
    with clocked() as clocks:
        start = time.perf_counter(), time.process_time(), time.thread_time()
        values = record(path, source, tokens, keep=keep, precision=precision) * source.neurons
        wall, cpu, own = time.perf_counter() - start[0], time.process_time() - start[1], time.thread_time() - start[2]
    path.unlink()
    found = {stage: clocks.cpu[stage] / values * 1e9 for stage in PER_VALUE}
    found["the rest"] = (own - sum(clocks.cpu.values())) / values * 1e9
    found["INSERT"] = (cpu - own) / values * 1e9
    found["together"] = sum(found.values())
    found["waiting"], found["passed"] = clocks.wall["waiting"] / values * 1e9, wall / values * 1e9
    found |= {stage: clocks.wall[stage] * 1e3 for stage in FIXED}
    found["fixed"] = sum(found[stage] for stage in FIXED)
    return found


def measured(layers: list[Layer], tokens: int, folder: Path, rounds: int) -> Iterator[list[str | None]]:
    for length in LENGTHS:
        source = Source(layers, length)
        for way, (keep, precision) in WAYS.items():
            found = [once(folder / "run.duckdb", source, tokens, keep, precision) for _ in range(rounds)]
            stages = [figure(statistics.median(one[stage] for one in found)) for stage in COLUMNS]
            yield [f"{length:,}, {way}", *stages]


COLUMNS = (*PER_VALUE, "the rest", "INSERT", "together", "waiting", "passed", *FIXED, "fixed")
HEADS = (
    "prompts of, kept as",
    *PER_VALUE,
    "the rest",
    "INSERT, in other threads",
    "**together**",
    "waiting for INSERT",
    "whole run, passed",
    *(f"{stage}, ms" for stage in FIXED),
    f"**once a run, ms (goal {ASKED})**",
)


def main(words: list[str] | None = None) -> None:
    chosen = options(__doc__ or "").parse_args(words)
    lines = [conditions(quick=chosen.quick)]
    torch.set_num_threads(1)  # a thread's clock is that thread's alone
    folder = Path(tempfile.mkdtemp())
    try:
        for name, (shape, tokens) in SHAPES.items():
            record(folder / "warm.duckdb", Source(shape(), 26), 64)
            (folder / "warm.duckdb").unlink()
            few, rounds = (max(tokens // SMALLER, 26), 1) if chosen.quick else (tokens, ROUNDS)
            rows = list(measured(shape(), few, folder, rounds))
            lines += [
                f"**{name}**, {few:,} tokens a run: nanoseconds per value, of the processor up to *together*, and that "
                "passed; then milliseconds that passed once in a run.",
                table(HEADS, rows),
            ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell("bench-stages", "\n\n".join(lines), chosen.page)


if __name__ == "__main__":
    main()
