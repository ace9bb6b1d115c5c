"""Rows that are as wide as a layer go through DuckDB's memory a piece at a time, however many there are."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nfinspect.capturing.arrays import array_info
from nfinspect_store import memory, verify, writer
from nfinspect_store.digests import Digest, digest_of
from nfinspect_store.migrate_run import copy_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.reader import RunFile
from nfinspect_store.rows import means_table
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.types import Layer, MeanRows, Prompt, TokenRows
from nfinspect_store.writer import RunWriter

WIDTH = 1100
PROMPTS = 2150
"""With two means each, more than DuckDB takes at once, twice."""

LAYER = Layer(0, "mlp", 0, "h.0.mlp", WIDTH, "relu", "positive")
SMALL = 3 * 2**20


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMORY", SMALL)
    monkeypatch.setattr(memory, "PIECE", SMALL)
    monkeypatch.setattr(writer, "PIECE", SMALL)


def mean(prompt: int) -> np.ndarray:
    return np.random.default_rng(prompt).standard_normal(WIDTH).astype(np.float32)


def means(prompt: int, values: np.ndarray) -> MeanRows:
    selections = ("all", "last") * (len(values) // 2)
    return MeanRows(0, np.full(len(values), prompt), selections, np.ones(len(values), np.int64), values)


def wide_run(path: Path) -> None:
    """A run of one segment that holds nothing but prompts, their means and histograms."""
    new = RunWriter.create(path, array_info(path.stem, 0), [LAYER])
    counts = np.random.default_rng(0).integers(0, 9, (WIDTH, 99))
    prompts = [Prompt(i, "tulip", "a b", 2 * i, 2, 2) for i in range(PROMPTS)]
    tokens = TokenRows(
        token_idx=np.arange(2 * PROMPTS),
        prompt_idx=np.repeat(np.arange(PROMPTS), 2),
        position=np.tile([0, 1], PROMPTS),
        token_id=np.tile([5, 6], PROMPTS),
        token=["a", " b"] * PROMPTS,
        generated=np.zeros(2 * PROMPTS, np.bool_),
        raw=[None] * (2 * PROMPTS),
        role=[None] * (2 * PROMPTS),
    )
    new.add(prompts, tokens, [means(i, mean(i)[None].repeat(2, 0)) for i in range(PROMPTS)])
    snapshot = LayerSnapshot(0, {}, {}, {first: counts for first in (False, True)}, {})
    new.commit([snapshot], lambda tables: (pa.table({}), pa.table({})), {"status": "complete"})
    new.close()


def assert_whole(path: Path) -> None:
    with RunFile.open(path) as run:
        values = run.prompt_means("last").values
        assert values.shape == (PROMPTS, WIDTH)
        for prompt in (0, 1, PROMPTS // 2, PROMPTS - 1):
            np.testing.assert_array_equal(values[prompt], mean(prompt))


def test_one_segment_of_more_means_than_memory_is_committed_and_copied_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "run.duckdb", tmp_path / "copy.duckdb"
    wide_run(path)
    assert_whole(path)
    copy_run(path, copy, SCHEMA_VERSION)
    assert_whole(copy)
    assert writer._hole_share(copy) <= writer.MOST_HOLES
    taken: list[int] = []
    monkeypatch.setattr(verify, "digest_of", lambda rows: taken.append(rows.nbytes) or digest_of(rows))
    with RunFile.open(copy) as run:
        assert verify.check_digests(run) == []
    assert max(taken) < 2 * memory.PIECE  # and not all that DuckDB hands out at once


def test_digesting_wide_rows_takes_little_memory() -> None:
    rows = means_table(means(0, np.ones((4000, WIDTH), np.float32)))
    assert rows.nbytes > 16 * 2**20
    tracemalloc.start()
    try:
        whole = digest_of(rows)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert whole == sum((digest_of(rows.slice(i, 400)) for i in range(0, 4000, 400)), Digest())
