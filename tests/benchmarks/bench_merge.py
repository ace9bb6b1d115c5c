"""What it takes to merge the parts of a capture, and to read them where they are: against their size and their number.

    python -m tests.benchmarks.bench_merge [--quick] [--page FILE] [--only merge|stats|many|read]

Parts are recorded from arrays (feeding.py), 8 gated layers of 1,408 neurons in prompts of 128 tokens. Each merge, and
each reader, has a process of its own. The time is that of the processor, which other processes lengthen less, and that
which passed, in brackets. Memory is the most that is resident above what was before.

Of statistics alone three things grow, each by itself: the means of prompts, two for each prompt and neuron; the tokens,
with few neurons; and the parts, of many neurons. What one more of them takes is the difference to the column before.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfinspect.capturing.merging import merge_runs
from nfinspect_store.part_settings import SHARD, prompts_digest
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Keep, Layer
from tests.benchmarks.feeding import Source, gated, record
from tests.benchmarks.memory import peak_mb
from tests.benchmarks.report import SMALLER, conditions, exponent, figure, options, table, tell

LENGTH = 128
LAYERS = gated()
VALUES = sum(layer.neurons for layer in LAYERS)
"""Of a token."""

READS = 21
"""How often a question is asked, each time of another neuron or token."""

QUERY = "SELECT max(value) FROM activations WHERE layer = 3 AND neuron = ?"


@dataclass(frozen=True)
class Size:
    """gigabytes: of all parts' values together."""

    gigabytes: float
    parts: int

    def tokens(self, *, quick: bool) -> int:
        """Of a part, in whole prompts."""
        prompts = self.gigabytes * 1e9 / (4 * VALUES * LENGTH) / (SMALLER if quick else 1)
        return max(1, round(prompts / self.parts)) * LENGTH

    def values(self, *, quick: bool) -> int:
        return self.tokens(quick=quick) * self.parts * VALUES


BY_SIZE = (Size(0.2, 4), Size(0.8, 4), Size(3.0, 4))
BY_NUMBER = (Size(0.8, 2), Size(0.8, 8), Size(0.8, 16))
READ = (Size(0.8, 1), Size(0.8, 4), Size(0.8, 16))


@dataclass(frozen=True)
class Alone:
    """Statistics alone: of `prompts` prompts of all parts together, of so many tokens each."""

    prompts: int
    length: int
    parts: int
    layers: tuple[Layer, ...]

    def layers_of(self, *, quick: bool) -> tuple[Layer, ...]:
        return tuple(LAYERS) if quick else self.layers

    def in_part(self, *, quick: bool) -> int:
        """Prompts."""
        return max(1, round(self.prompts / self.parts / (SMALLER if quick else 1)))

    def counts(self, *, quick: bool) -> dict[str, int]:
        """Of all parts together: what grows."""
        prompts = self.in_part(quick=quick) * self.parts
        neurons = sum(layer.neurons for layer in self.layers_of(quick=quick))
        return {"mean": 2 * prompts * neurons, "token": prompts * self.length, "neuron of a part": neurons * self.parts}


ALONE: Mapping[str, tuple[Alone, ...]] = {
    "mean": tuple(Alone(prompts, 8, 4, tuple(LAYERS)) for prompts in (500, 2000, 4000)),
    "token": tuple(Alone(prompts, 1024, 4, tuple(gated(1, 64))) for prompts in (250, 1000, 2000)),
    "neuron of a part": tuple(Alone(16, 8, parts, tuple(gated(4, 14_336))) for parts in (2, 4, 8)),
}
MANY = (16, 64, 256)
"""Parts of a prompt each, of two layers of 64 neurons."""


