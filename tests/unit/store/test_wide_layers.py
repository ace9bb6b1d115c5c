"""Rows that are as wide as a layer go through DuckDB's memory a piece at a time, however many there are."""

import tracemalloc
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect_store import holes, memory, verify, verify_values, writer
from nfinspect_store.digests import Digest, digest_of, renew_digests
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
    assert holes.hole_share(copy) <= holes.MOST_HOLES
    taken: list[int] = []
    monkeypatch.setattr(verify, "digest_of", lambda rows: taken.append(rows.nbytes) or digest_of(rows))
    with RunFile.open(copy) as run:
        assert verify.check_digests(run) == []
    assert max(taken) < 2 * memory.PIECE  # and not all that DuckDB hands out at once


def test_sql_reads_a_mean_as_the_schema_says() -> None:
    values = np.stack([mean(0), -mean(1)])
    with duckdb.connect() as connection:
        connection.register("prompt_means", means_table(means(3, values)))
        query = """SELECT ("values"[4 * i + 1 : 4 * i + 4])::BIT::FLOAT AS mean
                   FROM prompt_means, range(256) r(i) WHERE 4 * i < octet_length("values") AND prompt_idx = 3
                   ORDER BY selection, first_neuron + i"""
        assert connection.execute(query).fetchnumpy()["mean"].tolist() == values.ravel().tolist()


@pytest.mark.parametrize(("held", "edited"), [(1, 700), (3, 699), (3, 3)])
def test_verify_counts_the_means_of_wide_layers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, edited: int
) -> None:
    """held: every how many neurons' sums are; edited: one of those."""
    path, layer = tmp_path / "run.duckdb", Layer(0, "mlp", 0, "m", 701, "relu", "positive")
    prompts = [ArrayPrompt("tulip", f"p{i}", [1, 2, 3], ["a", "b", "c"], 3) for i in range(4)]
    write_run(
        path,
        layers=[layer],
        prompts=prompts,
        values=lambda i, _: np.random.default_rng(i).standard_normal((3, 701)).astype(np.float32),
    )
    monkeypatch.setattr(verify_values, "MEANS_BYTES", -(-4 * 701 * 16 // held))
    with RunFile.open(path) as run:
        assert verify_values.means_step(run) == held
    assert verify.verify_run(path).problems == ()
    first, bit = edited // 256 * 256, edited % 256 * 32 + 15
    with duckdb.connect(str(path)) as connection:
        changed = f'set_bit("values"::BIT, {bit}, 1 - get_bit("values"::BIT, {bit}))::BLOB'
        where = f"prompt_idx = 2 AND selection = 'all' AND first_neuron = {first}"
        connection.execute(f'UPDATE prompt_means SET "values" = {changed} WHERE {where}')
        renew_digests(connection)
    place = "prompt_means: mlp layer 0: the mean over all of 1 neurons is not that of the values, the first is"
    assert verify.verify_run(path).problems == (f"{place} N{edited}",)


def test_digesting_wide_rows_takes_little_memory() -> None:
    rows = means_table(means(0, np.ones((4000, WIDTH), np.float32)))
    assert rows.nbytes > 16 * 2**20
    tracemalloc.start()
    try:
        whole = digest_of(rows)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert whole == sum((digest_of(rows.slice(i, 400)) for i in range(0, rows.num_rows, 400)), Digest())
