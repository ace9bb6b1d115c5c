"""`--where beyond=pX`: of the values, a run keeps exactly those beyond their neuron's running percentile."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from families import FAMILIES
from words import special_tokenizer

import nfinspect as nf
from nfinspect.capturing.beyond import limits, values_beyond
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.errors import CannotResume, CaptureInterrupted, LimitReached
from nfinspect.capturing.where import parse_where
from nfinspect.run import Run
from nfinspect_store.digests import read_digests
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.histogram import ABOVE, BINS, bin_of
from nfinspect_store.reader import RunFile
from nfinspect_store.tables import RunTables
from nfinspect_store.verify import verify_run
from nfinspect_store.verify_beyond import check_beyond

MakeDir = Callable[[str], Path]

CHATS = [
    [{"role": "user", "content": " ".join(f"w{(7 * i + 3 * j) % 90 + 5}" for j in range(6 + i % 5))},
     {"role": "assistant", "content": " ".join(f"w{(5 * i + j) % 90 + 5}" for j in range(3))}]
    for i in range(8)
]  # fmt: skip


def captured(family: str, store: Path, name: str, **options: Any) -> Run:
    return nf.capture(
        FAMILIES[family](), special_tokenizer(), {"chat": CHATS}, store=store, run=name, **{"batch_size": 3, **options}
    )


def rows_of(run: RunTables, site: str, layer: int) -> list[tuple[int, int, float]]:
    query = "SELECT neuron, token_idx, value FROM activations WHERE site = $site AND layer = $layer ORDER BY ALL"
    return run.cursor().execute(query, {"site": site, "layer": layer}).fetchall()


def test_a_limit_is_the_smallest_value_of_a_higher_bin() -> None:
    below = np.nextafter(ABOVE[:-1], np.float32(-np.inf))
    assert np.isnan(ABOVE[-1])
    for number, (at, before) in enumerate(zip(ABOVE[:-1], below, strict=True)):
        assert bin_of(np.array([at]))[0] > number >= bin_of(np.array([before]))[0]


@pytest.mark.parametrize("percentile", ["50", "90", "99.9", "0.1"])
def test_limits_follow_the_definition(percentile: str) -> None:
    """The bin of the smallest value that at least X % of the values do not exceed, found by sorting."""
    rng = np.random.default_rng(1)
    for tokens in (1, 9, 10, 11, 999, 1000, 1001):
        values = (rng.normal(size=(tokens, 12)) * rng.choice([1e-6, 0.3, 900.0], 12)).astype(np.float32)
        values[:, 0], values[:, 1] = 0.0, -np.abs(values[:, 1])
        counts = np.stack([np.bincount(bin_of(np.ascontiguousarray(column)), minlength=BINS) for column in values.T])
        at_most = [sum(100 * (i + 1) < Decimal(percentile) * tokens for i in range(tokens))] * 12
        expected = bin_of(np.sort(values, axis=0)[at_most, np.arange(12)])
        for kind in (np.asarray, torch.from_numpy):
            limit = limits(kind(counts), tokens, Decimal(percentile))
            rows = values_beyond(0, kind(values), limit, 100)
            assert np.array_equal(np.asarray(limit), ABOVE[expected], equal_nan=True)
            token, neuron = rows.token_idx - 100, rows.neuron
            assert {*zip(token.tolist(), neuron.tolist(), strict=True)} == {
                (t, i) for t, i in zip(*np.nonzero(bin_of(values) > expected), strict=True)
            }
            assert (values[token, neuron] == rows.value).all() and (np.diff(neuron) >= 0).all()
            assert len(neuron) <= 12 * (1 - float(percentile) / 100) * tokens


# opt flattens its batches; llama fires by a gate, and generates; mamba has Δ.
@pytest.mark.parametrize(
    ("family", "generate", "mode", "of_tokens"),
    [
        ("opt", 0, "auto", ""),
        ("llama", 4, "replay", "role=user"),
        pytest.param("llama", 4, "live", "", marks=pytest.mark.slow),
        pytest.param("mamba", 0, "auto", "", marks=pytest.mark.slow),
    ],
)
def test_a_run_keeps_the_values_beyond_and_the_statistics_of_all(
    family: str, generate: int, mode: str, of_tokens: str, tmp_path: Path
) -> None:
    sites = ["mixer", "resid"] if family == "mamba" else ["mlp", "resid"]
    options: dict[str, Any] = {"generate": generate, "mode": mode, "sites": sites}
    where = f"{of_tokens} and beyond=p80" if of_tokens else "beyond=p80"
    with (
        captured(family, tmp_path, "whole", where=of_tokens or None, **options) as whole,
        captured(family, tmp_path, "stats", where=of_tokens or None, keep="stats", **options) as stats,
        captured(family, tmp_path, "part", where=where, **options) as part,
    ):
        stops = [whole.prompt(i).first_token + whole.prompt(i).tokens for i in (2, 5, 7)]  # batches of three prompts
        assert part.tokens == whole.tokens == stops[-1] and part.info.settings["where"] == where
        total = 0
        for layer in whole.layers:
            values = whole.activations(layer.site, layer.layer)
            expected = []
            for start, stop in zip([0, *stops[:-1]], stops, strict=True):
                rank = -(-80 * stop // 100)
                at = bin_of(np.sort(values[:stop], axis=0)[rank - 1])
                token, neuron = np.nonzero(bin_of(values[start:stop]) > at)
                expected += [
                    (int(n), start + int(t), float(values[start + t, n])) for t, n in zip(token, neuron, strict=True)
                ]
            assert rows_of(part, layer.site, layer.layer) == sorted(expected)
            total += len(expected)
        assert 0 < total == part.beyond_rows
        for table in ("neurons", "layer_health", "tokens", "unrecorded", "prompts"):
            query = f"FROM {table} ORDER BY ALL"
            assert repr(part.sql(query).fetchall()) == repr(stats.sql(query).fetchall())
        parts = ("statistics", "histograms", "examples", "concept_statistics", "prompt_means", "mamba_delta")
        assert [read_digests(part.cursor())[x] for x in parts] == [read_digests(stats.cursor())[x] for x in parts]
        with pytest.raises(StoreError, match=f"only the values beyond each neuron's p80 .--where {where}"):
            part.activations(whole.layers[0].site, whole.layers[0].layer)
        (note,) = part.where_notes[1:] if of_tokens else part.where_notes
        assert f"kept are {total:,} of " in note and f"running p80 (--where {where})" in note
        assert note in part.health().notes
    found = verify_run(tmp_path / "part.duckdb", lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems


def test_a_resumed_run_keeps_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfinspect.capturing.recorder import Recorder

    options: dict[str, Any] = {"where": "beyond=p70", "generate": 2}
    with captured("gpt2", tmp_path, "whole", **options) as whole:
        expected, digest = rows_of(whole, "mlp", 1), read_digests(whole.cursor())["beyond"]
    add = Recorder.add

    def stop_after_a_batch(self: Recorder, *given: Any) -> None:
        if self.prompts == 3:
            raise CaptureInterrupted("stop")
        add(self, *given)
        self.commit({"status": "capturing"}, final=False)

    with monkeypatch.context() as patch, pytest.raises(CaptureInterrupted):
        patch.setattr(Recorder, "add", stop_after_a_batch)
        captured("gpt2", tmp_path, "cut", **options)
    with RunFile.open(tmp_path / "cut.duckdb") as cut:
        assert 0 < len(rows_of(cut, "mlp", 1)) < len(expected)
    with pytest.raises(CannotResume, match="where: 'beyond=p70' then"):
        captured("gpt2", tmp_path, "cut", **{**options, "where": "beyond=p71"}, resume=True)
    with captured("gpt2", tmp_path, "cut", **options, resume=True) as run:
        assert rows_of(run, "mlp", 1) == expected and read_digests(run.cursor())["beyond"] == digest
        assert run.beyond_rows == digest.rows
    assert verify_run(tmp_path / "cut.duckdb").ok


def test_a_segment_ends_before_its_values_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfinspect.capturing import segments
    from nfinspect_store.writer import RunWriter

    commits: list[int] = []
    commit = RunWriter.commit

    def counted(self: RunWriter, *given: Any) -> None:
        commits.append(self.beyond_rows)
        commit(self, *given)

    monkeypatch.setattr(RunWriter, "commit", counted)
    monkeypatch.setattr(segments, "SEGMENT_MEMORY", 10**6)
    captured("gpt2", tmp_path, "few", where="beyond=p99").close()
    assert len(commits) == 1
    monkeypatch.setattr(segments, "BEYOND_BYTES", 10**6)
    captured("gpt2", tmp_path, "many", where="beyond=p70").close()
    assert len(commits) == 1 + 3 + 1 and sorted(commits[1:]) == commits[1:]


def test_values_are_of_one_precision_and_nothing_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected no other --precision, found int8"):
        captured("gpt2", tmp_path, "r", where="beyond=p90", precision="int8")
    assert not list(tmp_path.glob("*"))
    with (
        captured("gpt2", tmp_path, "a", where="beyond=p90") as a,
        captured("gpt2", tmp_path, "b", where="beyond=p90.0", keep="stats") as b,
    ):
        assert rows_of(a, "mlp", 0) == rows_of(b, "mlp", 0) and a.info.settings["where"] == b.info.settings["where"]


def test_until_one_value_can_be_beyond_nothing_is_kept(tmp_path: Path) -> None:
    with captured("gpt2", tmp_path, "r", where="beyond=p99.9") as run:
        assert run.tokens < 1000 and run.beyond_rows == 0 and "kept are 0 of" in run.where_notes[0]
    assert verify_run(tmp_path / "r.duckdb").ok


def test_changed_values_are_found(tmp_path: Path) -> None:
    """Digests aside."""
    with captured("gpt2", tmp_path, "r", where="beyond=p80") as run:
        path = run.path
    changes = {
        "UPDATE beyond SET token_idx = 100000 WHERE rowid = 5": "no neuron or no token",
        "UPDATE beyond SET neuron = -1 WHERE rowid = 5": "no neuron or no token",
        "INSERT INTO beyond FROM beyond LIMIT 1": "come twice",
        "UPDATE beyond SET value = value * 64": "more values than their histogram",
        "UPDATE beyond SET value = value * 1.0001": "not those of the examples",
        "UPDATE run SET settings = json_merge_patch(settings, '{\"where\": null}')": "holds .* values one by one",
    }
    for change, told in changes.items():
        with duckdb.connect(str(path)) as connection:
            connection.execute("BEGIN")
            connection.execute(change)
            problems = check_beyond(RunTables(connection, in_transaction=True))  # type: ignore[arg-type]
            connection.execute("ROLLBACK")
        assert problems and re.search(told, " ".join(problems)), change
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM beyond WHERE rowid = 5")
    assert any("beyond: it holds" in problem for problem in verify_run(path).problems)


def test_the_values_are_exported(tmp_path: Path) -> None:
    from nfinspect_store.export import export_run

    with captured("gpt2", tmp_path, "r", where="beyond=p80") as run:
        expected = rows_of(run, "mlp", 1)
    told: list[str] = []
    found = export_run(tmp_path / "r.duckdb", tmp_path / "out", tell=told.append)
    assert "activations-mlp-L1.parquet" in found.files and not any("safetensors" in name for name in found.files)
    rows = pq.read_table(tmp_path / "out" / "activations-mlp-L1.parquet").to_pylist()
    assert sorted((row["neuron"], row["token_idx"], row["value"]) for row in rows) == expected
    assert "only the values beyond each neuron's p80" in told[0]
    with pytest.raises(StoreError, match="only the values beyond"):
        export_run(tmp_path / "r.duckdb", tmp_path / "none", formats=["safetensors"])


def test_an_estimate_and_a_limit_count_the_values(model_dir: MakeDir, tmp_path: Path) -> None:
    from nfinspect.capturing.estimation import estimate
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import capture_run
    from nfinspect.capturing.sizes import BEYOND_STORED, run_bytes

    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"text": " ".join(["w5", "w9", "w30"] * 10)}) + "\n" for _ in range(4)))
    given: dict[str, Any] = {"prompts": (PromptFile(file),), "run": "r", "batch_size": 1}
    request = CaptureRequest(str(model_dir("gpt2")), tmp_path, where=parse_where("beyond=p75"), **given)
    found = estimate(request)
    plain = estimate(CaptureRequest(str(model_dir("gpt2")), tmp_path, keep="stats", **given))
    assert found.bytes == pytest.approx(plain.bytes + BEYOND_STORED * 0.25 * found.values, abs=2)
    with RunFile.open(capture_run(request)) as run:
        kept, tokens = run.beyond_rows, run.tokens
        assert 0 < kept < 0.25 * found.values
        size = run_bytes(run.layers, "stats", tokens=tokens, prompts=4, concepts=1, generates=False, beyond=kept)
    assert size < found.bytes
    limited = CaptureRequest(**{**vars(request), "run": "limited", "limit_bytes": found.bytes})
    capture_run(limited)
    with pytest.raises(LimitReached):
        capture_run(CaptureRequest(**{**vars(request), "run": "less", "limit_bytes": plain.bytes}))
