"""How quick the terminal app is, in a real pseudo-terminal of 80x24: from the start to the first picture, from a key to
the first and to the last change on the screen, how many bytes that takes, and what watching a capture costs it.

    python -m tests.benchmarks.bench_tui [--quick] [--page FILE]

Goals: first paint <= 0.4 s; key to paint p95 <= 50 ms, beside a capture <= 80; a token walk opens in <= 0.3 s; a move
of the cursor <= 1.5 kB, the next neuron <= 6 kB; a capture watched <= 1.05 x one that is not, <= 5 kB/s; idle: 0 bytes.
"""

import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))

from terminal import Terminal  # noqa: E402  (its folder has just been put on the path)

from nfinspect.backend.client import Backend, start  # noqa: E402
from nfinspect.capturing.arrays import ArrayPrompt, write_run  # noqa: E402
from nfinspect_store.types import Layer  # noqa: E402
from tests.benchmarks.report import conditions, figure, options, table, tell  # noqa: E402

MODEL = Path(__file__).resolve().parent.parent.parent / "samples" / "gpt2-relu"
CORPUS = MODEL.parent / "corpus"
SIZE = (80, 24)
QUIET = 0.15
"""Seconds without a byte after which a key is answered."""

CONCEPTS = ("tulip", "vietnam", "baseline")


@dataclass(frozen=True)
class Sizes:
    """Of the runs (layers, neurons, prompts, tokens), and how often each thing is done."""

    wide: tuple[int, int, int, int] = (25, 4_000, 32, 128)
    long: tuple[int, int, int, int] = (2, 48, 10, 100_000)
    small: tuple[int, int, int, int] = (4, 256, 30, 40)
    runs: int = 50
    starts: int = 7
    keys: int = 60
    openings: int = 7
    watched: int = 3
    tokens: int = 150_000


QUICK = Sizes((2, 40, 4, 16), (2, 8, 3, 200), (1, 8, 3, 8), 3, 1, 2, 1, 1, 2_000)


@dataclass(frozen=True)
class Answers:
    """What came after each of some keys: ms to the first and to the last change, bytes."""

    first: list[float]
    last: list[float]
    sent: list[int]

    def row(self, name: str, goal: object) -> list[object]:
        p95 = float(np.quantile(self.first, 0.95))
        middle = map(statistics.median, (self.first, self.last, self.sent))
        first, last, sent = map(figure, middle)
        return [name, first, figure(p95), goal, last, sent]


def main(words: list[str] | None = None) -> None:
    chosen = options(__doc__ or "").parse_args(words)
    sizes = QUICK if chosen.quick else Sizes()
    said = [conditions(quick=chosen.quick)]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        for name in ("wide", "long", "small"):
            _write(store / f"{name}.duckdb", *getattr(sizes, name))
        for number in range(3, sizes.runs):
            shutil.copy(store / "small.duckdb", store / f"run{number:02d}.duckdb")
        said.append(_first_paint(store, sizes))
        idle = _keys(store, sizes)
        with _capturing(Path(folder), quick=chosen.quick):
            busy = _keys(store, sizes, "80")
        said += [_headed("an idle machine", idle), _headed("a capture of the sample model", busy)]
        said.append(_watching(Path(folder) / "watched", sizes))
    tell("bench-tui", "\n\n".join(said), chosen.page)


def _write(path: Path, layers: int, neurons: int, prompts: int, tokens: int) -> None:
    """A run of every value, of noise that differs between prompts."""
    rows = [Layer(i, "mlp", i, f"h.{i}", neurons, "relu", "positive") for i in range(layers)]
    words = [f" w{i % 5000}" for i in range(tokens)]
    texts = [
        ArrayPrompt(CONCEPTS[i % 3], f"prompt {i}", list(range(tokens)), words, tokens - 8) for i in range(prompts)
    ]
    noise = np.random.default_rng(0).normal(size=(tokens, neurons)).astype(np.float32)
    write_run(path, layers=rows, prompts=texts, values=lambda p, _: np.maximum(noise + p % 7 - 3, 0), batch=1)


