"""The monitor changes nothing about a training, and its readings are what the analyzer says of the same pass."""

from pathlib import Path

import pytest
import torch
from networks import STEPS, dropout_mlp, hooks_of, monitor, same_weights, train
from torch import nn

import nfinspect as nf
from nfinspect.training.errors import NoLayers
from nfinspect.training.step_reader import spread
from nfinspect_store.errors import RequestError


@pytest.mark.parametrize("options", [{}, {"gradients": True, "every": 1}, {"window": 3, "max_tokens": 10}])
def test_weights_are_the_same_to_the_last_bit(options: dict[str, object], tmp_path: Path) -> None:
    bare = train(dropout_mlp())
    watched = monitor(write=True, store=tmp_path, **options)
    model = train(dropout_mlp(), watched)
    assert same_weights(bare, model)
    assert hooks_of(model) == 0 and not watched.active
    assert watched.history[-1].step == STEPS and all(reading.health_score for reading in watched.history)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_language_model_trains_to_the_same_weights(checkpointing: bool) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def trained(watched: nf.FiringMonitor | None) -> nn.Module:
        torch.manual_seed(0)
        ids = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
        config = GPT2Config(**ids, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        model = GPT2LMHeadModel(config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        if watched:
            watched.start(model)
        for _ in range(8):
            for _ in range(2):  # gradients are accumulated
                ids = torch.randint(3, 99, (4, 12))
                mask = torch.ones_like(ids)
                mask[0, :5] = 0
                model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if watched:
                watched.step()
        if watched:
            watched.finish()
        return model

    watched = monitor(every=2, gradients=True)
    bare, model = trained(None), trained(watched)
    assert same_weights(bare, model) and hooks_of(model) == hooks_of(bare)
    assert [reading.step for reading in watched.history] == [1, 2, 4, 6, 8]
    # Two passes of 48 tokens, five of which the mask hides; a pass that is run again for its gradients counts once.
    assert {(x.layer_name, x.neurons, x.tokens) for reading in watched.history for x in reading.layers} == {
        (f"transformer.h.{i}.mlp.c_proj", 64, 86) for i in range(2)
    }
    assert all(x.gradient_rms and x.gradient_rms > 0 for reading in watched.history for x in reading.layers)


def test_a_reading_is_what_the_analyzer_says_of_the_same_pass() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 2))
    values = torch.randn(200, 8)
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, values)
    with monitor(model=model) as watched:
        model(values).sum().backward()
        watched.step(loss=0.5)
    reading = watched.history[0]
    assert (reading.step, reading.loss) == (1, 0.5)
    assert reading.health_score == report.overall_health_score
    assert reading.missing_percentage == report.missing_firing_percentage
    for layer, expected in zip(reading.layers, report.layer_analyses, strict=True):
        assert layer.layer_name == expected.layer_name and layer.tokens == expected.tokens == 200
        assert layer.activation_rate == expected.activation_rate and layer.health_score == expected.health_score
        assert layer.std == pytest.approx(expected.activation_distribution["std"])
        assert [layer.dead_neurons, layer.weak_neurons] == [expected.dead_neurons, expected.weak_neurons]


def test_a_gradient_is_its_root_mean_square() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1))
    values = torch.randn(6, 3)
    hidden = model[1](model[0](values))
    gradient = torch.autograd.grad(model[2](hidden).square().sum(), hidden)[0]
    with monitor(model=model, gradients=True) as watched:
        model(values).square().sum().backward()
        watched.step()
    assert watched.history[0].layers[0].gradient_rms == pytest.approx(float(gradient.square().mean().sqrt()))


def test_settings_steps_and_losses_that_are_none_are_refused() -> None:
    for wrong in (0, 2.5, "a", True):
        with pytest.raises(RequestError, match="integers of 1 or more"):
            nf.FiringMonitor(every=wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a module of torch"):
        nf.FiringMonitor(3, write=False).start()  # type: ignore[arg-type]
    model = dropout_mlp()
    with monitor(model=model, every=1) as watched:
        model(torch.randn(64, 8)).sum().backward()
        with pytest.raises(RequestError, match="a step's number"):
            watched.step("a")  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="a step's number"):
            watched.step(10**30)
        for wrong_loss in (torch.ones(2), 10**400):
            with pytest.raises(RequestError, match="one number"):
                watched.step(loss=wrong_loss)
        watched.step(1, loss=torch.ones(1))


def test_a_validation_in_between_does_not_count() -> None:
    model = dropout_mlp()
    with monitor(model=model, every=1) as watched:
        for _ in range(3):
            model.eval()
            with torch.no_grad():
                model(torch.full((500, 8), 100.0))
            model.train()
            model(torch.randn(64, 8)).sum().backward()
            watched.step()
    assert [layer.tokens for reading in watched.history for layer in reading.layers] == [64] * 9


def test_a_window_rests_on_several_readings() -> None:
    watched = monitor(window=3)
    train(dropout_mlp(), watched)
    assert [reading.layers[0].tokens for reading in watched.history] == [64, 128] + [192] * (len(watched.history) - 2)


def test_rows_are_spread_without_chance() -> None:
    assert spread(10, 10) is None
    rows = spread(1000, 100)
    assert len(set(rows.tolist())) == 100 and rows.max() < 1000
    assert {row % 10 for row in rows.tolist()} == set(range(10))  # no column of an image of width 10 alone


@pytest.mark.parametrize("given", [{"every": 0}, {"window": 0}, {"max_tokens": 0}, {"check_finite": "never"}])
def test_settings_that_cannot_be_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        monitor(**given)


def test_a_model_is_needed_and_has_to_have_layers() -> None:
    with pytest.raises(RequestError, match="expected a model"):
        monitor().start()
    with pytest.raises(NoLayers):
        monitor().start(nn.Linear(2, 2))
    watched = monitor(model=dropout_mlp())
    watched.start()
    with pytest.raises(RequestError, match=r"finish\(\) first"):
        watched.start()
    watched.finish()
    watched.finish()
