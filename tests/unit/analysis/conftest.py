"""Runs made from arrays."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from analysis_runs import MakeRun  # noqa: E402  (its folder has just been put on the path)

from nfinspect.capturing.arrays import ArrayPrompt, write_run  # noqa: E402
from nfinspect_store.reader import RunFile  # noqa: E402
from nfinspect_store.types import Keep, Layer  # noqa: E402


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """make_run(layers, prompts, {layer_id: float32[tokens, neurons]}, fired=…, keep=…) -> an open run."""
    with making_runs(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def make_shared_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRun]:
    """The same, of runs that a module's tests share and do not change."""
    with making_runs(tmp_path_factory.mktemp("shared")) as make:
        yield make


@contextmanager
def making_runs(directory: Path) -> Iterator[MakeRun]:
    opened: list[RunFile] = []

    def make(
        layers: Sequence[Layer],
        prompts: Sequence[ArrayPrompt],
        values: dict[int, NDArray[np.float32]],
        fired: dict[int, NDArray[np.bool_]] | None = None,
        keep: Keep = "all",
        batch: int = 8,
    ) -> RunFile:
        ends = np.cumsum([len(prompt.token_ids) for prompt in prompts])
        spans = [slice(int(end) - len(p.token_ids), int(end)) for end, p in zip(ends, prompts, strict=True)]
        path = directory / f"run{len(opened)}.duckdb"
        write_run(
            path,
            layers=layers,
            prompts=prompts,
            values=lambda i, layer: values[layer.layer_id][spans[i]],
            fired=None if fired is None else lambda i, layer: fired[layer.layer_id][spans[i]],
            keep=keep,
            batch=batch,
        )
        opened.append(RunFile.open(path))
        return opened[-1]

    yield make
    for run in opened:
        run.close()
