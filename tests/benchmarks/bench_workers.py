"""What a capture takes in one process, in parts that are merged (--shard), and by the workers of a Ray cluster (--ray).

    python -m tests.benchmarks.bench_workers [--quick] [--page FILE]

The commands that users type, on one model of random weights (8 gated layers of 1,408 neurons, width 512) and the same
prompts of 128 tokens. Shards of a capture run at the same time. Before their times count, the runs are compared: they
are equal. The time that passed is divided by what the run and the commands say: *start* is until the first process
reads (Ray, imports, the model), *merge* what follows the last part. Processor time and memory are of all processes
together, those of Ray among them (processes.py). With --page the curves are drawn, too, beside the page.
"""

import datetime as dt
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from nfinspect_store.reader import RunFile
from tests.benchmarks.curves import Column, draw
from tests.benchmarks.processes import Took, together
from tests.benchmarks.report import conditions, exponent, figure, options, table, tell

WORKERS = (1, 2, 4)
ROUNDS = 2
VOCABULARY = 101
LENGTH = 128
PROMPTS = 64
BATCH = 8
SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
QUICK = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Way:
    """name: as users type it. threads: of each process."""

    name: str
    workers: int = 0
    threads: int = 1

    @property
    def head(self) -> str:
        if not self.workers:
            return f"one process, {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.name}, {self.workers}"

    @property
    def run(self) -> str:
        return f"{self.name.strip('-') or 'alone'}-{self.workers or self.threads}"


@dataclass(frozen=True)
class Spent:
    """Seconds that passed, and of which kinds; seconds of processors; MB; processes."""

    passed: float
    start: float
    reading: float
    merge: float
    processor: float
    peak: float
    processes: float


def make_model(folder: Path, sizes: dict[str, int]) -> None:
    """A model and a tokenizer of the words w0 … w100."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids)).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        folder
    )


def make_prompts(path: Path, count: int, length: int) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.integers(3, VOCABULARY, length).tolist() for _ in range(count))
    told = [{"text": " ".join(f"w{i}" for i in row), "concept": "ab"[number % 2]} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(one) + "\n" for one in told))


class Measured:
    """Captures of one model in one store."""

    def __init__(self, folder: Path, ray: Path, *, quick: bool) -> None:
        """ray: where Ray puts its own files."""
        self.store = folder / "store"
        self._model, self._prompts, self._ray = folder / "model", folder / "prompts.jsonl", ray
        self._batch = 2 if quick else BATCH
        make_model(self._model, QUICK if quick else SIZES)
        make_prompts(self._prompts, 8 if quick else PROMPTS, 16 if quick else LENGTH)

    def took(self, way: Way) -> Spent:
        """Make the run `way.run` anew."""
        capture = [*self._words("capture", str(self._model), "--prompts", str(self._prompts)), "--device", "cpu"]
        capture += ["--batch-size", str(self._batch), "--run", way.run]
        if way.name == "--ray":
            return self._by_ray(way, [*capture, "--ray", "local", "--workers", str(way.workers)])
        if way.name == "--shard":
            return self._by_shards(way, capture)
        took = self._commands([capture], way)
        start = self._begun(way.run) - took.began
        return Spent(took.passed, start, took.passed - start, 0.0, took.processor, took.peak, took.processes)

    def _by_ray(self, way: Way, capture: list[str]) -> Spent:
        took = self._commands([capture], way)
        start = self._begun(way.run) - took.began
        until = next(at for at, line in took.lines if line.startswith("merging ")) - took.began
        return Spent(took.passed, start, until - start, took.passed - until, took.processor, took.peak, took.processes)

    def _by_shards(self, way: Way, capture: list[str]) -> Spent:
        shards = [f"{i}/{way.workers}" for i in range(1, way.workers + 1)]
        took = self._commands([[*capture, "--shard", shard] for shard in shards], way)
        parts = [f"{way.run}.part-{shard.replace('/', '-of-')}" for shard in shards]
        start = min(map(self._begun, parts)) - took.began
        merged = self._commands([self._words("merge", way.run, *parts)], way)
        for part in parts:
            (self.store / f"{part}.duckdb").unlink()
        return Spent(
            took.passed + merged.passed,
            start,
            took.passed - start,
            merged.passed,
            took.processor + merged.processor,
            max(took.peak, merged.peak),
            max(took.processes, merged.processes),
        )

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "nfinspect", *words, "--store", str(self.store)]

    def _commands(self, commands: Sequence[Sequence[str]], way: Way) -> Took:
        env = {**os.environ, "OMP_NUM_THREADS": str(way.threads), "RAY_TMPDIR": str(self._ray)}
        return together(commands, env)

    def _begun(self, run: str) -> float:
        """When a run was begun, as time.time() says it."""
        with RunFile.open(self.store / f"{run}.duckdb") as file:
            return file.info.created_at.replace(tzinfo=dt.UTC).timestamp()

    def path(self, way: Way) -> Path:
        return self.store / f"{way.run}.duckdb"

    def apart(self, one: Way, other: Way) -> float:
        """The largest difference of two runs' values, as a share of the largest value of the layer."""
        with RunFile.open(self.path(one)) as a, RunFile.open(self.path(other)) as b:
            found = 0.0
            for layer in a.layers:
                x, y = (run.activations(layer.site, layer.layer) for run in (a, b))
                found = max(found, float(np.abs(x - y).max() / np.abs(x).max()))
        return found


