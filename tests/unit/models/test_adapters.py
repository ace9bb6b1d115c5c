"""Adapters are merged into their base model; what cannot be, or does not fit, is refused in one line."""

import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from families import llama
from safetensors.torch import load_file, save_file
from test_load import one_line, tokenizer

from nfinspect.models import (
    BrokenCheckpoint,
    ModelError,
    ModelNotFound,
    PickleRefused,
    UnsupportedModel,
    WrongRevision,
    load_model,
)

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A directory with `base` and `lora`, and the logits of the base model with the adapter beside it."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("adapters")
    llama().save_pretrained(root / "base")
    tokenizer().save_pretrained(root / "base")
    base = tf.AutoModelForCausalLM.from_pretrained(root / "base")
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, config).eval()
    adapted.save_pretrained(root / "lora")
    with torch.no_grad():
        return root, adapted(IDS).logits


@pytest.fixture
def lora(made: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """A copy of the adapter, to be spoilt at will."""
    return Path(shutil.copytree(made[0] / "lora", tmp_path / "lora"))


def changed(lora: Path, **facts: Any) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**config, **facts}))


def test_an_adapter_is_merged_into_its_base_model(made: tuple[Path, torch.Tensor], lora: Path) -> None:
    root, logits = made
    loaded = load_model(lora, device="cpu")
    assert type(loaded.model) is type(llama()) and not loaded.model.training and loaded.name == str(lora)
    assert not any("lora" in name for name, _ in loaded.model.named_modules())
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(llama()(IDS).logits, logits, atol=1e-2)
    assert loaded.notes == (f"the LORA adapter in {lora} is merged into {root / 'base'}",)
    assert loaded.tokenizer("w5 w6")["input_ids"] == [5, 6]


def test_the_base_model_may_lie_beside_the_adapter(made: tuple[Path, torch.Tensor], lora: Path) -> None:
    shutil.copytree(made[0] / "base", lora.parent / "mine")
    changed(lora, base_model_name_or_path="../mine")
    with torch.no_grad():
        torch.testing.assert_close(load_model(lora, device="cpu").model(IDS).logits, made[1], rtol=1e-4, atol=1e-5)


def test_without_peft_it_is_said_what_it_is(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"package peft for the LORA adapter of .*base.*'nfinspect\[peft\]'") as error:
        load_model(lora, device="cpu")
    one_line(error)


def _no_weights(d: Path) -> None:
    (d / "adapter_model.safetensors").unlink()


def _pickle(d: Path) -> None:
    (d / "adapter_model.safetensors").rename(d / "adapter_model.bin")


def _cut(d: Path) -> None:
    file = d / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _no_base(d: Path) -> None:
    changed(d, base_model_name_or_path=None)


def _lost_base(d: Path) -> None:
    changed(d, base_model_name_or_path="/nowhere/at/all")


def _other_rank(d: Path) -> None:
    changed(d, r=4)


def _more_targets(d: Path) -> None:
    changed(d, target_modules=["q_proj", "down_proj", "k_proj"])


def _fewer_targets(d: Path) -> None:
    changed(d, target_modules=["q_proj"])


def _unknown_kind(d: Path) -> None:
    changed(d, peft_type="NOBODY_KNOWS")


def _broken_config(d: Path) -> None:
    (d / "adapter_config.json").write_text("{")


def _model_too(d: Path) -> None:
    (d / "config.json").write_text("{}")


def _not_finite(d: Path) -> None:
    weights = load_file(d / "adapter_model.safetensors")
    weights[next(iter(weights))][0] = float("nan")
    save_file(weights, d / "adapter_model.safetensors", {"format": "pt"})


def _prompt_tuning(d: Path) -> None:
    base = json.loads((d / "adapter_config.json").read_text())["base_model_name_or_path"]
    (d / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "PROMPT_TUNING",
                "task_type": "CAUSAL_LM",
                "num_virtual_tokens": 2,
                "token_dim": 16,
                "num_transformer_submodules": 1,
                "num_attention_heads": 4,
                "num_layers": 3,
                "base_model_name_or_path": base,
            }
        )
    )
    save_file({"prompt_embeddings": torch.ones(2, 16)}, d / "adapter_model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_no_weights, ModelNotFound, "expected adapter_model.safetensors next to adapter_config.json"),
        (_pickle, PickleRefused, "--allow-pickle"),
        (_cut, BrokenCheckpoint, "bytes by its own header, found .* cut short"),
        (_no_base, BrokenCheckpoint, "expected the base model's name"),
        (_lost_base, ModelNotFound, "needs its base model: expected a model directory or a hub name"),
        (_other_rank, BrokenCheckpoint, r"size mismatch for .*lora_A.*\[2, 16\].*\[4, 16\]"),
        (_more_targets, BrokenCheckpoint, r"missing adapter keys .*k_proj"),
        (_fewer_targets, BrokenCheckpoint, r"found 6 without one \(.*down_proj"),
        (_unknown_kind, BrokenCheckpoint, "NOBODY_KNOWS"),
        (_broken_config, BrokenCheckpoint, "adapter_config.json"),
        (_model_too, ModelNotFound, "found both config.json and adapter_config.json"),
        (_not_finite, ModelError, "finite weights, found NaN or infinity in .*proj"),
        (_prompt_tuning, UnsupportedModel, "found PROMPT_TUNING"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_in_one_line(
    lora: Path, spoil: Any, kind: type[ModelError], words: str
) -> None:
    spoil(lora)
    with pytest.raises(kind, match=words) as error:
        load_model(lora, device="cpu")
    assert "\n" not in str(error.value) and "found" in str(error.value)


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_adapters_that_lead_back_to_themselves_are_refused(lora: Path, ring: int) -> None:
    places = [lora, *(lora.parent / f"lora{i}" for i in range(1, ring))]
    for place in places[1:]:
        shutil.copytree(lora, place)
    for place, base in zip(places, [*places[1:], places[0]], strict=True):
        changed(place, base_model_name_or_path=f"../{base.name}")
    with pytest.raises(BrokenCheckpoint, match=r"found .*lora/?.* again: .* leads back to itself") as error:
        load_model(lora, device="cpu")
    assert "\n" not in str(error.value)


def test_an_adapter_of_an_adapter_has_both_merged(made: tuple[Path, torch.Tensor], lora: Path) -> None:
    above = lora.parent / "above"
    shutil.copytree(lora, above)
    changed(above, base_model_name_or_path="../lora")
    loaded = load_model(above, device="cpu")
    one, base = load_model(lora, device="cpu").model, load_model(made[0] / "base", device="cpu").model
    for name, weight in loaded.model.state_dict().items():
        twice = 2 * one.state_dict()[name] - base.state_dict()[name]
        torch.testing.assert_close(weight, twice, rtol=1e-4, atol=1e-5)
    assert len(loaded.notes) == 2


def test_a_revision_of_an_adapter_here_is_its_base_models(lora: Path) -> None:
    with pytest.raises(WrongRevision, match="'v1'.*base on this machine: it has no revisions"):
        load_model(lora, revision="v1", device="cpu")
