"""The names that Python users import, and that they do what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nfinspect as nf
from nfinspect_store.errors import NfinspectError, RequestError, RunBusy

sys.path[:0] = [str(Path(__file__).parent / "models"), str(Path(__file__).parent / "capture")]

from families import FAMILIES  # noqa: E402
from words import word_tokenizer  # noqa: E402

PROMPTS = {"one": ["w5 w6 w7", "w8 w9"], "two": ["w10 w11 w12 w13"]}


def test_importing_nfinspect_costs_no_torch() -> None:
    code = "import nfinspect, sys; assert not {'torch', 'duckdb', 'textual', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_is_what_is_there() -> None:
    for name in nf.__all__:
        assert getattr(nf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nf.nothing


def test_capture_of_a_model_in_memory_opens_the_run(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]().train()
    run = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="mine", generate=2)
    assert model.training
    assert run.info.status == "complete" and run.concepts == ("one", "two") and run.prompts == 3
    values = run.activations("mlp", 1)
    assert values.shape == (run.tokens, 64)
    np.testing.assert_array_equal(run.neuron(1, 5), values[:, 5])
    assert run.health().total_layers == 3
    assert run.trace("one", baseline="two", top=3).neurons[0].samples == 2
    assert run.sql("SELECT count(*) FROM neurons").fetchall() == [(3 * 64,)]
    with pytest.raises(RequestError, match="no concept 'three'"):
        run.trace("three")


def test_record_takes_every_pass_inside_the_block(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    seen: list[torch.Tensor] = []
    hook = model.transformer.h[2].mlp.c_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    with nf.record(model, word_tokenizer(), store=tmp_path, run="passes", concept="mine") as recording:
        seen.clear()  # of the pass that the model's fingerprint is taken from
        with torch.no_grad():
            model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
            model(input_ids=torch.tensor([[11, 12]]))
        with pytest.raises(RunBusy):
            _ = recording.run
    hook.remove()
    run = recording.run
    assert run.concepts == ("mine",)
    assert run.sql("SELECT token_id FROM tokens ORDER BY token_idx").fetchnumpy()["token_id"].tolist() == [
        5, 6, 7, 8, 9, 10, 11, 12,
    ]  # fmt: skip
    expected = torch.cat([seen[0][0], seen[0][1, 2:], seen[1][0]])
    np.testing.assert_array_equal(run.activations("mlp", 2), expected.numpy())
    assert not model.transformer._forward_pre_hooks and not model.transformer._forward_hooks


def test_record_refuses_a_decoding_step_and_leaves_no_run(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    with (
        pytest.raises(NfinspectError, match="continues from a cache"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="steps"),
    ):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
    assert list(tmp_path.iterdir()) == []
