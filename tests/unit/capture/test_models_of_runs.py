"""What a run says of its model is enough to find the very same again: a revision, an adapter."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from huggingface_hub import constants
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Listener, capture_run
from nfinspect.experiments.run_model import run_model
from nfinspect_store.reader import RunFile


@pytest.fixture
def request_(tmp_path: Path) -> CaptureRequest:
    (tmp_path / "tulip.txt").write_text("w3 w4 w5\nw6 w7\n")
    return CaptureRequest("", tmp_path / "store", prompts=(PromptFile(tmp_path / "tulip.txt"),))


def request_of(request: CaptureRequest, **changes: object) -> CaptureRequest:
    return CaptureRequest(**{**vars(request), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "revision"), [("someone/model@step3", None), ("someone/model", "step3")])
def test_a_run_of_a_revision_is_loaded_from_that_revision(
    request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, revision: str | None
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "cache" / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    for number, ref in enumerate(("main", "step3")):
        made = FAMILIES["llama"]()
        with torch.no_grad():
            made.lm_head.weight += number
        commit = f"{number}123456789abcdef0123456789abcdef01234567"
        made.save_pretrained(repo / "snapshots" / commit)
        word_tokenizer().save_pretrained(repo / "snapshots" / commit)
        (repo / "refs" / ref).write_text(commit)
    path = capture_run(request_of(request_, model=model, revision=revision))
    assert path.name.startswith("model-step3-")
    with RunFile.open(path) as run:
        assert run.info.model == "someone/model@step3"
        assert (run.info.settings["model"], run.info.settings["revision"]) == ("someone/model@step3", "step3")
        loaded = run_model(run, None, "it")
    assert loaded.name == "someone/model@step3" and torch.equal(loaded.model.lm_head.weight, made.lm_head.weight)


def test_a_run_of_an_adapter_is_one_of_its_merged_model(request_: CaptureRequest, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = FAMILIES["llama"]()
    base.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    base.config._name_or_path = base.name_or_path = str(tmp_path / "base")
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["gate_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "lora")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    shutil.copy(tmp_path / "base" / "tokenizer.json", tmp_path / "merged")
    shutil.copy(tmp_path / "base" / "tokenizer_config.json", tmp_path / "merged")
    said: list[str] = []
    values = {}
    for name in ("lora", "merged", "base"):
        request = request_of(request_, model=str(tmp_path / name), run=name)
        with nf.open_run(capture_run(request, Listener(message=said.append))) as run:
            values[name] = run.activations("mlp", 1)
            assert run.info.model == str(tmp_path / name)
    assert said == [f"the LORA adapter in {tmp_path / 'lora'} is merged into {tmp_path / 'base'}"]
    np.testing.assert_allclose(values["lora"], values["merged"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(values["lora"], values["base"], atol=1e-3)
    with RunFile.open(request_.store / "lora.duckdb") as run:
        assert run_model(run, None, "it").layers == 3
