"""A segment ends by one rule, whoever records: what waits for its commit stays small, and a crash costs little."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing import segments
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store import heartbeat
from nfinspect_store.heartbeat import being_written, read_heartbeat
from nfinspect_store.types import Layer
from nfinspect_store.writer import RunWriter

PASSES = 6


def captured(store: Path, each: Callable[[int], object] = int) -> None:
    nf.capture(FAMILIES["gpt2"](), word_tokenizer(), ["w3 w4 w5"] * PASSES, store=store, run="r", batch_size=1)


def recorded(store: Path, each: Callable[[int], object] = int) -> None:
    model = FAMILIES["gpt2"]()
    with nf.record(model, word_tokenizer(), store=store, run="r"), torch.no_grad():
        for i in range(PASSES):
            model(torch.tensor([[5, 6, 7]]))
            each(i)


def from_arrays(store: Path, each: Callable[[int], object] = int) -> None:
    def values(prompt: int, layer: Layer) -> np.ndarray:
        each(prompt - 1)
        return np.ones((3, 8), np.float32)

    prompts = [ArrayPrompt("tulip", "a b c", [1, 2, 3], ["a", " b", " c"], 3)] * PASSES
    layers = [Layer(0, "mlp", 0, "h.0.mlp", 8, "relu", "positive")]
    store.mkdir(exist_ok=True)
    write_run(store / "r.duckdb", layers=layers, prompts=prompts, values=values, batch=1)


WAYS = [captured, recorded, from_arrays]


def tokens_at_commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows: the tokens of the run after each commit."""
    tokens: list[int] = []
    commit = RunWriter.commit

    def counted(self: RunWriter, *arguments: Any, **options: Any) -> None:
        commit(self, *arguments, **options)
        tokens.append(self.tokens)

    monkeypatch.setattr(RunWriter, "commit", counted)
    return tokens


@pytest.mark.parametrize("limit", ["SEGMENT_MEMORY", "SEGMENT_BYTES", "SEGMENT_SECONDS"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_record_ends_segments(
    way: Callable[..., None], limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_at_commits(monkeypatch)
    monkeypatch.setattr(segments, limit, -1)
    monkeypatch.setattr(segments, "COMMIT_SHARE", 1e9)
    way(tmp_path)
    assert tokens == [*range(3, 3 * PASSES + 1, 3), 3 * PASSES]  # after each prompt, and at the end


@pytest.mark.parametrize(("tokens", "commits"), [(1, 1), (3, 3)])
def test_only_means_that_there_are_wait_in_memory(
    tokens: int, commits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of one token has none, one that generates nothing has two."""
    found = tokens_at_commits(monkeypatch)
    monkeypatch.setattr(segments, "SEGMENT_MEMORY", 2 * 2 * 4 * 8 + 5)  # a third prompt is too much
    monkeypatch.setattr(segments, "TOKEN_BYTES", 0)
    layers = [Layer(0, "mlp", 0, "h.0.mlp", 8, "relu", "positive")]
    prompts = [ArrayPrompt("tulip", "a b c", [1, 2, 3][:tokens], ["a", " b", " c"][:tokens], tokens)] * 6
    write_run(
        tmp_path / "r.duckdb",
        layers=layers,
        prompts=prompts,
        values=lambda prompt, layer: np.ones((tokens, 8), np.float32),
        batch=1,
    )
    assert len(found) == commits


@pytest.mark.parametrize("way", [recorded, from_arrays])
def test_what_fails_after_a_segment_leaves_no_run(
    way: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", -1)

    def fail(number: int) -> None:
        if number == 2:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        way(tmp_path, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_heartbeat_beats_until_the_file_is_closed(
    way: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host nothing else says that the writer is alive, however long a batch or the closing copy takes."""
    beats: list[float] = []
    close = RunWriter.close

    def slowly(self: RunWriter, *arguments: Any) -> None:
        close(self, *arguments)
        for _ in range(3000):
            seen = read_heartbeat(self.path)
            assert seen is not None and seen.alive
            beats.append(seen.updated_at)
            if len(set(beats)) > 2:
                return
            heartbeat.threading.Event().wait(0.002)

    monkeypatch.setattr(heartbeat, "RENEWAL", 0.005)
    monkeypatch.setattr(RunWriter, "close", slowly)
    way(tmp_path)
    assert len(set(beats)) > 2
    assert not being_written(tmp_path / "r.duckdb")
    assert [file.name for file in tmp_path.iterdir()] == ["r.duckdb"]


def test_rows_of_tokens_end_a_segment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait in memory, and where statistics alone are kept nothing else may become large."""
    tokens = tokens_at_commits(monkeypatch)
    monkeypatch.setattr(segments, "SEGMENT_MEMORY", 100 * segments.TOKEN_BYTES)
    prompts = [ArrayPrompt("tulip", "", [1] * 60, ["a"] * 60, 60)] * 5
    layers = [Layer(0, "mlp", 0, "h.0.mlp", 1, "relu", "positive")]
    values = np.ones((60, 1), np.float32)
    path = tmp_path / "r.duckdb"
    write_run(path, layers=layers, prompts=prompts, values=lambda prompt, layer: values, keep="stats", batch=1)
    assert tokens == [120, 240, 300]


@pytest.mark.parametrize(("commit_seconds", "due"), [(0.05, 1.5), (0.2, 4.0), (2.0, 40.0)])
def test_a_watched_run_is_committed_often_as_long_as_that_is_cheap(
    commit_seconds: float, due: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a twentieth of the time goes into commits; the first one, which shows something, does not wait."""
    now, watched = [100.0], [False]
    monkeypatch.setattr(segments.time, "monotonic", lambda: now[0])
    layers = [Layer(0, "mlp", 0, "h.0.mlp", 8, "relu", "positive")]
    write_run(
        tmp_path / "r.duckdb",
        layers=layers,
        prompts=[ArrayPrompt("a", "a", [1, 2], ["a", "b"], 2)],
        values=lambda prompt, layer: np.ones((2, 8), np.float32),
    )
    writer = RunWriter.reopen(tmp_path / "r.duckdb")
    try:
        segment = segments.Segment(writer, lambda: watched[0])
        now[0] += 1.6
        assert not segment.is_over(2)
        watched[0] = True
        assert segment.is_over(2)
        segment.begin(2, commit_seconds=commit_seconds)
        now[0] += due - 0.1
        assert not segment.is_over(2)
        now[0] += 0.2
        assert segment.is_over(2)
        watched[0] = False
        assert not segment.is_over(2)
        now[0] += 60
        assert segment.is_over(2)
    finally:
        writer.close()
