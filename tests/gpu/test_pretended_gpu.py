"""Captures and experiments on a GPU that is pretended (tests/pretended_gpu.py): nothing is on a wrong device, and no
copy is read before it has arrived.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from nfinspect.capturing import transfer
from nfinspect.cli import main
from tests.gpu.checks import check
from tests.pretended_gpu import GARBAGE, pretended_gpu
from tests.sweep.tiny import tiny_model

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, which the pretence needs")


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


@pytest.mark.usefixtures("gpu")
def test_what_a_gpu_refuses_is_refused() -> None:
    there = torch.arange(6.0).view(2, 3).to("cuda:0")
    assert there.is_cuda and there.device == torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="to be on the same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="to be on the same device"):
        nn.Linear(3, 2)(there)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        np.asarray(there)
    there[0] = torch.tensor(7.0)  # one number may come from anywhere
    assert torch.equal(there.cpu(), torch.tensor([[7.0, 7, 7], [3, 4, 5]]))
    assert nn.Linear(3, 2).to("cuda:0")(there).device.type == "cuda"


@pytest.mark.usefixtures("gpu")
def test_a_copy_that_nobody_waited_for_is_garbage() -> None:
    there = torch.ones(4, device="cuda:0")
    host = torch.empty(4, pin_memory=True)
    host.copy_(there, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    there.zero_()  # comes after the copy
    assert set(host.numpy().tobytes()) == {GARBAGE}
    copied.synchronize()
    assert host.tolist() == [1, 1, 1, 1]
    away = there.to("cpu", non_blocking=True)
    assert set(away.numpy().tobytes()) == {GARBAGE}
    torch.cuda.synchronize()
    assert away.tolist() == [0, 0, 0, 0]


@pytest.mark.usefixtures("gpu")
def test_a_layer_begins_its_copy_and_has_it_once_it_is_waited_for() -> None:
    values = torch.arange(6.0).view(2, 3).to("cuda:0")
    copied = transfer.start_copy(values)
    values.zero_()
    assert copied().tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["values", "statistics", "half_precision", "cost"])
def test_the_check_for_gpus_runs_as_on_a_gpu(part: str, tmp_path: Path) -> None:
    with pretended_gpu():
        found = check("cuda:0", quick=True, store=tmp_path, result=tmp_path / "found.json", only=[part])
    told = json.loads((tmp_path / "found.json").read_text())
    assert found == 0 and all(one["right"] for one in told["checks"]), told
    assert told["device"] == "a GPU that is not there" and told["checks"]


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")


VALUES = "SELECT site, layer, neuron, token_idx, value FROM activations ORDER BY ALL LIMIT 2000"
NEURONS = "SELECT site, layer, neuron, n, mean, max, firing_rate, class FROM neurons ORDER BY ALL"


def _commands(model: str, folder: Path, device: str) -> dict[str, list[str]]:
    on = ["--device", device]
    prompts = [word for name in "ab" for word in ("--prompts", f"{name}={folder / name}.txt")]
    capture = ["capture", model, *prompts, "--generate", "4", *on, "--run"]
    edits = ["--scale", "resid:L0/N1=2", "--direction", "edited:a-b@resid:L1=2"]
    text, neurons = str(folder / "a.txt"), str(folder / "n.txt")
    return {
        "live": [*capture, "live", "--mode", "live"],
        "replay": [*capture, "replay", "--mode", "replay"],
        "stats": [*capture, "stats", "--keep", "stats"],
        "sampled": [*capture, "sampled", "--temperature", "0.9", "--where", "answers", "--precision", "int8"],
        "edited": [*capture, "edited", "--sites", "resid", "--zero", "resid:L0/N1", "--from", "3"],
        "values of live": ["sql", "live", VALUES, "--json"],
        "values of replay": ["sql", "replay", VALUES, "--json"],
        "neurons of stats": ["sql", "stats", NEURONS, "--json"],
        "neurons of edited": ["sql", "edited", NEURONS, "--json"],
        "tokens of sampled": ["sql", "sampled", "SELECT token_id FROM tokens ORDER BY token_idx", "--json"],
        "attention": ["attention", model, "--from", "edited", "--json", *on],
        "lens": ["logits", model, "--lens", "w1 w2 w3", "--positions", "--json", *on],
        "walk": ["walk", "live", "--model", model, "--json", *on],
        "text": ["text", "--model", model, "w1 w2 w3 w4", "--json", *on],
        "ablate": ["ablate", model, "--text", text, "--neurons", neurons, "--json", *on],
        "generate": ["generate", model, "w1 w2 w3", *edits, "--new-tokens", "5", "--temperature", "0.5", "--json", *on],
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "jamba"])
def test_every_command_says_what_it_says_on_the_cpu(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "model")
    tiny_model(family).save_pretrained(model)
    _tokenizer().save_pretrained(model)
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4 w5\nw7 w8\n")
    (tmp_path / "b.txt").write_text("w9 w2 w1 w1\nw3 w3 w5 w6 w7 w8\n")
    (tmp_path / "n.txt").write_text("resid:L0/N1\nresid:L1/N2\n")
    told: dict[str, dict[str, tuple[int, Any]]] = {}
    for device, machine in (("cpu", nullcontext), ("cuda:0", pretended_gpu)):
        monkeypatch.setenv("NFINSPECT_STORE", str(tmp_path / device.removesuffix(":0")))
        told[device] = {}
        for name, words in _commands(model, tmp_path, device).items():
            capsys.readouterr()
            with machine():
                status = main(words)
            said = capsys.readouterr()
            told[device][name] = status, json.loads(said.out) if "--json" in words and status == 0 else said.err[-300:]
    for name, (status, expected) in told["cpu"].items():
        found, on_gpu = told["cuda:0"][name]
        assert found == status, f"{name}: {on_gpu}"
        assert status or isinstance(expected, str) or _near(on_gpu, expected), name
    done = {name for name, (status, _) in told["cpu"].items() if status == 0}
    assert set(_commands("", tmp_path, "")) - done <= {"attention"}, told["cpu"]


def _near(found: Any, expected: Any) -> bool:
    """The same, but for rounding and where the model was."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_near(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_near, found, expected))
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(found, expected, rel_tol=1e-3, abs_tol=1e-4)
    return bool(found == expected)
