"""Gradient checkpointing runs layers twice, in both of its forms: the readings are those of a training without it."""

from typing import Any

import pytest
import torch
from networks import monitor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nfinspect as nf

FORMS = [None, False, True]
"""No checkpointing; use_reentrant."""


def language_model(form: bool | None) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=99, bos_token_id=1, eos_token_id=2, **sizes)).train()
    if form is not None:
        model.gradient_checkpointing_enable({"use_reentrant": form})
    return model


class Stages(nn.Module):
    """Stages that a loop of one's own checkpoints; the module's forward need not be called."""

    def __init__(self, form: bool | None) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.form = form
        sizes = (8, 24, 16, 12)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.head = nn.Sequential(nn.Linear(12, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x) if self.form is None else checkpoint(stage, x, use_reentrant=self.form)
        out: Tensor = self.head(x)
        return out


def train_language_model(form: bool | None) -> nf.FiringMonitor:
    """Two passes before one backward pass, of different padding, then a third: no pass may take another's mask."""
    model = language_model(form)
    watched = monitor(every=2, gradients=True)
    watched.start(model)
    torch.manual_seed(3)
    ids = torch.randint(3, 99, (6, 4, 12))
    for step in range(4):
        masks = [(torch.arange(12) >= torch.tensor(cut)[:, None]).long() for cut in ((0, 1, 2, 3), (9, 0, 8, 5))]
        with torch.no_grad():
            model(input_ids=ids[5], use_cache=False)  # a validation
        losses = [
            model(input_ids=ids[(step + i) % 6], attention_mask=mask, labels=ids[(step + i) % 6], use_cache=False).loss
            for i, mask in enumerate(masks)
        ]
        torch.stack(losses).sum().backward()
        model(input_ids=ids[step], labels=ids[step], use_cache=False).loss.backward()
        watched.step()
    watched.finish()
    return watched


def train_stages(form: bool | None, parts: bool) -> nf.FiringMonitor:
    model = Stages(form)
    watched = monitor(every=1, gradients=True)
    watched.start(model)
    torch.manual_seed(3)
    for _ in range(2):
        for _ in range(2):
            given = torch.randn(20, 8, requires_grad=True)
            (model.forward(given) if parts else model(given)).square().sum().backward()
        watched.step()
    watched.finish()
    return watched


def same_readings(one: nf.FiringMonitor, other: nf.FiringMonitor) -> None:
    assert len(one.history) == len(other.history)
    for a, b in zip(one.history, other.history, strict=True):
        assert (a.step, a.missing_percentage, a.problematic_layers) == (
            b.step,
            b.missing_percentage,
            b.problematic_layers,
        )
        assert a.health_score == pytest.approx(b.health_score, rel=1e-12)
        assert len(a.layers) == len(b.layers)
        for x, y in zip(a.layers, b.layers, strict=True):
            assert (x.layer, x.layer_name, x.tokens, x.dead_neurons) == (
                y.layer,
                y.layer_name,
                y.tokens,
                y.dead_neurons,
            )
            for name in ("activation_rate", "mean", "std", "gradient_rms"):
                assert getattr(x, name) == pytest.approx(getattr(y, name), rel=1e-4), name


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
@pytest.mark.parametrize("form", FORMS[1:])
def test_a_language_model_reads_as_without(form: bool) -> None:
    """The dropouts' random numbers are the same: they are kept for the second run."""
    bare, checkpointed = train_language_model(None), train_language_model(form)
    assert {layer.tokens for layer in bare.history[0].layers} == {42 + 26 + 48}
    same_readings(checkpointed, bare)


@pytest.mark.parametrize("parts", [False, True], ids=["the module is called", "its forward alone"])
@pytest.mark.parametrize("form", FORMS[1:])
def test_stages_read_as_without(form: bool, parts: bool) -> None:
    bare, checkpointed = train_stages(None, parts), train_stages(form, parts)
    assert [layer.tokens for layer in bare.history[0].layers] == [40] * 4
    same_readings(checkpointed, bare)


@pytest.mark.parametrize("parts", [False, True], ids=["the module is called", "its forward alone"])
@pytest.mark.parametrize("waits", [None, False], ids=["on the CPU", "as on a GPU"])
@pytest.mark.parametrize("form", FORMS)
def test_nan_is_told_with_the_layer_that_it_began_in(
    form: bool | None, waits: bool | None, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfinspect.training.finite import FiniteWatch

    made = FiniteWatch.__init__
    monkeypatch.setattr(FiniteWatch, "__init__", lambda self, model, places: made(self, model, places, waits=waits))
    model = Stages(form)
    with monitor(model=model, every=1) as watched:
        for step in (1, 2):
            if step == 2:
                with torch.no_grad():
                    model.stages[1][0].bias[3] = float("nan")
            given = torch.randn(20, 8, requires_grad=True)
            (model.forward(given) if parts else model(given)).square().sum().backward()
            watched.step()
    found = [alert for alert in watched.alerts if alert.kind == "nan"]
    assert [(alert.step, alert.layer_name) for alert in found] == [(2, "stages.1.1")]
    assert "look at the input" not in found[0].text
