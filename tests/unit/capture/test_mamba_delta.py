"""Mamba's Δ in a run: the one that the model's own scan was given, with the surprisals of the model's own logits."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from families import FAMILIES, mamba
from numpy.typing import NDArray
from rounding import allowed_of
from transformers import AutoModelForCausalLM, PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analysis.delta import delta
from nfinspect.capturing import segments
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Capture, Listener, load
from nfinspect.models import surprisal
from nfinspect_store.mamba_delta import COLUMNS, DeltaMoments, read_mamba_delta
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

PROMPTS = ["w5", "w9 w8 w7 w6 w5", "w11 w12 w13", "w20 w21 w22 w23 w24 w25 w26 w27 w28", "w30 w31"]
KINDS = ("mamba", "mamba_bias", "falcon_mamba", "mamba2", "mamba2_clamped")


@pytest.fixture(scope="module")
def kind_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def directory(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("models") / kind
            FAMILIES[kind]().save_pretrained(made[kind])
            word_tokenizer().save_pretrained(made[kind])
        return made[kind]

    return directory


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "words.json"
    path.write_text(json.dumps({"prompts": PROMPTS}))
    return path


def capture(request: CaptureRequest, listener: Listener | None = None) -> Path:
    return Capture(request, replace(load(request), tokenizer=word_tokenizer()), listener or Listener()).run()


def softplus(values: torch.Tensor) -> NDArray[np.float64]:
    return np.logaddexp(0.0, values.detach().double().numpy())


def scanned(model: PreTrainedModel, ids: list[int]) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Of one unpadded sequence: per layer the scan's Δ, [tokens, channels], and −ln p of each token but the first."""
    module: Any = importlib.import_module(type(model).__module__)
    name = "mamba2_chunk_scan" if hasattr(module, "mamba2_chunk_scan") else "mamba_selective_scan"
    scan, seen = getattr(module, name), []

    def spy(hidden: torch.Tensor, dt: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if name == "mamba2_chunk_scan":  # dt: [1, tokens, heads]
            seen.append(np.clip(softplus(dt[0] + kwargs["dt_bias"]), *kwargs["dt_limit"]))
        else:  # dt: [1, channels, tokens]
            seen.append(softplus(dt[0].T + kwargs["delta_bias"]))
        return scan(hidden, dt, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, name, spy)
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    chances = torch.log_softmax(logits, -1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return seen, -chances.numpy()


def check(path: Path, model: PreTrainedModel) -> None:
    """The run's moments and the rows made of them are those of plain numpy over every token past position 0."""
    with RunFile.open(path) as run:
        sequences = [run.prompt_tokens(i).token_id.tolist() for i in range(run.prompts)]
        read = [scanned(model, ids) for ids in sequences]
        surprisals = np.concatenate([s for _, s in read])
        rows = delta(run).mamba_delta
        held = read_mamba_delta(run.cursor())
    assert sorted(held) == [0, 1, 2]
    channels = read[0][0][0].shape[1]
    assert [(row.layer, row.channel) for row in rows] == [(i, c) for i in range(3) for c in range(channels)]
    for layer, moments in held.items():
        values = np.concatenate([deltas[layer][1:] for deltas, _ in read])
        assert len(values) == len(surprisals) == sum(len(ids) - 1 for ids in sequences)
        np.testing.assert_array_equal(moments.n, np.full(channels, len(values)))
        of_step, of_bits = allowed_of(float(np.abs(values).max()), layer + 1), allowed_of(float(surprisals.max()), 4)
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=0, atol=of_step)
        np.testing.assert_allclose(moments.surprisal_mean, surprisals.mean(), rtol=0, atol=of_bits)
        np.testing.assert_allclose(moments.cv, values.std(0, ddof=1) / values.mean(0), rtol=0, atol=2e-5)
        for channel, row in enumerate(rows[layer * channels : (layer + 1) * channels]):
            varied = np.ptp(values[:, channel]) > 1e-6
            if varied:
                expected = np.corrcoef(values[:, channel], surprisals)[0, 1]
                assert row.surprisal_correlation == pytest.approx(expected, abs=1e-4)
            else:
                assert row.surprisal_correlation is None and row.cv == 0
            assert row.n == len(values) and row.mean == pytest.approx(values[:, channel].mean(), abs=of_step)
    assert verify_run(path).ok


WAYS = [("replay", "left"), ("replay", "right"), ("live", "left")]
QUICK = {"mamba": (0, 2), "mamba_bias": (1,), "falcon_mamba": (0,), "mamba2": (1, 2), "mamba2_clamped": (0,)}
"""Of these ways, those that `make test` tries."""


@pytest.mark.parametrize(
    ("kind", "mode", "side"),
    [
        pytest.param(kind, *way, marks=() if i in QUICK[kind] else pytest.mark.slow)
        for kind in KINDS
        for i, way in enumerate(WAYS)
    ],
)
def test_delta_is_the_scans_own(
    kind: str, mode: Any, side: Any, kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path
) -> None:
    request = CaptureRequest(
        model=str(kind_dir(kind)),
        store=tmp_path,
        prompts=(PromptFile(prompts_file),),
        generate=4,
        run="r",
        batch_size=3,
        padding_side=side,
        mode=mode,
        temperature=0.9,
        seed=3,
    )
    check(capture(request), AutoModelForCausalLM.from_pretrained(kind_dir(kind)).float().eval())


def moments_of(path: Path) -> dict[int, DeltaMoments]:
    with RunFile.open(path) as run:
        return read_mamba_delta(run.cursor())


def assert_alike(a: dict[int, DeltaMoments], b: dict[int, DeltaMoments]) -> None:
    """But for the rounding of two passes, which reach Δ at its layer and the surprisal behind all of them."""
    assert a.keys() == b.keys() and a
    for layer, one in b.items():
        step, bits = float(np.abs(one.mean).max()), float(np.abs(one.surprisal_mean).max())
        of_step, of_bits = allowed_of(step, layer + 1), allowed_of(bits, len(b) + 1)
        # Of n values that are off by e, a sum of squares by at most 2 e sqrt(n m2) + n e^2.
        n, m2, bits_m2 = float(one.n.max()), float(one.m2.max()), float(np.max(one.surprisal_m2))
        tolerances = {
            "n": 0.0,
            "mean": of_step,
            "m2": 2 * of_step * np.sqrt(n * m2) + n * of_step**2,
            "surprisal_mean": of_bits,
            "surprisal_m2": 2 * of_bits * np.sqrt(n * bits_m2) + n * of_bits**2,
            "comoment": np.sqrt(n) * (of_step * np.sqrt(bits_m2) + of_bits * np.sqrt(m2)) + n * of_step * of_bits,
        }
        for name in COLUMNS:
            found, expected = getattr(a[layer], name), getattr(one, name)
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerances[name], err_msg=name)