def _first_paint(store: Path, sizes: Sizes) -> str:
    frames, lists, busy = [], [], []
    for _ in range(sizes.starts):
        with _opened(store) as terminal:
            frames.append(terminal.wait_for("Help"))
            busy.append(_processor_seconds(terminal.process.pid))
            lists.append(terminal.wait_for("complete"))
    rows = [
        ["first paint", *map(figure, (statistics.median(frames), max(frames))), "0.40"],
        ["processor until then", *map(figure, (statistics.median(busy), max(busy))), None],
        [f"{sizes.runs} runs listed", *map(figure, (statistics.median(lists), max(lists))), None],
    ]
    return table(["start, s", "median", "worst", "goal"], rows)


def _processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keys(store: Path, sizes: Sizes, goal: str = "50") -> list[list[object]]:
    layers, neurons, prompts, tokens = sizes.wide
    rows = []
    with _opened(store, "wide") as terminal:
        size = f"{layers * neurons:,} neurons x {prompts * tokens:,} tokens"
        _ready(terminal)
        rows.append(_answers(terminal, "jk", sizes.keys).row(f"{size}: j in the layers", goal))
        for name, before, keys in (
            ("j in the list", "n", "j"),
            ("a page down", "", "\x04"),
            ("next neuron (J)", "g\r", "J"),
        ):
            terminal.send(before)
            terminal.settle(1.0)
            rows.append(_answers(terminal, keys, sizes.keys).row(f"{size}: {name}", goal))
    layers, neurons, prompts, tokens = sizes.long
    with _opened(store, "long") as terminal:
        size = f"{layers * neurons:,} neurons x {prompts * tokens:,} tokens"
        _ready(terminal)
        terminal.send("n\r")
        terminal.settle(1.0)
        rows.append(_answers(terminal, "JK", sizes.keys).row(f"{size}: next neuron (J)", goal))
        terminal.send("\x1b")
        terminal.settle(1.0)
        terminal.send("\x1b")
        terminal.settle(1.0)
        opened = _answers(terminal, "w", sizes.openings, after="\x1b")
        rows.append(opened.row(f"{size}: opening a walk of {tokens:,} tokens", "last 300"))
        terminal.send("w")
        terminal.settle(1.0)
        for name, keys in (("next token (l)", "l"), ("line down (j)", "j"), ("next prompt (J)", "JK")):
            rows.append(_answers(terminal, keys, sizes.keys).row(f"{size}: walk, {name}", goal))
        began = time.perf_counter()
        idle = len(terminal.read(3.0))
        rows.append([f"idle for {time.perf_counter() - began:.0f} s", None, None, "0 bytes", None, f"{idle}"])
    return rows


def _headed(beside: str, rows: Sequence[Sequence[object]]) -> str:
    return table(
        [f"key, beside {beside}", "first change, ms", "p95, ms", "goal", "last change, ms", "bytes"],
        rows,
    )


@contextmanager
def _opened(store: Path, run: str = "") -> Iterator[Terminal]:
    terminal = Terminal(store, run, size=SIZE)
    try:
        yield terminal
    finally:
        terminal.close()


def _ready(terminal: Terminal) -> None:
    terminal.wait_for("Health")
    terminal.settle(1.5)


def _answers(terminal: Terminal, keys: str, count: int, after: str = "") -> Answers:
    """`count` times the next of `keys`, each when the one before is answered. after: what undoes it, not timed."""
    found = Answers([], [], [])
    for i in range(count):
        sent = time.perf_counter()
        terminal.send(keys[i % len(keys)])
        if not select.select([terminal.master], [], [], 10)[0]:
            raise SystemExit(f"no answer to {keys!r} in 10 s; the screen is:\n{terminal.text}")
        found.first.append((time.perf_counter() - sent) * 1e3)
        size = 0
        while True:
            data = terminal.read(0.002) if not size else _more(terminal)
            if not data:
                break
            size += len(data)
            last = time.perf_counter()
        found.last.append((last - sent) * 1e3)
        found.sent.append(size)
        if after:
            terminal.send(after)
            terminal.settle(0.5)
    return found