def ways(workers: Sequence[int]) -> list[Way]:
    """One process first, as a worker runs and as users run it."""
    alone = [Way("", threads=threads) for threads in dict.fromkeys((1, os.cpu_count() or 1))]
    return [*alone, *(Way(name, count) for name in ("--shard", "--ray") for count in workers)]


def table_of(found: dict[Way, Spent]) -> str:
    alone = next(iter(found.values())).passed
    columns = list(found.values())
    rows: list[list[object]] = [
        ["seconds", *(figure(one.passed) for one in columns)],
        ["× one process, 1 thread", *(figure(one.passed / alone) for one in columns)],
        ["of them start", *(figure(one.start) for one in columns)],
        ["passes and recording", *(figure(one.reading) for one in columns)],
        ["merge, and the end", *(figure(one.merge) if way.workers else None for way, one in found.items())],
        ["processor, seconds", *(figure(one.processor) for one in columns)],
        ["peak MB", *(figure(one.peak) for one in columns)],
        ["processes", *(figure(one.processes) for one in columns)],
    ]
    return table(["", *(way.head for way in found)], rows)


def growth_table(found: dict[Way, Spent], workers: Sequence[int]) -> str:
    pairs = list(zip(workers, workers[1:], strict=False))
    columns = [(name, pair) for name in ("--shard", "--ray") for pair in pairs]
    rows = []
    for head, field in (
        ("seconds", "passed"),
        ("passes and recording", "reading"),
        ("processor, seconds", "processor"),
        ("peak MB", "peak"),
    ):
        exponents = (
            exponent(pair, [getattr(found[Way(name, count)], field) for count in pair]) for name, pair in columns
        )
        rows.append([head, *map(figure, exponents)])
    return table(["growth", *(f"{name}, {few} to {more}" for name, (few, more) in columns)], rows)


def curves(found: dict[Way, Spent], workers: Sequence[int]) -> Column:
    def lines(field: str) -> dict[str, list[float]]:
        return {name: [getattr(found[Way(name, count)], field) for count in workers] for name in ("--shard", "--ray")}

    return Column("workers", workers, lines("passed"), lines("peak"), "seconds that passed", "MB of all processes")


def main(words: list[str] | None = None) -> None:
    from tests.unit.capture.whole_and_parts import assert_same

    parser = options(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args(words)
    lines = [conditions(quick=chosen.quick)]
    workers = WORKERS[:2] if chosen.quick else WORKERS
    rounds = 1 if chosen.quick else chosen.rounds
    every = ways(workers)
    folder = Path(tempfile.mkdtemp())
    ray = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: sockets are in it
    spent: dict[Way, list[Spent]] = {way: [] for way in every}
    off = 0.0
    try:
        measured = Measured(folder, ray, quick=chosen.quick)
        for number in range(rounds):
            for way in every:
                spent[way].append(measured.took(way))
                print(f"{way.head}: {figure(spent[way][-1].passed)} s", file=sys.stderr, flush=True)
                path = measured.path(way)
                if way == every[0]:
                    continue
                if number == 0 and way.workers:
                    assert_same(measured.path(every[0]), path)
                elif number == 0:
                    off = measured.apart(every[0], way)
                path.unlink()
            measured.path(every[0]).unlink()
    finally:
        for one in (folder, ray):
            shutil.rmtree(one, ignore_errors=True)
    found = {
        way: Spent(*map(statistics.median, zip(*map(astuple, taken), strict=True))) for way, taken in spent.items()
    }
    lines += [table_of(found), growth_table(found, workers)]
    lines.append(
        "Every run in parts equals that of one process with 1 thread, compared table by table; with more threads "
        f"values differ by at most {off:.0e} of a layer's largest. More workers than the {os.cpu_count()} processors "
        "share them. *Growth* of the time that passed: -1 is linear, 0 no gain; of processor and memory: 0 does not "
        f"grow. {'One run each.' if rounds == 1 else f'Medians of {rounds} runs.'}"
    )
    if chosen.page:
        place = chosen.page.parent / "workers.svg"
        draw([curves(found, workers)], place)
        lines.append(f"![Time and memory of a capture against its workers]({place.name})")
    tell("bench-workers", "\n\n".join(lines), chosen.page)


if __name__ == "__main__":
    main()
