"""Whatever runs a model puts it back: hooks off, every module in its own mode, also when a pass ends in an error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nfinspect as nf
from nfinspect.experiments.ablation import LayerAblation, ablated
from nfinspect.experiments.attention import attention
from nfinspect.experiments.lens import logit_lens
from nfinspect.experiments.scans import read_scans
from nfinspect.experiments.value_gradients import read_gradients
from nfinspect.models import SilentHook, find_sites, in_memory

sys.path[:0] = [str(Path(__file__).parent / "models"), str(Path(__file__).parent / "capture")]

from families import FAMILIES  # noqa: E402
from words import word_tokenizer  # noqa: E402

IDS = [5, 6, 7, 8, 9]


class Planted(Exception):
    """The error of a pass in these tests."""


def raises(*_: object) -> None:
    raise Planted


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def mixed_modes(model: nn.Module) -> dict[str, bool]:
    """Training mode with parts in eval mode, nested in both ways."""
    model.train()
    block, other = (m for n, m in model.named_modules() if n.endswith((".0", ".1")) and n.count(".") == 2)
    block.eval()
    next(block.children()).train()
    next(other.children()).eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    return modes


def recorded(model: Any, tmp_path: Path) -> None:
    with nf.record(model, word_tokenizer(), store=tmp_path, run="recorded"), torch.no_grad():
        model(torch.tensor([IDS]))


def cut(model: Any, tmp_path: Path) -> None:
    loaded = in_memory(model, word_tokenizer())
    with ablated(loaded, [LayerAblation(find_sites(model)[0], np.array([1]))]), torch.no_grad():
        model(torch.tensor([IDS]))


USES: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "capture": ("gpt2", lambda m, p: nf.capture(m, word_tokenizer(), ["w5 w6"], store=p, run="read")),
    "capture live": ("gpt2", lambda m, p: nf.capture(m, word_tokenizer(), ["w5"], store=p, generate=2, mode="live")),
    "capture Δ": ("mamba", lambda m, p: nf.capture(m, word_tokenizer(), ["w5 w6"], store=p, run="delta")),
    "record": ("gpt2", recorded),
    "ablated": ("gpt2", cut),
    "attention": ("gpt2", lambda m, p: attention(in_memory(m, word_tokenizer()), [IDS])),
    "gradients": ("gpt2", lambda m, p: read_gradients(in_memory(m, word_tokenizer()), find_sites(m), IDS, print)),
    "scans": ("mamba", lambda m, p: read_scans(in_memory(m, word_tokenizer()), find_sites(m), IDS, print)),
    "lens": ("gpt2", lambda m, p: logit_lens(in_memory(m, word_tokenizer()), "w5 w6")),
    "text": ("gpt2", lambda m, p: nf.SubtextAnalyzer(m, word_tokenizer()).analyze("w5 w6")),
    "analyzer": ("gpt2", lambda m, p: nf.NeuralFiringAnalyzer().analyze_pytorch_model(m, torch.tensor([IDS]))),
}


@pytest.mark.parametrize("use", USES)
def test_a_pass_that_raises_leaves_no_hook_and_no_mode_behind(use: str, tmp_path: Path) -> None:
    family, call = USES[use]
    model = FAMILIES[family]()
    # The last block's own hook raises after every other layer has been read.
    planted = model.get_submodule(find_sites(model, ["resid"])[-1].module).register_forward_hook(raises)
    before = hooks_of(model)
    modes = mixed_modes(model) if use in ("capture", "capture live", "capture Δ", "text", "analyzer") else None
    weights = {name: weight.requires_grad for name, weight in model.named_parameters()}
    with pytest.raises(Planted):
        call(model, tmp_path)
    assert hooks_of(model) == before
    planted.remove()
    if modes is not None:
        assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == weights
    if modes is not None or family == "gpt2":
        call(model, tmp_path)  # and the next one is as if nothing had been
    assert hooks_of(model) == before - 1
    if modes is not None:
        assert {name: module.training for name, module in model.named_modules()} == modes


def test_cutting_goes_on_after_a_pass_that_raised() -> None:
    model = FAMILIES["gpt2"]()
    loaded = in_memory(model, word_tokenizer())
    sites = find_sites(model)
    with ablated(loaded, [LayerAblation(site, np.array([1])) for site in sites]), torch.no_grad():
        wanted = model(torch.tensor([IDS])).logits
        planted = model.get_submodule(sites[1].module).register_forward_hook(raises)
        for _ in range(2):
            with pytest.raises(Planted):
                model(torch.tensor([IDS]))
        planted.remove()
        assert torch.equal(model(torch.tensor([IDS])).logits, wanted)
        with pytest.raises(SilentHook, match="found 0 times"):  # and still tells a pass that comes by no layer
            model.transformer.h = nn.ModuleList()
            model(torch.tensor([IDS]))