def _more(terminal: Terminal) -> bytes:
    """What comes next, at once when it comes; nothing if nothing does."""
    if not select.select([terminal.master], [], [], QUIET)[0]:
        return b""
    return terminal.read(0.002)


@contextmanager
def _capturing(folder: Path, *, quick: bool) -> Iterator[None]:
    """A capture of the sample model in a process of its own, which stores every value and does not end soon."""
    text = _text(folder / "text.txt", 10**5 if quick else 10**7)
    path = folder / "busy" / "busy.duckdb"
    command = [sys.executable, "-m", "nfinspect", "capture", str(MODEL), "--text", str(text), "--context", "64"]
    capture = subprocess.Popen(
        [*command, "--run", "busy", "--store", str(path.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while capture.poll() is None and not (path.exists() and path.stat().st_size > (0 if quick else 50 * 2**20)):
            time.sleep(0.2)
        yield
        if capture.poll() is not None and not quick:
            raise SystemExit("the capture ended before the keys did")
    finally:
        capture.kill()
        capture.wait()


def _text(path: Path, characters: int) -> Path:
    corpus = "\n\n".join(file.read_text(encoding="utf-8") for file in sorted(CORPUS.glob("*.txt")))
    path.write_text((corpus * (1 + characters // len(corpus)))[:characters], encoding="utf-8")
    return path


def _watching(store: Path, sizes: Sizes) -> str:
    """Captures in a backend, watched in the app and not, in turn."""
    store.mkdir()
    text = _text(store / "text.txt", sizes.tokens * 4)
    alone, beside, rates = [], [], []
    with start(store, str(MODEL)) as backend:
        while backend.status().state == "loading":
            time.sleep(0.1)
        _captured(backend, store, text, sizes.tokens, "warm")
        for i in range(sizes.watched):
            alone.append(_captured(backend, store, text, sizes.tokens, f"alone{i}")[0])
            with _opened(store) as terminal:
                terminal.wait_for("alone0")
                terminal.settle(1.0)
                seconds, sent = _captured(backend, store, text, sizes.tokens, f"watched{i}", terminal)
            beside.append(seconds)
            rates.append(sent / seconds / 1e3)
        backend.stop()
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    rows = [
        ["capture alone, s", *map(figure, (statistics.median(alone), max(alone))), None],
        ["watched, s", *map(figure, (statistics.median(beside), max(beside))), None],
        [
            "watched / alone, one after the other",
            *(f"{x:.3f}" for x in (statistics.median(ratios), max(ratios))),
            "1.05",
        ],
        ["screen, kB/s", *map(figure, (statistics.median(rates), max(rates))), "5"],
    ]
    return table([f"{sizes.watched} captures of {sizes.tokens:,} tokens each", "median", "worst", "goal"], rows)


def _captured(
    backend: Backend, store: Path, text: Path, tokens: int, run: str, terminal: Terminal | None = None
) -> tuple[float, int]:
    """Seconds of a capture; bytes that the terminal, which shows its live view, got meanwhile."""
    options = ["--text", str(text), "--max-tokens", str(tokens), "--context", "64", "--run", run, "--store", str(store)]
    began, sent = time.perf_counter(), 0
    backend.submit(["capture", str(MODEL), *options])
    if terminal is not None:
        terminal.send(f":live {run}\r")
    while (status := backend.status()).job is not None or status.queue:  # not `wait`: that would be watching
        if terminal is None:
            time.sleep(0.02)
        else:
            sent += len(terminal.read(0.05))
    return time.perf_counter() - began, sent


if __name__ == "__main__":
    main()