def assert_same(a: dict[int, DeltaMoments], b: dict[int, DeltaMoments]) -> None:
    """To the last digit."""
    assert a.keys() == b.keys() and a
    for layer in a:
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(a[layer], name), getattr(b[layer], name))


@pytest.mark.slow
def test_neither_batches_nor_chunks_of_logits_nor_statistics_alone_change_it(
    kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = CaptureRequest(str(kind_dir("mamba")), tmp_path, prompts=(PromptFile(prompts_file),), run="a")
    whole = moments_of(capture(request))
    assert_alike(moments_of(capture(replace(request, run="b", batch_size=1))), whole)
    assert_same(moments_of(capture(replace(request, run="c", keep="stats"))), whole)
    monkeypatch.setattr(surprisal, "LOGIT_BYTES", 4 * 101 * 2)  # two tokens at a time
    assert_alike(moments_of(capture(replace(request, run="d"))), whole)


def test_a_resumed_capture_has_the_same_to_the_last_digit(
    kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", -1.0)  # a segment after every batch
    request = CaptureRequest(
        str(kind_dir("mamba2")), tmp_path, prompts=(PromptFile(prompts_file),), run="whole", batch_size=2
    )
    whole = moments_of(capture(request))
    told = []

    def fail_after_the_second_batch(progress: object) -> None:
        told.append(progress)
        if len(told) == 3:  # told at the start, then after each batch, when it is committed
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"):
        capture(replace(request, run="cut"), Listener(progress=fail_after_the_second_batch))
    with RunFile.open(tmp_path / "cut.duckdb") as run:
        assert run.info.status == "failed" and run.prompts == 4
        assert set(read_mamba_delta(run.cursor())[1].n) == {0 + 4 + 2 + 8}
    resumed = moments_of(capture(replace(request, run="cut", resume=True)))
    assert_same(resumed, whole)


def forget_delta(path: Path) -> None:
    """Make the run one that was captured before Δ was recorded, as migrate leaves it: its table is empty."""
    with duckdb.connect(path) as connection:
        connection.execute("DELETE FROM mamba_delta")
        connection.execute("""UPDATE digests SET "rows" = 0, digest = 0 WHERE part = 'mamba_delta'""")


def test_a_run_of_before_has_none_and_says_so(
    kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path
) -> None:
    path = capture(CaptureRequest(str(kind_dir("mamba")), tmp_path, prompts=(PromptFile(prompts_file),), run="r"))
    forget_delta(path)
    with RunFile.open(path) as run:
        found = delta(run)
    assert found.mamba_delta == () and len(found.neurons) == 3 * 32 and "nothing of Mamba's own" in found.notes[-1]
    assert verify_run(path).ok


def test_a_run_begun_before_is_not_counted_from_its_middle_on(
    kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", -1.0)
    request = CaptureRequest(
        str(kind_dir("mamba")), tmp_path, prompts=(PromptFile(prompts_file),), run="r", batch_size=1
    )
    told = []

    def fail(progress: object) -> None:
        told.append(progress)
        if len(told) == 4:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"):
        capture(request, Listener(progress=fail))
    forget_delta(tmp_path / "r.duckdb")
    assert moments_of(capture(replace(request, resume=True))) == {}
    assert verify_run(tmp_path / "r.duckdb").ok


def test_verify_counts_it(kind_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path) -> None:
    path = capture(CaptureRequest(str(kind_dir("mamba")), tmp_path, prompts=(PromptFile(prompts_file),), run="r"))
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE mamba_delta SET n = n - 1 WHERE layer = 2 AND channel = 7")
    problems = verify_run(path).problems
    assert sorted(problems) == [
        "mamba_delta: its rows are not those that were written: their digest differs",
        "mamba_delta: layer 2 counts 14 to 15 tokens, the run holds 15 past position 0",
    ]


def test_recorded_passes_have_it_too(tmp_path: Path) -> None:
    model = FAMILIES["mamba"]()
    rows = [[5, 6, 7, 8, 9], [10], [], [11, 12, 13]]
    for side in ("left", "right"):
        ids, mask = torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, 5, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(5 - len(row), 5)
            ids[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), 1
        with nf.record(model, word_tokenizer(), store=tmp_path, run=side) as recording, torch.no_grad():
            model(ids, attention_mask=mask)
            model(torch.tensor([[20, 21, 22, 23]]))
        check(recording.path, model)


def test_without_a_vocabulary_projection_there_is_delta_and_no_correlation(tmp_path: Path) -> None:
    model = FAMILIES["mamba"]()
    with nf.record(model.backbone, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        model.backbone(torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]))
        model.backbone(torch.tensor([[13, 14]]))
    rows = recording.run.delta().mamba_delta
    deltas = np.concatenate([scanned(model, ids)[0][1][1:] for ids in ([5, 6, 7, 8], [9, 10, 11, 12], [13, 14])])
    here = [row for row in rows if row.layer == 1]
    expected = deltas.mean(0)
    np.testing.assert_allclose([row.mean for row in here], expected, rtol=0, atol=allowed_of(deltas.max(), 2))
    assert {row.n for row in here} == {7} and {row.surprisal_correlation for row in here} == {None}
    assert recording.run.sql("SELECT count(comoment), count(m2) FROM mamba_delta").fetchall() == [(0, 3 * 32)]


def test_a_step_that_never_changes_has_no_variation(tmp_path: Path) -> None:
    """With W_dt = 0, Δ is softplus(b_dt), whatever is read."""
    model = mamba()
    mixer = model.backbone.layers[1].mixer
    with torch.no_grad():
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias.copy_(torch.linspace(-3, 3, 32))
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        model(torch.randint(3, 101, (6, 30), generator=torch.Generator().manual_seed(1)))
        model(torch.randint(3, 101, (2, 9), generator=torch.Generator().manual_seed(2)))
    rows = [row for row in recording.run.delta().mamba_delta if row.layer == 1]
    np.testing.assert_allclose([row.mean for row in rows], softplus(mixer.dt_proj.bias), rtol=1e-6)
    assert {row.n for row in rows} == {6 * 29 + 2 * 8}
    assert {(row.cv, row.surprisal_correlation) for row in rows} == {(0.0, None)}


@pytest.mark.parametrize(("kind", "sites"), [("mamba", ["resid"]), ("gpt2", None)])
def test_only_captured_mixers_have_it(kind: str, sites: list[str] | None, tmp_path: Path) -> None:
    model = FAMILIES[kind]()
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r", sites=sites) as recording, torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    assert read_mamba_delta(recording.run.cursor()) == {} and recording.run.delta().mamba_delta == ()
    assert all(not module._forward_hooks for module in model.modules())


def test_only_the_captured_layers_have_it(tmp_path: Path) -> None:
    model = FAMILIES["mamba"]()
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r", layers=[2, 0]) as recording, torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    assert {row.layer for row in recording.run.delta().mamba_delta} == {0, 2}
    assert {row.layer for row in recording.run.delta(layers=[2]).mamba_delta} == {2}
