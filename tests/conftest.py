"""What all tests share: a small run whose contents are known, made once by the recorder that captures use."""

import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nfinspect_store.types import Keep, Layer

# A job in a shell's background ignores Ctrl-C, and so would every process that the tests send one to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROUNDING = os.environ.get("NFINSPECT_TEST_ROUNDING")
if ROUNDING is not None:
    import rounding  # and torch with it, which most tests of store and app do without

    rounding.use(int(ROUNDING))

TOKENS, PROMPTS = 40, 30
CONCEPTS = ("tulip", "vietnam", "baseline")
HOSTILE = "\x1b[31m[/red]\u202e\u200b"
LAYERS = [
    *(Layer(i, "mlp", i, f"h.{i}.mlp.c_proj", 64, "relu", "positive") for i in range(3)),
    *(Layer(3 + i, "resid", i, f"h.{i}", 16, "", "scale") for i in range(3)),
]

MakeRun = Callable[..., Path]

SEEDS_TRIED = 3
"""Of a test's seeds, how many `make test` tries; `make test-slow` tries the others."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None)
        if case is not None and case.indices.get("seed", 0) >= SEEDS_TRIED:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What has been imported stays: a full collection of garbage, of which there are many, need not walk it."""
    gc.collect()
    gc.freeze()


def planted_values(prompt: int, layer: Layer) -> NDArray[np.float32]:
    """Neuron 0 is dead, 1 stuck at 3, 5 two higher for tulip; the rest is noise."""
    rng = np.random.default_rng([prompt, layer.layer_id])
    values = rng.normal(size=(TOKENS, layer.neurons)).astype(np.float32)
    if layer.site == "mlp":
        values = np.maximum(values, 0)
        values[:, 0], values[:, 1] = 0, 3
        if prompt % 3 == 0:
            values[:, 5] += 2
    return values


@pytest.fixture(scope="session")
def planted_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs `planted` (all values) and `stats` (statistics only). Not to be changed."""
    from nfinspect.capturing.arrays import ArrayPrompt, write_run

    store = tmp_path_factory.mktemp("planted")
    tokens = [HOSTILE if j == 3 else f" w{j}" for j in range(TOKENS)]
    prompts = [
        ArrayPrompt(CONCEPTS[i % 3], f"{HOSTILE} prompt {i}", list(range(TOKENS)), tokens, TOKENS - 8)
        for i in range(PROMPTS)
    ]
    kinds: list[tuple[str, Keep]] = [("planted", "all"), ("stats", "stats")]
    for name, keep in kinds:
        path = store / f"{name}.duckdb"
        write_run(path, layers=LAYERS, prompts=prompts, values=planted_values, keep=keep)
    return store


@pytest.fixture
def store(planted_runs: Path, tmp_path: Path) -> Path:
    """A store of the test's own with both planted runs."""
    directory = tmp_path / "store"
    directory.mkdir()
    for file in planted_runs.glob("*.duckdb"):
        shutil.copy2(file, directory / file.name)
    return directory
