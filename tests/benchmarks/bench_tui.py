"""How quick the terminal app is: first paint on a store of 50 runs, and key to repaint beside a busy process.

    python -m tests.benchmarks.bench_tui [--quick]

Goals: first paint <= 0.5 s with torch never imported, key to repaint p95 <= 80 ms while a capture runs.
"""

import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))

from terminal import Terminal  # noqa: E402  (its folder has just been put on the path)

from tests.benchmarks.report import options  # noqa: E402

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples"
RUNS = 50
STARTS = 7
KEYS = 60

WRITER = """
import sys
import numpy as np
from pathlib import Path
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.types import Layer

def write(path, layers, neurons, prompts, tokens):
    rows = [Layer(i, "mlp", i, f"h.{i}", neurons, "relu", "positive") for i in range(layers)]
    words = [f" w{j}" for j in range(tokens)]
    texts = [ArrayPrompt(("tulip", "vietnam", "baseline")[i % 3], "x", list(range(tokens)), words, tokens - 8)
             for i in range(prompts)]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(tokens, neurons)).astype(np.float32)
    value = lambda p, layer: np.maximum(values + p % 7 - 3, 0)
    write_run(Path(path), layers=rows, prompts=texts, values=value)

write(sys.argv[1], *((12, 3072, 30, 40) if sys.argv[2] == "large" else (4, 256, 30, 40)))
"""


def main(words: list[str] | None = None) -> None:
    quick = options(__doc__ or "", page=False).parse_args(words).quick
    runs, starts, keys = (3, 1, 2) if quick else (RUNS, STARTS, KEYS)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        first = store / "run00.duckdb"
        second = store / "run01.duckdb"
        for path, kind in ((first, "large"), (second, "small")):
            subprocess.run([sys.executable, "-c", WRITER, str(path), kind], check=True, capture_output=True)
        for number in range(2, runs):
            shutil.copy(second, store / f"run{number:02d}.duckdb")
        _first_paint(store, runs, starts)
        _keys(store, "an idle machine", keys)
        capture = _capture(Path(folder))
        try:
            while capture.poll() is None and not _is_written(Path(folder) / "busy" / "busy.duckdb"):
                time.sleep(0.5)
            _keys(store, "a capture of the sample model", keys)
            if capture.poll() is not None:
                raise SystemExit("the capture ended before the keys did")
        finally:
            capture.kill()
            capture.wait()


def _capture(folder: Path) -> subprocess.Popen[bytes]:
    """A capture of the sample model that stores every value and does not end soon."""
    text = folder / "text.txt"
    corpus = sorted((SAMPLES / "corpus").glob("*.txt"))
    text.write_text("\n\n".join([file.read_text() for file in corpus] * (1 + 10**7 // sum(map(_size, corpus)))))
    command = [sys.executable, "-m", "nfinspect", "capture", str(SAMPLES / "gpt2-relu"), "--text", str(text)]
    return subprocess.Popen(
        [*command, "--context", "64", "--run", "busy", "--store", str(folder / "busy")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _is_written(path: Path) -> bool:
    """Values are on their way: more than the tables of a new run."""
    return path.exists() and _size(path) > 50 * 2**20


def _size(path: Path) -> int:
    return path.stat().st_size


def _first_paint(store: Path, runs: int, starts: int) -> None:
    frames, lists, busy = [], [], []
    for _ in range(starts):
        terminal = Terminal(store, size=(80, 24))
        frames.append(terminal.wait_for("Help"))
        busy.append(_processor_seconds(terminal.process.pid))
        lists.append(terminal.wait_for("run01"))
        terminal.close()
    # the very first start reads all fifty files and writes the catalog's cache
    median = statistics.median(frames)
    print(f"first paint, {runs} runs: median {median:.3f} s, worst {max(frames):.3f} s (goal 0.5)")
    print(f"processor time until then: median {statistics.median(busy):.3f} s")
    print(f"list of runs filled: median {statistics.median(lists):.3f} s, the first time {lists[0]:.3f} s")


def _processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keys(store: Path, beside: str, keys: int) -> None:
    terminal = Terminal(store, "run00", size=(200, 50))
    terminal.wait_for("Health")
    terminal.settle(1.5)
    for name, before, key in (
        ("j in a list of 36,864 neurons", "n", "j"),
        ("page down in it", "", "\x04"),
        ("J to the next neuron, 36,864 x 1,200 values", "g\r", "J"),
    ):
        terminal.send(before)
        terminal.settle(1.5)
        waits, sizes = [], []
        for _ in range(keys):
            sent = time.perf_counter()
            terminal.send(key)
            got = b""
            while not got:
                got = _some(terminal)
            waits.append(time.perf_counter() - sent)
            while more := terminal.read(0.06):  # what belongs to this key must not answer the next one
                got += more
            sizes.append(len(got))
        p50, p95 = (1000 * float(np.quantile(waits, q)) for q in (0.5, 0.95))
        size = statistics.median(sizes)
        print(f"{name}, beside {beside}: p50 {p50:.0f} ms, p95 {p95:.0f} ms (goal 80), {size:.0f} bytes")
    terminal.settle()
    started = time.perf_counter()
    idle = terminal.read(3.0)
    print(f"bytes sent in {time.perf_counter() - started:.0f} s of idling: {len(idle)}")
    terminal.close()


def _some(terminal: Terminal) -> bytes:
    """The first bytes that come."""
    if not select.select([terminal.master], [], [], 5)[0]:
        raise SystemExit("no answer to a key in 5 s")
    return os.read(terminal.master, 65536)


if __name__ == "__main__":
    main()
