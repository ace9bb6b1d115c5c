"""What watching a training costs: steps without a monitor, watched ones and read ones, in turn, on one network.

Watched steps are looked at for NaN and infinity; one in `EVERY` is read. The medians of the differences between steps
that follow each other give what `EVERY` steps take with a monitor, against what they take without one.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import nfinspect as nf
from tests.benchmarks.report import options

EVERY = 50
ASKED = 1.03
WARM_UP = 1  # rounds

Step = Callable[[], torch.Tensor]


def main(words: list[str] | None = None) -> None:
    quick = options(__doc__ or "", page=False).parse_args(words).quick
    logging.getLogger("nfinspect.training").setLevel(logging.ERROR)
    report("MLP 64-256-256-256-10, batch 128", *mlp(64, 256, 128), rounds=1 if quick else 500)
    report("MLP 784-1024-1024-1024-10, batch 256", *mlp(784, 1024, 256), rounds=1 if quick else 60)
    rounds = 1 if quick else 4  # a step takes seconds: six of them a round
    report("GPT-2 small, 4 x 128 tokens", *gpt2(*((1, 8) if quick else (4, 128))), rounds=rounds)


def report(name: str, model: nn.Module, step: Step, rounds: int) -> None:
    bare, watched, read = measure(model, step, rounds)
    ratio = 1 + ((EVERY - 1) * watched + read) / (EVERY * bare)
    print(
        f"{name}: a step {1000 * bare:.2f} ms, watched {1000 * watched:+.3f} ms, read {1000 * read:+.2f} ms; "
        f"ratio {ratio:.4f} at one reading in {EVERY} ({rounds} rounds; asked <= {ASKED})",
        flush=True,
    )


def measure(model: nn.Module, step: Step, rounds: int) -> tuple[float, float, float]:
    """Medians in seconds: a bare step, and what a watched and a read one take more than the bare ones beside them."""
    bare: list[float] = []
    more: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as store:
        watched = Watched(model, step, Path(store))
        for i in range(WARM_UP + rounds):
            for reads in (False, True):
                before = seconds(step)
                taken = watched.seconds(reads)
                after = seconds(step)
                if i >= WARM_UP:
                    bare += [before, after]
                    more[reads].append(taken - (before + after) / 2)
        watched.monitor.finish()
    return statistics.median(bare), statistics.median(more[False]), statistics.median(more[True])


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


class Watched:
    """A monitor whose hooks are there in some of the steps only: bare steps stand between them."""

    def __init__(self, model: nn.Module, step: Step, store: Path) -> None:
        self._step = step
        self.monitor = nf.FiringMonitor(model, every=10**9, run="r", store=store)
        self.monitor.start()
        self._remove()

    def _remove(self) -> None:
        assert self.monitor._reader is not None
        assert self.monitor._finite is not None
        self.monitor._reader.detach()
        self.monitor._finite.remove()

    def seconds(self, reads: bool) -> float:
        """Of a step that is watched, or read as well."""
        monitor = self.monitor
        assert monitor._reader is not None
        assert monitor._finite is not None
        monitor._finite.attach()
        if reads:
            monitor._reader.attach()
        readings = len(monitor.history)
        start = time.perf_counter()
        loss = self._step()
        monitor.step(loss=loss)
        taken = time.perf_counter() - start
        assert len(monitor.history) - readings == reads
        self._remove()
        return taken


def gpt2(batch: int, tokens: int) -> tuple[nn.Module, Step]:
    """GPT-2-small's shape, random weights."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).train()
    ids = torch.randint(0, 50257, (batch, tokens))
    return model, training_step(model, lambda: model(input_ids=ids, labels=ids).loss)


def mlp(inputs: int, width: int, batch: int) -> tuple[nn.Module, Step]:
    """Three hidden layers of ReLU neurons."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *hidden, nn.Linear(width, 10))
    values, labels = torch.randn(batch, inputs), torch.randint(0, 10, (batch,))
    return model, training_step(model, lambda: nn.functional.cross_entropy(model(values), labels))


def training_step(model: nn.Module, passed: Step) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> torch.Tensor:
        loss = passed()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


if __name__ == "__main__":
    main()
