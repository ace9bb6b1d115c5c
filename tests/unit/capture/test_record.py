"""nf.record: any forward pass, padding on any side, statistics alone, and nothing left behind when it fails."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, compiled_ways
from rounding import assert_same_pass
from sampled import sampled
from test_padding import NAMES, plain
from transformers import PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing import foreign_passes
from nfinspect.capturing.reading import BatchReader, Values
from nfinspect_store.errors import NfinspectError, RunExists
from nfinspect_store.reader import RunFile


def hooks_of(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_each_row_is_a_prompt_whatever_the_padding(family: str, side: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    rows = [[5, 6, 7, 8, 9], [10], [], [11, 12, 13]]
    ids, mask = torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, 5, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(5 - len(row), 5)
        ids[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), 1
    positions = {} if family == "mamba" else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        model(ids, attention_mask=mask, **positions)
    assert hooks_of(model) == 0
    run = recording.run
    real = [row for row in rows if row]
    assert run.prompts == len(real) and run.concepts == ("recorded",)
    for i, row in enumerate(real):
        tokens = run.prompt_tokens(i)
        assert tokens.token_id.tolist() == row and not tokens.generated.any()
        values, gates = plain(model, NAMES[family], row)
        for layer in run.layers:
            stored = run.activations(layer.site, layer.layer)[tokens.token_idx]
            assert_same_pass(stored, values[layer.site, layer.layer], layer.layer)


def test_statistics_alone_of_passes_in_training(tmp_path: Path) -> None:
    """With gradients, in the middle of somebody's training loop; the backward pass is not disturbed."""
    model = FAMILIES["gpt2"]().train()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with nf.record(
        model, word_tokenizer(), store=tmp_path, run="r", keep="stats", layers=[1], sites=["mlp", "resid"]
    ) as recording:
        for _ in range(3):
            model(ids, labels=ids).loss.backward()
    assert model.training and model.transformer.h[0].mlp.c_fc.weight.grad is not None
    run = recording.run
    assert [(layer.site, layer.layer) for layer in run.layers] == [("mlp", 1), ("resid", 1)]
    assert run.tokens == 18 and run.statistics("mlp").n.tolist() == [18] * 64
    with pytest.raises(NfinspectError, match="statistics only"):
        run.activations("mlp", 1)


