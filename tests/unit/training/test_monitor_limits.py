"""What a monitor cannot read is refused with the reason or left out; nothing stays behind."""

import copy
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import Functional, dropout_mlp, hooks_of, monitor
from torch import nn

from nfinspect.training.errors import NoLayers, SilentLayer


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
    with pytest.raises(SilentLayer, match="fused kernel uses the weights of out_proj without calling it"):
        watched.step()
    assert hooks_of(model) == 0


def test_calls_under_a_transform_are_left_out() -> None:
    """vmap hands the hooks tensors whose values cannot be asked for; the training goes on."""
    model = dropout_mlp().eval()
    with monitor(model=model, every=1) as watched:
        for _ in range(2):
            torch.vmap(model)(torch.randn(4, 3, 8)).sum().backward()
            model(torch.randn(64, 8)).sum().backward()
            watched.step()
    assert [layer.tokens for reading in watched.history for layer in reading.layers] == [64] * 6


def test_a_training_under_a_transform_alone_is_refused_with_the_reason() -> None:
    model = dropout_mlp().eval()
    parameters = dict(model.named_parameters())
    with monitor(model=model) as watched:
        torch.func.grad(lambda given: torch.func.functional_call(model, given, torch.ones(5, 8)).sum())(parameters)
        with pytest.raises(SilentLayer, match=r"transform of torch\.func"):
            watched.step()
    assert hooks_of(model) == 0


def test_a_tracing_in_between_is_left_out_and_traces_nothing_of_the_monitor() -> None:
    model = dropout_mlp().eval()
    bare = torch.jit.trace(model, torch.ones(5, 8)).inlined_graph
    with monitor(model=model, every=1) as watched:
        traced = torch.jit.trace(model, torch.ones(5, 8)).inlined_graph
        model(torch.randn(64, 8)).sum().backward()
        watched.step()
    assert [node.kind() for node in traced.nodes()] == [node.kind() for node in bare.nodes()]
    assert [layer.tokens for layer in watched.history[0].layers] == [64] * 3


def test_out_proj_of_an_attention_is_refused_with_what_to_name() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x)[0]  # type: ignore[no-any-return]

    with pytest.raises(NoLayers, match="without calling it; name 'attention'"):
        monitor(model=Block(), layers=["attention.out_proj"]).start()
    model = Block()
    with monitor(model=model, layers=["attention"]) as watched:
        model(torch.randn(4, 5, 8)).sum().backward()
        watched.step()
    assert [(layer.neurons, layer.tokens) for layer in watched.history[0].layers] == [(8, 20)]


def test_a_module_that_is_replaced_by_a_wider_one_is_read_anew() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    with monitor(model=model, every=1, window=3) as watched:
        for width in (16, 16, 24, 24):
            if width != model[0].out_features:
                model[0], model[2] = nn.Linear(8, width), nn.Linear(width, 2)
            model(torch.randn(20, 8)).sum().backward()
            watched.step()
    assert [(r.layers[0].neurons, r.layers[0].tokens) for r in watched.history] == [
        (16, 20),
        (16, 40),
        (24, 20),
        (24, 40),
    ]


def test_an_empty_batch_is_no_reading() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    with monitor(model=model) as watched:
        for rows in (0, 20, 20):
            model(torch.randn(rows, 8)).sum().backward()
            watched.step()
    assert [reading.step for reading in watched.history] == [2]


def test_a_type_that_changes_in_the_middle() -> None:
    model = dropout_mlp().eval()
    with monitor(model=model, every=1, gradients=True) as watched:
        for kind in (torch.float32, torch.float64, torch.bfloat16):
            model.to(kind)
            model(torch.randn(64, 8, dtype=kind)).sum().backward()
            watched.step()
    assert [layer.tokens for reading in watched.history for layer in reading.layers] == [64] * 9
    assert not [alert for alert in watched.alerts if alert.kind in ("nan", "silent")]


def test_two_monitors_on_one_model_see_the_same() -> None:
    model = dropout_mlp()
    with monitor(model=model, every=1) as one, monitor(model=model, every=1) as other:
        for _ in range(3):
            model(torch.randn(64, 8)).sum().backward()
            one.step()
            other.step()
    assert [r.layers for r in one.history] == [r.layers for r in other.history] and len(one.history) == 3
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    "missing", ["StepReader.attach", "FiniteWatch._attach", "Record.__init__", "HistoryWriter.add"]
)
def test_a_start_that_fails_leaves_nothing_behind(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfinspect.training import finite, record, step_reader
    from nfinspect_store import history

    owner, _, name = missing.partition(".")
    kind = next(getattr(m, owner) for m in (finite, record, step_reader, history) if hasattr(m, owner))
    before = getattr(kind, name)

    def fail(self: object, *given: object, **named: object) -> None:
        if name != "__init__" and kind is not history.HistoryWriter:
            before(self, *given, **named)  # when it is done half
        raise OSError("as it happens")

    model = dropout_mlp()
    watched = monitor(model=model, write=True, store=tmp_path, run="night")
    open_files = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(kind, name, fail)
        with pytest.raises(OSError, match="as it happens"):
            watched.start()
    assert hooks_of(model) == 0 and not watched.active
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) == open_files
    with watched:  # and the same monitor can be started after all
        model(torch.randn(64, 8)).sum().backward()
        watched.step()
    assert len(watched.history) == 1 and hooks_of(model) == 0


def test_an_analysis_that_cannot_begin_leaves_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    import nfinspect as nf
    from nfinspect.training.reader import LayerReader

    before = LayerReader._attach

    def fail(self: LayerReader) -> None:
        before(self)
        raise RuntimeError("as it happens")

    monkeypatch.setattr(LayerReader, "_attach", fail)
    model = dropout_mlp()
    with pytest.raises(RuntimeError, match="as it happens"):
        nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, torch.randn(4, 8))
    assert hooks_of(model) == 0 and model.training
