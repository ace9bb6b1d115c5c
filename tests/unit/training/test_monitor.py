"""The monitor changes nothing, sees what was planted at the step at which it was, and leaves nothing behind."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import STEPS, Functional, dropout_mlp, hooks_of, same_weights, train
from torch import nn

import nfinspect as nf
from nfinspect.analysis.history import Alert, read_history
from nfinspect.training.errors import NoLayers, SilentLayer
from nfinspect.training.finite import FiniteWatch
from nfinspect.training.places import find_places
from nfinspect.training.step_reader import spread
from nfinspect_store.errors import RequestError, RunBusy, RunExists


def monitor(**options: object) -> nf.FiringMonitor:
    return nf.FiringMonitor(**{"every": 5, "write": False, **options})  # type: ignore[arg-type]


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


def test_which_neurons_died_at_which_step() -> None:
    model = dropout_mlp()

    def kill(step: int) -> None:
        if step == 20:
            with torch.no_grad():
                model[5].bias[[3, 7, 11, 20, 21]] = -1e4
        if step == 30:
            with torch.no_grad():
                model[5].bias[[7]] = 1.0

    watched = monitor()
    train(model, watched, between=kill)
    dying = [alert for alert in watched.alerts if alert.kind == "dying"]
    assert [(a.step, a.layer_name, a.neurons, a.died_at) for a in dying] == [(20, "7", (3, 7, 11, 20, 21), (20,) * 5)]
    assert "N3, N7, N11, N20, N21" in dying[0].text and "at step 20" in dying[0].text
    layers = {reading.step: reading.layers[1] for reading in watched.history}
    assert layers[20].died == (3, 7, 11, 20, 21) and layers[30].revived == (7,)
    assert (layers[15].dead_neurons, layers[20].dead_neurons, layers[35].dead_neurons) == (0, 5, 4)


def test_a_fall_of_the_score_is_an_alert() -> None:
    model = dropout_mlp()

    def kill(step: int) -> None:
        if step == 25:
            with torch.no_grad():
                model[8].bias[:20] = -1e4

    watched = monitor()
    train(model, watched, between=kill)
    scores = {reading.step: reading.health_score for reading in watched.history}
    assert scores[25] < 0.9 * scores[20]
    assert [alert.step for alert in watched.alerts if alert.kind == "health"] == [25]


def test_growing_saturation_is_an_alert() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 2))

    def saturate(step: int) -> None:
        if step == 15:
            with torch.no_grad():
                model[0].weight[:6] *= 1000

    watched = monitor()
    train(model, watched, between=saturate)
    assert [(a.step, a.kind, a.neurons) for a in watched.alerts if a.kind == "saturation"] == [
        (15, "saturation", (0, 1, 2, 3, 4, 5))
    ]


@pytest.mark.parametrize("factor, kind", [(1e-12, "vanishing"), (1e9, "exploding")])
def test_gradients_that_vanish_or_explode(factor: float, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    with monitor(model=model, gradients=True, every=1) as watched:
        for step in range(8):
            if step == 5:
                with torch.no_grad():
                    model[2].weight *= factor
            model(torch.randn(32, 8)).square().mean().backward()
            model.zero_grad()
            watched.step()
    found = [(alert.step, alert.layer_name) for alert in watched.alerts if alert.kind == kind]
    assert found[0] == (6, "1")


@pytest.mark.parametrize("waits", [None, False], ids=["looked at at once", "fetched with the next reading"])
def test_nan_is_told_with_the_layer_that_it_began_in(waits: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """False: as on a GPU, which is not waited for."""
    model = dropout_mlp()

    def spoil(step: int) -> None:
        if step == 23:
            with torch.no_grad():
                model[5].weight[0, 0] = float("nan")

    made = FiniteWatch.__init__
    monkeypatch.setattr(FiniteWatch, "__init__", lambda self, model, places: made(self, model, places, waits=waits))
    watched = monitor()
    train(model, watched, between=spoil)
    found = [alert for alert in watched.alerts if alert.kind == "nan"]
    assert [(a.step, a.layer_name, a.level) for a in found] == [(23, "7", "critical")]
    if waits is None:
        assert "5.weight" in found[0].text
    assert watched.history[-1].health_score is None and not watched.history[-1].layers[1].finite


def test_an_input_that_is_not_finite_is_told_apart() -> None:
    model = dropout_mlp()
    with monitor(model=model) as watched:
        model(torch.full((64, 8), float("inf"))).sum().backward()
        watched.step()
    text = next(alert.text for alert in watched.alerts if alert.kind == "nan")
    assert "layer 3" in text and "look at the input" in text


def test_a_sum_that_overflows_is_no_infinity() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    watch = FiniteWatch(model, find_places(model))
    with torch.no_grad():
        model[0].weight.fill_(3e38)
        model[0].bias.zero_()
    model(torch.tensor([[1.0, 0.0]]))
    assert watch.take(fetch=True) is None
    model(torch.tensor([[2.0, 0.0]]))
    assert watch.take(fetch=True) is not None
    watch.remove()


def test_layers_are_kept_until_the_last_has_run_and_the_first_bad_one_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.ReLU())))
    watch = FiniteWatch(model, find_places(model))
    watch.begin_step(1)
    for step in (1, 2):
        model(torch.rand(3, 6))
        assert watch.take(fetch=True) is None
        watch.begin_step(step + 1)
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    model(torch.rand(3, 6))
    found = watch.take(fetch=True)
    assert found is not None and (found.step, found.layer, found.first, found.weights) == (3, "5", False, ("4.weight",))
    # A pass that ends before the last layer is looked at when the step ends.
    nn.Sequential(*model[:6])(torch.rand(3, 6))
    found = watch.take(fetch=True)
    assert found is not None and found.layer == "5"
    watch.remove()
    assert hooks_of(model) == 0


def test_a_layer_that_is_changed_in_place_is_not_blamed_for_a_later_one() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.act1, self.fc2, self.act2 = nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU()
            self.last = nn.GELU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.act1(self.fc1(x))
            hidden += self.act2(self.fc2(x))
            return self.last(hidden)  # type: ignore[no-any-return]

    model = Residual()
    watch = FiniteWatch(model, find_places(model))
    for step in range(1, 4):
        watch.begin_step(step)
        if step == 2:
            with torch.no_grad():
                model.fc2.weight[0, 0] = float("nan")
        model(torch.rand(3, 6))
        found = watch.take(fetch=True)
        assert (found.layer if found else None) == (None if step == 1 else "act2")
    watch.remove()


def test_infinity_that_a_bounded_activation_hides_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1.0)
    watch = FiniteWatch(model, find_places(model))
    for step, size in ((1, 1.0), (2, 3e38)):
        watch.begin_step(step)
        assert torch.isfinite(model(torch.full((1, 2), size))).all()
        found = watch.take(fetch=True)
        assert (found.layer if found else None) == (None if step == 1 else "1")
    watch.remove()


@pytest.mark.parametrize("part", [False, True])
def test_a_compiled_training_is_refused_with_the_reason(part: bool) -> None:
    model = dropout_mlp()
    whole = nn.Sequential(torch.compile(model, backend="eager"), nn.ReLU()) if part else model
    trained = whole if part else torch.compile(model, backend="eager")
    with monitor(model=whole) as watched:
        trained(torch.randn(64, 8)).sum().backward()
        with pytest.raises(SilentLayer, match="torch.compile"):
            watched.step()
    assert hooks_of(model) == 0


def test_two_monitors_do_not_write_one_history(tmp_path: Path) -> None:
    again = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path, resume=True)
    first = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path)
    first.start()
    with pytest.raises(RunBusy, match="another monitor"):
        again.start()
    first.finish()
    again.start()
    again.finish()
    other = monitor(model=dropout_mlp(), write=True, run="night", store=tmp_path)
    for _ in range(2):  # the first refusal does not make it the second's own
        with pytest.raises(RunExists):
            other.start()


def test_settings_steps_and_losses_that_are_none_are_refused() -> None:
    for wrong in (0, 2.5, "a", True):
        with pytest.raises(RequestError, match="whole numbers"):
            nf.FiringMonitor(every=wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a module of torch"):
        nf.FiringMonitor(3, write=False).start()  # type: ignore[arg-type]
    model = dropout_mlp()
    with monitor(model=model, every=1) as watched:
        model(torch.randn(64, 8)).sum().backward()
        with pytest.raises(RequestError, match="a step's number"):
            watched.step("a")  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="one number"):
            watched.step(loss=torch.ones(2))
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


def test_the_file_holds_what_the_monitor_saw(tmp_path: Path) -> None:
    watched = monitor(write=True, run="night", store=tmp_path, gradients=True)
    train(dropout_mlp(), watched)
    history = read_history(tmp_path / "night.history.jsonl")
    assert history.readings == tuple(watched.history) and history.alerts == tuple(watched.alerts)
    assert (history.name, history.status, history.layers) == ("night", "complete", ("3", "7", "9"))
    assert history.info["every"] == 5 and history.info["model"] == "Sequential"
    assert [path.name for path in tmp_path.iterdir()] == ["night.history.jsonl"]
    with pytest.raises(RunExists, match="another run name, or resume it"):
        monitor(write=True, run="night", store=tmp_path).start(dropout_mlp())


def test_a_pickled_monitor_goes_on_where_it_was(tmp_path: Path) -> None:
    watched = monitor(write=True, run="night", store=tmp_path)
    model = dropout_mlp()
    watched.start(model)
    model(torch.randn(64, 8)).sum().backward()
    watched.step()
    kept = pickle.dumps(watched)  # in the middle, as a checkpoint does
    watched.finish("interrupted")
    again = pickle.loads(kept)
    assert not again.active and again.history == watched.history
    train(dropout_mlp(), again, steps=9)
    history = read_history(tmp_path / "night.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 2, 5, 10]
    assert history.status == "complete" and history.readings == tuple(again.history)


def test_a_resumed_training_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    train(dropout_mlp(), monitor(write=True, run="night", store=tmp_path), steps=20)
    again = monitor(write=True, run="night", store=tmp_path, resume=True)
    model = dropout_mlp()
    again.start(model, step=12)
    model(torch.randn(64, 8)).sum().backward()
    again.step(13)
    again.finish()
    assert [r.step for r in read_history(tmp_path / "night.history.jsonl").readings] == [1, 5, 10, 13]


def test_a_copy_of_a_watched_model_is_not_watched() -> None:
    model = dropout_mlp()
    with monitor(model=model, every=1) as watched:
        twin = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (twin, loaded):
            other(torch.full((64, 8), float("nan"))).sum().backward()
        model(torch.randn(64, 8)).sum().backward()
        watched.step()
    assert [layer.tokens for layer in watched.history[0].layers] == [64] * 3
    assert not [alert for alert in watched.alerts if alert.kind == "nan"]


def test_an_error_in_the_loop_ends_the_history_as_failed(tmp_path: Path) -> None:
    model = dropout_mlp()
    for error, status in ((ValueError, "failed"), (KeyboardInterrupt, "interrupted")):
        with pytest.raises(error), monitor(model=model, write=True, run=status, store=tmp_path):
            raise error
        assert read_history(tmp_path / f"{status}.history.jsonl").status == status
        assert hooks_of(model) == 0


def test_a_layer_that_is_not_called_is_an_error_at_once_and_an_alert_later(tmp_path: Path) -> None:
    model = Functional()
    watched = monitor(model=model, layers=["fc2"])
    watched.start()
    with pytest.raises(SilentLayer, match="found none"):
        watched.step()
    assert hooks_of(model) == 0 and not watched.active
    with monitor(model=model, layers={"fc1": "relu", "fc2": "relu"}, every=1) as watched:
        model(torch.randn(9, 8)).sum().backward()
        watched.step()
        model.fc1(torch.randn(9, 8)).sum().backward()
        watched.step()
    assert [(a.step, a.layer_name) for a in watched.alerts if a.kind == "silent"] == [(2, "fc2")]


def test_alerts_go_to_the_caller_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Alert] = []
    returned: list[Alert] = []
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
    with monitor(model=model, on_alert=seen.append) as watched:
        model(torch.randn(9, 4)).sum().backward()
        returned += watched.step()
    assert seen == returned == watched.alerts and {alert.kind for alert in seen} == {"missing", "problematic"}
    assert [record.getMessage() for record in caplog.records] == [str(alert) for alert in seen]


def test_an_epoch_is_checked_apart_from_the_training() -> None:
    """The founding notes' way of use."""
    watched, data = nf.FiringMonitor(), torch.randn(100, 8)
    model = dropout_mlp()
    assert watched.check_epoch(model, data, 1) is None
    with torch.no_grad():
        model[8].bias[:20] = -1e4
    warning = watched.check_epoch(model, data, 2)
    assert warning is not None and warning.startswith("Warning: step 2: health fell from")
    assert [reading.step for reading in watched.history] == [1, 2] and model.training


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


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_mamba_in_training_mode_is_recorded_right_or_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fused kernel out_proj is called, and what it is given is recorded. With it, it is not called."""
    from families import FAMILIES

    model = FAMILIES[family]().train()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args: seen.update({name: args[0].detach()})

    mixers = {f"backbone.layers.{i}.mixer": model.get_submodule(f"backbone.layers.{i}.mixer") for i in range(3)}
    handles = [mixer.out_proj.register_forward_pre_hook(keep(f"{name}.out_proj")) for name, mixer in mixers.items()]
    with monitor(model=model) as watched:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
        watched.step()
    for handle in handles:
        handle.remove()
    assert len(watched.history[0].layers) == 3
    for layer in watched.history[0].layers:
        assert layer.tokens == 5
        assert layer.mean == pytest.approx(float(seen[layer.layer_name].double().mean()), rel=1e-6)

    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["_"])
    kernel = "mamba_inner_fn" if family == "mamba" else "mamba2_split_conv1d_scan_combined"
    assert hasattr(module, kernel)

    def fused(*args: torch.Tensor, **options: object) -> torch.Tensor:
        """Stands for the kernel that takes out_proj's weight: what it gives has the right shape, no more."""
        return model.backbone.embeddings(ids).float()

    monkeypatch.setattr(module, kernel, fused)
    watched = monitor(model=model)
    watched.start()
    model(input_ids=ids, use_cache=False).logits.sum().backward()
    with pytest.raises(SilentLayer, match="fused kernel takes the weights of out_proj without calling it"):
        watched.step()
    assert hooks_of(model) == 0