def test_a_pass_over_padding_alone_adds_nothing(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    ids = torch.tensor([[5, 6, 7]])
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        model(ids, attention_mask=torch.zeros_like(ids))
        model(ids)
    assert recording.run.tokens == 3 and recording.run.prompts == 1


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    with (
        pytest.raises(KeyError, match="mine"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r"),
        torch.no_grad(),
    ):
        model(torch.tensor([[5, 6, 7]]))
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == [] and hooks_of(model) == 0


def test_a_block_without_a_pass_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    with (
        pytest.raises(NfinspectError, match="no forward pass") as caught,
        nf.record(model, word_tokenizer(), store=tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_an_error_that_the_block_handles_does_not_spoil_what_follows(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        with pytest.raises(IndexError):
            model(torch.tensor([[5, 6, 500]]))  # no such token
        model(torch.tensor([[5, 6, 7]]))
    assert recording.run.tokens == 3


@pytest.mark.parametrize("wrong", ["embeddings", "cache"])
def test_passes_that_are_no_sequences_are_refused(wrong: str, tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    ids = torch.tensor([[5, 6]])
    with (
        pytest.raises(NfinspectError, match="embeddings" if wrong == "embeddings" else "continues from a cache"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r"),
        torch.no_grad(),
    ):
        if wrong == "embeddings":
            model(inputs_embeds=model.transformer.wte(ids))
        else:
            cache = model(ids, use_cache=True).past_key_values
            model(torch.tensor([[7]]), past_key_values=cache)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_stays(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    for _ in range(2):
        try:
            with nf.record(model, word_tokenizer(), store=tmp_path, run="r"), torch.no_grad():
                model(torch.tensor([[5, 6, 7]]))
        except RunExists:
            break
    else:
        raise AssertionError("written over")
    with RunFile.open(tmp_path / "r.duckdb") as run:
        assert run.tokens == 3


@pytest.mark.parametrize("family", sampled(sorted(NAMES), 6))
def test_left_padding_without_positions_is_told_where_it_matters(family: str, tmp_path: Path) -> None:
    """Said exactly where the recorded values are not those of a lone prompt; right padding never is."""
    model, row = FAMILIES[family](), [5, 6, 7, 8, 9, 10]
    alone = plain(model, NAMES[family], row)[0]
    for side in ("left", "right"):
        place = slice(3, 9) if side == "left" else slice(0, 6)
        ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
        ids[0, place], mask[0, place] = torch.tensor(row), 1
        ids[1], mask[1] = torch.arange(5, 14), 1
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with nf.record(model, word_tokenizer(), store=tmp_path, run=side) as recording, torch.no_grad():
                for _ in range(2):
                    model(ids, attention_mask=mask)
        run, notes = recording.run, [str(one.message) for one in said if "left-padded" in str(one.message)]
        off = 0.0
        for layer in run.layers:
            stored = run.activations(layer.site, layer.layer)[:6]
            expected = alone[layer.site, layer.layer].detach().numpy()
            off = max(off, float(np.linalg.norm(stored - expected) / np.linalg.norm(expected)))
        assert len(notes) == (off > 1e-3), f"{family}, {side}: {off:.2g} off, {notes}"
        assert run.info.settings.get("notes", []) == notes
        assert off < 1e-3 or (side == "left" and ("position_ids" in notes[0] or "mamba" in family))


def test_positions_given_are_not_warned_of(tmp_path: Path) -> None:
    model, mask = FAMILIES["gpt2"]().train(), torch.tensor([[0, 0, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording:
        model(torch.tensor([[0, 0, 5, 6, 7]]), attention_mask=mask, position_ids=positions)
    assert recording.run.tokens == 3 and "notes" not in recording.run.info.settings and model.training


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_does_not_cost_the_recording(tmp_path: Path) -> None:
    model, ids = FAMILIES["gpt2"](), torch.tensor([[0, 0, 5, 6, 7]])
    with (
        pytest.raises(UserWarning, match="left-padded rows"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r"),
        torch.no_grad(),
    ):
        model(ids, attention_mask=(ids > 0).long())
    run = nf.open_run(tmp_path / "r.duckdb")
    assert run.info.status == "complete" and run.tokens == 3 and "left-padded rows" in run.info.settings["notes"][0]


def test_a_model_that_cannot_be_asked_again_does_not_cost_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise RuntimeError("no memory\nleft")

    monkeypatch.setattr(foreign_passes, "note_on_left_padding", failing)
    model, ids = FAMILIES["gpt2"](), torch.tensor([[0, 0, 5, 6, 7]])
    with (
        pytest.warns(UserWarning, match=r"is not known: it could not be asked \(RuntimeError: no memory left\)"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording,
        torch.no_grad(),
    ):
        model(ids, attention_mask=(ids > 0).long())
    assert recording.run.tokens == 3 and "is not known" in recording.run.info.settings["notes"][0]


@pytest.mark.filterwarnings("error")
def test_what_is_said_while_capturing_does_not_cost_the_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is known before nothing is recorded; what comes up on the way is a warning when the run is whole."""
    whole = BatchReader.replay

    def full(reader: BatchReader, sequences: Sequence[Sequence[int]], *options: Any) -> Values:
        if len(sequences) > 1:
            raise torch.OutOfMemoryError
        return whole(reader, sequences, *options)

    monkeypatch.setattr(BatchReader, "replay", full)
    with pytest.raises(UserWarning, match="batches of 1 prompts"):
        nf.capture(FAMILIES["gpt2"](), word_tokenizer(), ["w3 w4", "w5 w6"], store=tmp_path, run="r")
    run = nf.open_run(tmp_path / "r.duckdb")
    assert run.info.status == "complete" and run.prompts == 2


@pytest.mark.parametrize(
    "way",
    ["torch.compile", "a wrapped part", *(pytest.param(w, marks=pytest.mark.slow) for w in ("in place", "blocks"))],
)
@pytest.mark.parametrize("recorded", ["what is called", "the model"])
def test_a_compiled_model_is_recorded_as_the_model_itself(way: str, recorded: str, tmp_path: Path) -> None:
    model, ids = FAMILIES["gpt2"](), torch.tensor([[5, 6, 7, 8, 9]])
    expected = {key: value.detach().numpy() for key, value in plain(model, NAMES["gpt2"], ids[0].tolist())[0].items()}
    called = compiled_ways()[way](model)
    if way == "blocks":  # compiled before the hooks come: code that is there already calls none
        with torch.no_grad():
            called(ids)
    given: Any = called if recorded == "what is called" else model
    with nf.record(given, word_tokenizer(), store=tmp_path, run="r") as recording, torch.no_grad():
        called(ids)
    run = recording.run
    for layer in run.layers:
        found = run.activations(layer.site, layer.layer)
        np.testing.assert_allclose(found, expected[layer.site, layer.layer], rtol=0, atol=1e-6)
    captured = nf.capture(given, word_tokenizer(), ["w5 w6 w7 w8 w9"], store=tmp_path, run="c")
    np.testing.assert_allclose(captured.activations("mlp", 0), expected["mlp", 0], rtol=0, atol=1e-6)


def test_a_block_that_never_calls_the_model_says_what_may_be_wrong(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    twin = FAMILIES["gpt2"]()
    with (
        pytest.raises(NfinspectError, match="has to call this very model; a copy"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r"),
        torch.no_grad(),
    ):
        twin(torch.tensor([[5, 6, 7]]))
    assert not list(tmp_path.glob("*.duckdb"))
