"""Closing a run: the copy without free room is a courtesy, and what stops it costs nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from recorded import make_arrays, record_arrays  # noqa: E402

from nfinspect.capturing import segments
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store import catalog, holes, migrate_run, writer
from nfinspect_store.atomic import next_to
from nfinspect_store.digests import Digest
from nfinspect_store.errors import BadName, RunBusy, StoreError
from nfinspect_store.migrate_run import copy_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import OPTIONAL_TABLES, PLANTED
from nfinspect_store.types import Layer
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

PLANTED_ROWS = pa.table({"site": ["mlp"], "layer": [0], "neuron": [1], "class": ["dead"]})


@pytest.mark.parametrize("failing", ["copy_run", "hole_share"])
def test_a_closing_copy_that_fails_leaves_a_whole_run(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise StoreError("Out of Memory Error: failed to pin block")

    monkeypatch.setattr(holes, "SMALL", 0)
    monkeypatch.setattr(holes, "MOST_HOLES", -1.0)  # every file is copied
    monkeypatch.setattr(writer if failing == "copy_run" else holes, failing, fail)
    path = record_arrays(tmp_path / "run.duckdb", make_arrays([5, 9], seed=1), segment=1)
    assert [file.name for file in tmp_path.iterdir()] == ["run.duckdb"]
    assert verify_run(path).ok


def test_a_last_segment_of_short_prompts_leaves_little_room_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB would merge the last row groups of prompt means: 4,608 rows of the first segment, 9,408 of the last."""
    shares: list[float] = []
    measured = holes.hole_share
    monkeypatch.setattr(holes, "hole_share", lambda path: shares.append(measured(path)) or shares[-1])
    commits: list[RunWriter] = []
    commit = RunWriter.commit
    monkeypatch.setattr(RunWriter, "commit", lambda self, *given: commits.append(self) or commit(self, *given))
    monkeypatch.setattr(segments, "SEGMENT_MEMORY", 656 * (2 * 4096 * 4 + 4 * segments.TOKEN_BYTES) - 1)
    layers = [Layer(i, "mlp", i, f"h.{i}", 2048, "relu", "positive") for i in range(2)]
    values = np.random.default_rng(0).standard_normal((4, 2048)).astype(np.float32)
    prompts = [ArrayPrompt("tulip", "a b c d", [1, 2, 3, 4], list("abcd"), 4)] * 950
    path = tmp_path / "run.duckdb"
    write_run(path, layers=layers, prompts=prompts, values=lambda prompt, layer: values)
    assert len(commits) == 2 and len(shares) == 1
    assert shares[0] <= holes.MOST_HOLES and path.stat().st_size < 110 * 2**20
    with RunFile.open(path) as run:
        np.testing.assert_allclose(run.prompt_means("last", "mlp").values[-1], np.tile(values[3], 2))


def test_a_commit_without_new_tokens_leaves_the_statistics_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    replace = RunWriter._replace
    monkeypatch.setattr(RunWriter, "_replace", lambda self, t, rows: replaced.append(t) or replace(self, t, rows))
    monkeypatch.setattr(segments, "SEGMENT_MEMORY", 0)  # a segment for each prompt
    layers = [Layer(0, "mlp", 0, "h.0", 8, "relu", "positive")]
    prompts = [ArrayPrompt("tulip", "a b c", [1, 2, 3], list("abc"), 3)] * 2
    values = np.arange(24, dtype=np.float32).reshape(3, 8)
    path = tmp_path / "run.duckdb"
    write_run(path, layers=layers, prompts=prompts, values=lambda prompt, layer: values)
    assert replaced.count("statistics") == 1 and replaced.count("neurons") == 2
    assert verify_run(path).ok


def test_whoever_closes_is_told_before_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record_arrays(tmp_path / "run.duckdb", make_arrays([5, 9], seed=1))
    monkeypatch.setattr(holes, "SMALL", 0)
    told: list[int] = []
    for share, copied in ((1.0, False), (-1.0, True)):
        monkeypatch.setattr(holes, "MOST_HOLES", share)
        RunWriter.reopen(path).close(told.append)
        assert bool(told) == copied
    assert told[0] >= 4096


def test_a_run_that_changes_while_it_is_copied_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from another host, where the writer was taken for gone."""
    path = record_arrays(tmp_path / "run.duckdb", make_arrays([5, 9], seed=1))
    pieces = migrate_run.pieces

    def changed(*arguments: object, **options: object) -> Iterator[str]:
        os.utime(path, ns=(1, 1))
        return pieces(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(migrate_run, "pieces", changed)
    with pytest.raises(RunBusy, match="changed or moved while it was being copied"):
        copy_run(path, tmp_path / "new.duckdb", SCHEMA_VERSION)


def leftover(path: Path) -> Path:
    """What a copy that was killed leaves: named for a process that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = path.with_name(next_to(path).name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
    left.write_bytes(b"half a copy")
    left.with_name(left.name + ".wal").write_bytes(b"its log")
    return left


def test_what_a_killed_copy_has_left_goes_with_the_next_that_is_done_to_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    arrays = make_arrays([5, 9], seed=1)
    steps = {
        "made": lambda: record_arrays(path, arrays),
        "reopened": lambda: RunWriter.reopen(path).close(),
        "migrated": lambda: migrate_run.migrate_run(path),
        "deleted": lambda: catalog.delete_run(path),
    }
    for what, step in steps.items():
        leftover(path)
        step()
        assert [file.name for file in tmp_path.iterdir()] == ([] if what == "deleted" else ["run.duckdb"]), what


def test_a_table_of_the_run_s_own_comes_with_its_digest_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.duckdb"
    record_arrays(path, make_arrays([5, 9], seed=1))

    def die(*arguments: object) -> Digest:
        raise KeyboardInterrupt

    new = RunWriter.reopen(path)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_digests", die)
        with pytest.raises(KeyboardInterrupt):
            new.add_table(PLANTED, PLANTED_ROWS)
    new.close()
    with RunFile.open(path) as run:
        names = {row[0] for row in run.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert PLANTED in OPTIONAL_TABLES and PLANTED not in names
    assert verify_run(path).ok


@pytest.mark.parametrize("name", ["gpt2.model", "GPT2.Model"])
def test_no_run_has_the_name_of_a_model_s_results(name: str) -> None:
    """Deleting it would take them along."""
    with pytest.raises(BadName, match=r"ends in \.model"):
        catalog.check_name(name)
    assert catalog.check_name("gpt2.models")


def test_a_run_that_was_committed_once_is_not_looked_through_for_free_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none in it: the reason not to look."""
    looked: list[Path] = []
    hole_share = holes.hole_share

    def share(path: Path) -> float:
        looked.append(path)
        return hole_share(path)

    monkeypatch.setattr(holes, "SMALL", 0)
    monkeypatch.setattr(holes, "hole_share", share)
    arrays = make_arrays([5, 9, 300, 40], seed=1)
    once = record_arrays(tmp_path / "once.duckdb", arrays)
    assert not looked and hole_share(once) == 0
    often = record_arrays(tmp_path / "often.duckdb", arrays, batch=1, segment=1)
    assert looked == [often]