def make_parts(folder: Path, size: Size, *, quick: bool) -> list[Path]:
    """Record the parts of one capture, of as many prompts each."""
    return recorded(folder, Source(LAYERS, LENGTH), size.tokens(quick=quick) // LENGTH, size.parts)


def recorded(folder: Path, source: Source, prompts: int, parts: int, keep: Keep = "all") -> list[Path]:
    """The parts of one capture, of so many prompts each."""

    def planned() -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for _ in range(parts):
            for batch, _ in source.batches(prompts * source.length):
                yield from ((one.concept, one.text, tuple(one.token_ids)) for one in batch)

    digest = prompts_digest(planned())
    paths = []
    for number in range(parts):
        told = {"part": number + 1, "of": parts, "first_prompt": number * prompts, "prompts": prompts}
        told |= {"all_prompts": parts * prompts, "precision": "float32", "plan": "benchmark"}
        paths.append(folder / f"r.part-{number + 1}-of-{parts}.duckdb")
        settings = {SHARD: told, "prompts_sha256": digest}
        record(paths[-1], source, prompts * source.length, keep=keep, settings=settings)
    return paths


# In a process of its own


def merged(out: Path, parts: list[Path], *, attach: bool) -> dict[str, float]:
    """What a merge takes: seconds of the processor, seconds, MB, and bytes of the file."""
    start = time.process_time(), time.perf_counter()
    peak = peak_mb(lambda: merge_runs(out, parts, attach=attach))
    seconds, passed = time.process_time() - start[0], time.perf_counter() - start[1]
    return {"seconds": seconds, "passed": passed, "peak": peak, "bytes": out.stat().st_size}


def read(path: Path) -> dict[str, float]:
    """ms of the processor until a run is open, and for its first and its next questions; MB of all together."""
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}

    def ask(name: str, question: Callable[[], object]) -> None:
        times = []
        for _ in range(READS):
            start = time.process_time()
            question()
            times.append((time.process_time() - start) * 1e3)
        found[f"{name}, first"], found[name] = times[0], statistics.median(times[1:])

    def work() -> None:
        start = time.process_time()
        with RunFile.open(path) as run:
            found["open"] = (time.process_time() - start) * 1e3
            layers: tuple[Layer, ...] = run.layers
            ask("neuron", lambda: run.neuron(int(rng.integers(len(layers))), int(rng.integers(layers[0].neurons))))
            ask("token", lambda: run.token_values(int(rng.integers(run.tokens))))
            ask("sql", lambda: run.sql(QUERY, [int(rng.integers(layers[0].neurons))]).fetchall())
            start = time.process_time()
            for layer in layers:
                for _ in run.blocks(layer, fired=True):
                    pass
            found["all"] = (time.process_time() - start) * 1e3

    found["peak"] = peak_mb(work)
    return found


def first_neuron(path: Path) -> dict[str, float]:
    """ms of the processor for the first question to a run that is open."""
    with RunFile.open(path) as run:
        start = time.process_time()
        run.neuron(0, 1)
        return {"first": (time.process_time() - start) * 1e3}


def panes(path: Path) -> dict[str, float]:
    """ms of the processor for panes of the app that read values, in the median of the visits after the first."""
    from tests.benchmarks.panes import own_home, steps, visit

    wanted = ("neuron", "prompt of a neuron", "SQL: a neuron")
    chosen = [step for step in steps(None) if step.name in wanted]
    with own_home():
        seen = asyncio.run(visit(path.parent, path.stem, chosen, 4))
    return {f"pane: {one.name}": statistics.median(used for _, used in one.times[1:]) for one in seen[1:]}


