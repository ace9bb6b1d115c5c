"""How the time and the memory of recording grow: with tokens, neurons, layers, prompts and writers.

    python -m tests.benchmarks.bench_growth [--quick] [--page FILE] [--axis NAME …]

Arrays go through the recorder and the writer as a capture hands them over (feeding.py). Each size has a process of its
own. The time is that of the processor, which other processes lengthen less, and that which passed, in brackets; medians
of three runs. Memory is the most that is resident above what was before the first of them. With --page the curves are
drawn, too, beside the page.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from nfinspect_store.processors import processor_count
from tests.benchmarks.curves import Column, draw
from tests.benchmarks.feeding import Source, gated, record
from tests.benchmarks.memory import peak_mb
from tests.benchmarks.report import SMALLER, conditions, exponent, figure, options, table, tell

ROUNDS = 3


@dataclass(frozen=True)
class Size:
    """A run to be recorded. at: where it stands on its axis."""

    at: int
    tokens: int = 4096
    layers: int = 8
    neurons: int = 1408
    length: int = 128
    writers: int = 1

    @property
    def values(self) -> int:
        return self.tokens * self.layers * self.neurons


@dataclass(frozen=True)
class Grown:
    """seconds: of the processor; passed: seconds; peak: MB above what was resident before."""

    seconds: float
    passed: float
    peak: float


AXES: dict[str, tuple[Size, ...]] = {
    "tokens": tuple(Size(n, tokens=n) for n in (2048, 4096, 8192, 16_384, 32_768)),
    "neurons of a layer": tuple(Size(n, tokens=2048, layers=4, neurons=n) for n in (1024, 2048, 4096, 8192, 16_384)),
    "layers": tuple(Size(n, tokens=2048, layers=n, neurons=2048) for n in (2, 4, 8, 16, 32)),
    "prompts": tuple(Size(n, length=4096 // n) for n in (4, 16, 64, 256, 1024, 4096)),
    "writers": tuple(Size(n, tokens=16_384, writers=n) for n in range(1, processor_count() + 1)),
}
"""All but the size on the axis stays as it is."""


def smaller(size: Size) -> Size:
    """Of as many prompts as before, where these grow."""
    tokens = max(size.tokens // SMALLER, size.at if size.length * size.at == size.tokens else 0, 32)
    return Size(size.at, tokens, size.layers, size.neurons, min(size.length, tokens), size.writers)


def measured(size: Size, folder: Path, rounds: int) -> Grown:
    """In this process, whose memory has to be as it was when it began."""
    source = Source(gated(size.layers, size.neurons), size.length)
    times: list[tuple[float, float]] = []

    def run() -> None:
        path = folder / "run.duckdb"
        start = time.process_time(), time.perf_counter()
        record(path, source, size.tokens, writers=size.writers)
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
        path.unlink()

    peak = peak_mb(run)
    for _ in range(rounds - 1):
        run()
    seconds, passed = map(statistics.median, zip(*times, strict=True))
    return Grown(seconds, passed, peak)


def apart(size: Size, folder: Path, rounds: int) -> Grown:
    """Measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_growth", "--size", json.dumps([*vars(size).values()])]
    command += ["--folder", str(folder), "--rounds", str(rounds)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{size}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Grown(*json.loads(done.stdout.splitlines()[-1]))


def field_of(axis: str) -> str:
    """Which seconds grow: several writers share the same work, so that only the time that passed tells of them."""
    return "passed" if axis == "writers" else "seconds"


def rows_of(axis: str, sizes: tuple[Size, ...], found: list[Grown]) -> str:
    """The table of one axis."""
    at = [size.at for size in sizes]
    seconds, peaks = [getattr(one, field_of(axis)) for one in found], [one.peak for one in found]
    a_value = (second / size.values * 1e9 for size, second in zip(sizes, seconds, strict=True))
    told = (f"{figure(one.seconds)} ({figure(one.passed)})" for one in found)
    lines: list[list[object]] = [
        ["values", *(f"{size.values / 1e6:,.1f} M" for size in sizes), None],
        ["seconds", *told, figure(exponent(at, seconds))],
        ["ns per value", *map(figure, a_value), None],
        ["peak MB", *map(figure, peaks), figure(exponent(at, peaks))],
    ]
    return table([axis, *(f"{n:,}" for n in at), "growth"], lines)


def column(axis: str, sizes: tuple[Size, ...], found: list[Grown], *, first: bool) -> Column:
    """The curves of one axis. first: whether it stands at the left, where the labels are."""
    field = field_of(axis)
    label = "seconds that passed" if field == "passed" else "seconds of the processor" if first else ""
    return Column(
        axis,
        [size.at for size in sizes],
        {"": [getattr(one, field) for one in found]},
        {"": [one.peak for one in found]},
        label,
        "MB above the start" if first else "",
    )


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--axis", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--size", type=json.loads, help="measure this one alone, in this process; prints JSON")
    parser.add_argument("--folder", type=Path, help="where to put the runs, which are deleted")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args(words)
    if chosen.size:
        print(json.dumps([*vars(measured(Size(*chosen.size), chosen.folder, chosen.rounds)).values()]))
        return
    lines = [conditions(quick=chosen.quick)]
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    rounds = 1 if chosen.quick else chosen.rounds
    sizes = {name: tuple(map(smaller, AXES[name][:2])) if chosen.quick else AXES[name] for name in chosen.axis}
    found = {}
    try:
        for name, of_axis in sizes.items():
            found[name] = [apart(size, folder, rounds) for size in of_axis]
            lines.append(rows_of(name, of_axis, found[name]))
            print(lines[-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines.append(
        "*Growth* is the exponent over the last two sizes: 1 is a straight line through zero, less one with a fixed "
        "cost, 0 does not grow; that of writers is of the time that passed: -1 is linear, 0 no gain."
    )
    if chosen.page:
        place = chosen.page.parent / "growth.svg"
        of_axes = enumerate(found.items())
        draw([column(axis, sizes[axis], grown, first=not number) for number, (axis, grown) in of_axes], place)
        lines.append(f"![Time and memory of recording against its sizes]({place.name})")
    tell("bench-growth", "\n\n".join(lines), chosen.page)


if __name__ == "__main__":
    main()