def apart(task: str, **given: Any) -> dict[str, float]:
    """A task in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_merge", "--task", json.dumps({"task": task, **given})]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def do(task: str, **given: Any) -> dict[str, float]:
    if task == "merge":
        return merged(Path(given["out"]), [Path(one) for one in given["parts"]], attach=given["attach"])
    return READERS[task](Path(given["path"]))


READERS: Mapping[str, Callable[[Path], dict[str, float]]] = {"read": read, "panes": panes, "first": first_neuron}


# Tables


def of_merges(size: Size, folder: Path, *, quick: bool) -> tuple[dict[str, float], dict[str, float]]:
    """What one file takes, and a run that is attached to its parts."""
    try:
        folder.mkdir()
        parts = [str(path) for path in make_parts(folder, size, quick=quick)]
        one, attached = (
            apart("merge", out=str(folder / f"{name}.duckdb"), parts=parts, attach=name == "attached")
            for name in ("one", "attached")
        )
        return one, attached
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def merge_table(
    head: str, sizes: tuple[Size, ...], found: list[tuple[dict[str, float], dict[str, float]]], *, quick: bool
) -> str:
    """sizes, and at what place on the axis: gigabytes, or parts."""
    at = [size.gigabytes if head == "GB of values" else size.parts for size in sizes]
    lines: list[list[object]] = [["values", *(f"{size.values(quick=quick) / 1e6:,.0f} M" for size in sizes), None]]
    for name, column in (("one file", 0), ("attached", 1)):
        told = [pair[column] for pair in found]
        seconds, peaks = [one["seconds"] for one in told], [one["peak"] for one in told]
        values = [size.values(quick=quick) for size in sizes]
        lines += [
            [f"{name}: seconds", *(both(one) for one in told), figure(exponent(at, seconds))],
            [f"{name}: ns per value", *(both(one, 1e9 / n) for one, n in zip(told, values, strict=True)), None],
            [f"{name}: peak MB", *map(figure, peaks), figure(exponent(at, peaks))],
            [f"{name}: MB of the file", *(figure(one["bytes"] / 1e6) for one in told), None],
        ]
    return table([head, *(f"{one:g}" for one in at), "growth"], lines)


def both(one: Mapping[str, float], times: float = 1) -> str:
    """The time of the processor and, in brackets, that which passed."""
    return f"{figure(one['seconds'] * times)} ({figure(one['passed'] * times)})"


def of_statistics(what: str, folder: Path, *, quick: bool) -> str:
    """A table of merges of parts with statistics alone, in which there is more and more of one thing."""
    sizes, found = ALONE[what][: 2 if quick else None], []
    for size in sizes:
        try:
            folder.mkdir()
            source = Source(size.layers_of(quick=quick), size.length)
            parts = recorded(folder, source, size.in_part(quick=quick), size.parts, keep="stats")
            given = {"out": str(folder / "one.duckdb"), "parts": [str(path) for path in parts], "attach": False}
            found.append(apart("merge", **given))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    counts = [size.counts(quick=quick)[what] for size in sizes]
    return statistics_table(what, sizes, counts, found)


def statistics_table(
    what: str, sizes: Sequence[Alone], counts: Sequence[int], found: Sequence[Mapping[str, float]]
) -> str:
    """counts: how many there are of what grows."""
    more: list[str | None] = [None]
    for i in range(1, len(sizes)):
        spent = found[i]["seconds"] - found[i - 1]["seconds"]
        more.append(figure(spent / (counts[i] - counts[i - 1]) * 1e9))
    seconds, peaks = [one["seconds"] for one in found], [one["peak"] for one in found]
    lines: list[list[object]] = [
        ["prompts x tokens", *(f"{size.prompts:,} x {size.length:,}" for size in sizes), None],
        ["parts", *(size.parts for size in sizes), None],
        ["statistics: seconds", *map(both, found), figure(exponent(counts, seconds))],
        [f"statistics: ns of the processor for one {what} more", *more, None],
        ["statistics: peak MB", *map(figure, peaks), figure(exponent(counts, peaks))],
        ["statistics: MB of the file", *(figure(one["bytes"] / 1e6) for one in found), None],
    ]
    head = f"{what}s" if what != "neuron of a part" else "neurons of parts"
    return table([head, *(f"{count:,}" for count in counts), "growth"], lines)


def of_many(folder: Path, *, quick: bool) -> str:
    """What attaching tiny parts takes, and the first question to a run that is attached to them."""
    many = (2, 4) if quick else MANY
    told = []
    for parts in many:
        try:
            folder.mkdir()
            paths = recorded(folder, Source(gated(2, 64), LENGTH), 1, parts)
            out = str(folder / "attached.duckdb")
            one = apart("merge", out=out, parts=[str(path) for path in paths], attach=True)
            told.append(one | apart("first", path=out))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    seconds, peaks, first = ([one[name] for one in told] for name in ("seconds", "peak", "first"))
    lines = [
        ["attached: seconds", *map(both, told), figure(exponent(many, seconds))],
        ["attached: ms per part", *(both(one, 1e3 / n) for one, n in zip(told, many, strict=True)), None],
        ["attached: peak MB", *map(figure, peaks), figure(exponent(many, peaks))],
        ["first neuron, ms", *map(figure, first), figure(exponent(many, first))],
        ["first neuron, ms per part", *(figure(one / n) for one, n in zip(first, many, strict=True)), None],
    ]
    return table(["tiny parts", *many, "growth"], lines)


ASKED = {
    "open": "open, ms",
    "neuron, first": "first neuron, ms",
    "neuron": "next neuron, ms",
    "token, first": "first token, ms",
    "token": "next token, ms",
    "sql, first": "first neuron in SQL, ms",
    "sql": "next neuron in SQL, ms",
    "all": "every value, ms",
    "peak": "peak MB",
    "pane: neuron": "pane: neuron, ms",
    "pane: prompt of a neuron": "pane: prompt of a neuron, ms",
    "pane: SQL: a neuron": "pane: SQL of a neuron, ms",
}


def of_reads(folder: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Of one file, and of runs attached to the same values in several parts."""
    found: dict[str, dict[str, float]] = {}
    for size in READ:
        here = folder / f"read-{size.parts}"
        try:
            here.mkdir()
            parts = make_parts(here, size, quick=quick)
            runs = {f"attached, {size.parts}": ("attached", True)}
            if size.parts == READ[0].parts:
                runs = {"one file": ("one", False), **runs}
            for name, (stem, attach) in runs.items():
                path = here / f"{stem}.duckdb"
                merge_runs(path, parts, attach=attach)
                found[name] = apart("read", path=str(path)) | apart("panes", path=str(path))
        finally:
            shutil.rmtree(here, ignore_errors=True)
    return found


def read_table(found: dict[str, dict[str, float]]) -> str:
    rows = [[head, *(figure(told[name]) for told in found.values())] for name, head in ASKED.items()]
    return table([f"{READ[0].gigabytes:g} GB of values", *found], rows)


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--task", type=json.loads, help="do this alone, in this process; prints JSON")
    parser.add_argument("--only", choices=("merge", "stats", "many", "read"), help="measure this alone; writes no page")
    parser.add_argument("--folder", type=Path, help="where to put the runs, which are deleted")
    chosen = parser.parse_args(words)
    if chosen.task:
        print(json.dumps(do(**chosen.task)))
        return
    lines = [conditions(quick=chosen.quick)]
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        if chosen.only in (None, "merge"):
            for head, sizes in (("GB of values", BY_SIZE), ("parts", BY_NUMBER)):
                found = [of_merges(size, folder / "parts", quick=chosen.quick) for size in sizes]
                lines.append(merge_table(head, sizes, found, quick=chosen.quick))
                print(lines[-1], file=sys.stderr, flush=True)
        if chosen.only in (None, "stats"):
            for what in ALONE:
                lines.append(of_statistics(what, folder / "parts", quick=chosen.quick))
                print(lines[-1], file=sys.stderr, flush=True)
        if chosen.only in (None, "many"):
            lines.append(of_many(folder / "parts", quick=chosen.quick))
            print(lines[-1], file=sys.stderr, flush=True)
        if chosen.only in (None, "read"):
            lines.append(read_table(of_reads(folder, quick=chosen.quick)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines.append(
        "*Growth* is the exponent over the last two: 1 is a straight line through zero, 0 does not grow. All times of "
        "readers are of the processor; *first* includes opening the parts."
    )
    tell("bench-merge", "\n\n".join(lines), chosen.page if not chosen.only else None)


if __name__ == "__main__":
    main()
