"""SiteReader: reads once, exactly, without leaving a trace, or says why not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, UNKNOWN, VOCAB, gpt2, llama, mamba, mamba2, opt, phi3
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, RwkvConfig
from waits import Waits

from nfinspect.models import (
    LayerSite,
    ModelError,
    NonFiniteActivations,
    SilentHook,
    SiteReader,
    UnsupportedModel,
    WrongSite,
    find_sites,
)

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def ignore(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
    pass


def one_pass(model: nn.Module, sites: list[LayerSite], sink=ignore, **how: bool) -> None:
    with SiteReader(model, sites, sink, **how) as reader, torch.no_grad():
        reader.begin(*IDS.shape)
        model(IDS)
        reader.end()


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_sink_gets_each_site_once_in_the_models_order_without_a_copy() -> None:
    model, calls, inputs = gpt2(), [], {}
    for layer in range(3):
        projection = model.get_submodule(f"transformer.h.{layer}.mlp.c_proj")
        projection.register_forward_pre_hook(lambda m, args, key=layer: inputs.__setitem__(key, args[0]))

    def sink(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        calls.append((site.layer, site.site))
        assert values.shape == (2, 3, site.neurons)
        assert not values.requires_grad
        if site.site == "mlp":
            assert values.data_ptr() == inputs[site.layer].data_ptr()

    with SiteReader(model, find_sites(model, ["resid", "mlp", "attn"]), sink) as reader:
        reader.begin(*IDS.shape)
        model(IDS)  # with gradients: the values are detached all the same
        reader.end()
    assert calls == [(layer, site) for layer in range(3) for site in ("attn", "mlp", "resid")]


def test_opts_flattened_input_comes_back_as_batch_and_tokens() -> None:
    shapes: list[torch.Size] = []
    model = opt()
    one_pass(model, find_sites(model), lambda s, v, f: shapes.append(v.shape))
    assert shapes == [(2, 3, 24)] * 3


def test_several_passes_are_read_and_only_the_first_is_checked() -> None:
    model, passes = llama(), []
    with (
        SiteReader(model, find_sites(model), lambda s, v, f: passes.append(v.sum().item())) as reader,
        torch.no_grad(),
    ):
        before = hooks_on(model)
        for _ in range(3):
            reader.begin(*IDS.shape)
            passes_before = hooks_on(model)
            model(IDS)
            reader.end()
        assert passes_before == before
    assert passes[:3] == passes[3:6] == passes[6:]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hook_is_left_behind_after_use_or_after_an_error(family: str) -> None:
    model = FAMILIES[family]()
    sites = find_sites(model, ["resid"]) + find_sites(model)
    before = hooks_on(model)
    one_pass(model, sites)
    assert hooks_on(model) == before

    def broken(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        raise KeyError("the sink's own")

    with pytest.raises(KeyError):
        one_pass(model, sites, broken)
    assert hooks_on(model) == before
    with pytest.raises(WrongSite), SiteReader(model, [*sites, replace(sites[0], module="no.such")], ignore):
        pass
    assert hooks_on(model) == before


def test_readers_can_be_nested() -> None:
    model, outer, inner = gpt2(), [], []
    sites = find_sites(model)
    with SiteReader(model, sites, lambda s, v, f: outer.append(v.clone())) as a, torch.no_grad():
        a.begin(*IDS.shape)
        with SiteReader(model, sites, lambda s, v, f: inner.append(v.clone())) as b:
            b.begin(*IDS.shape)
            model(IDS)
            b.end()
        a.end()
    assert len(outer) == len(inner) == 3
    assert all(torch.equal(x, y) for x, y in zip(outer, inner, strict=True))


def test_a_projection_that_is_passed_by_is_silent() -> None:
    model = gpt2()
    mlp = model.get_submodule("transformer.h.1.mlp")
    mlp.forward = lambda x: nn.functional.linear(mlp.act(mlp.c_fc(x)), mlp.c_proj.weight.T, mlp.c_proj.bias)
    with pytest.raises(SilentHook, match=r"mlp of layer 1 \(transformer.h.1.mlp.c_proj\).* 0 times"):
        one_pass(model, find_sites(model))


def test_a_gate_that_is_passed_by_is_silent() -> None:
    model = llama()
    mlp = model.get_submodule("model.layers.2.mlp")
    mlp.forward = lambda x: mlp.down_proj(mlp.act_fn(x @ mlp.gate_proj.weight.T) * mlp.up_proj(x))
    with pytest.raises(SilentHook, match="gate model.layers.2.mlp.gate_proj of layer 2"):
        one_pass(model, find_sites(model))


def test_a_second_pass_without_begin_is_an_error() -> None:
    model = gpt2()
    with SiteReader(model, find_sites(model), ignore) as reader, torch.no_grad():
        reader.begin(*IDS.shape)
        model(IDS)
        with pytest.raises(SilentHook, match="2 times"):
            model(IDS)
    with (
        SiteReader(model, find_sites(model), ignore),
        torch.no_grad(),
        pytest.raises(ModelError, match="begin"),
    ):
        model(IDS)
    with SiteReader(model, find_sites(model), ignore) as reader, pytest.raises(ModelError, match="begin"):
        reader.end()


def test_another_shape_than_announced_is_an_error() -> None:
    model = opt()
    with SiteReader(model, find_sites(model), ignore) as reader, torch.no_grad():
        reader.begin(3, 3)
        with pytest.raises(WrongSite, match=r"expected \[3, 3, 24\].*found \[6, 24\]"):
            model(IDS)


@pytest.mark.parametrize(
    ("make", "site", "change"),
    [
        (gpt2, "mlp", {"module": "transformer.h.0.mlp.c_fc", "neurons": 16}),
        (gpt2, "mlp", {"module": "transformer.h.0.attn.c_attn", "neurons": 16}),
        (
            llama,
            "mlp",
            {"module": "model.layers.0.mlp.up_proj", "neurons": 16, "fires": "positive", "gate": None},
        ),
        (llama, "attn", {"module": "model.layers.0.self_attn.q_proj"}),
        (phi3, "mlp", {"gate_slice": (24, 48)}),
    ],
)
def test_the_self_check_catches_a_wrong_site(make: Callable, site: str, change: dict) -> None:
    model = make()
    (right,) = find_sites(model, [site], [0])
    one_pass(model, [right])
    with pytest.raises(WrongSite):
        one_pass(model, [replace(right, **change)])


def test_the_self_check_catches_a_hook_that_changes_the_input_after_the_read() -> None:
    model = gpt2()
    sites = find_sites(model, ["mlp"], [1])
    with SiteReader(model, sites, ignore) as reader, torch.no_grad():
        model.get_submodule(sites[0].module).register_forward_pre_hook(lambda m, args: (args[0] * 0,))
        reader.begin(*IDS.shape)
        with pytest.raises(WrongSite, match="a later hook"):
            model(IDS)


def test_the_self_check_catches_hidden_states_changed_between_blocks() -> None:
    model = gpt2()
    sites = find_sites(model, ["resid"], [0])
    with SiteReader(model, sites, ignore) as reader, torch.no_grad():
        model.get_submodule("transformer.h.0").register_forward_hook(lambda m, args, out: out + 1)
        reader.begin(*IDS.shape)
        with pytest.raises(WrongSite, match="after layer 0"):
            model(IDS)


@pytest.mark.parametrize("make", [mamba, mamba2])
def test_a_mixer_in_training_mode_is_refused_with_the_reason(make: Callable) -> None:
    model = make()
    with (
        SiteReader(model.train(), find_sites(model), ignore) as reader,
        pytest.raises(UnsupportedModel, match="eval"),
    ):
        reader.begin(*IDS.shape)
    one_pass(model, find_sites(model, ["resid"]))


def test_a_transformer_can_be_read_in_training_mode() -> None:
    model, calls = gpt2().train(), []
    one_pass(model, find_sites(model, ["mlp", "attn"]), lambda s, v, f: calls.append(s))
    assert len(calls) == 6


def test_weights_that_have_run_away_are_not_taken_for_another_structure() -> None:
    """Values of 1e25, whose squares overflow, are finite; the norm behind them makes NaN of them."""
    model = gpt2()
    model.get_submodule("transformer.h.1.mlp.c_fc").weight.data *= 1e27
    with pytest.raises(NonFiniteActivations, match="mlp of layer 2"):
        one_pass(model, find_sites(model))


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    model = gpt2()
    model.get_submodule("transformer.h.1.mlp.c_fc").bias.data[3] = float("inf")
    with pytest.raises(NonFiniteActivations, match="mlp of layer 1"):
        one_pass(model, find_sites(model))
    one_pass(model, find_sites(model), check_finite=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_only_valid_positions_have_to_be_finite(value: float) -> None:
    model = gpt2()

    def poison(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[1, 2, 5] = value
        return (changed,)

    model.get_submodule("transformer.h.2.mlp.c_proj").register_forward_pre_hook(poison)
    sites = find_sites(model)
    valid = torch.ones(IDS.shape, dtype=torch.bool)
    with SiteReader(model, sites, ignore) as reader, torch.no_grad():
        reader.begin(*IDS.shape, valid)
        model(IDS)
        with pytest.raises(NonFiniteActivations, match="layer 2"):
            reader.end()
        valid[1, 2] = False
        reader.begin(*IDS.shape, valid)
        model(IDS)
        reader.end()


class Operations(TorchDispatchMode):
    """Counts the operations that copy a tensor or wait for the device."""

    WATCHED = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "copy_", "_to_copy", "clone")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.WATCHED
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "mamba"])
def test_reading_neither_copies_nor_waits_after_the_first_pass(family: str) -> None:
    model = FAMILIES[family]()
    sites = find_sites(model) + find_sites(model, ["resid"])
    with torch.no_grad(), Operations() as bare:
        model(IDS)
    valid = torch.ones(IDS.shape, dtype=torch.bool)
    with SiteReader(model, sites, ignore) as reader, torch.no_grad():
        for _ in range(2):
            reader.begin(*IDS.shape, valid)
            with Operations() as read:
                model(IDS)
            reader.end()
    assert read.count == bare.count


@pytest.mark.parametrize("config", UNKNOWN, ids=lambda c: c.model_type)
def test_types_found_by_structure_stand_up_to_the_self_check(config: PreTrainedConfig) -> None:
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(config).eval()
    sites = find_sites(model, ["mlp", "attn", "resid"])
    assert {s.site for s in sites} == {"mlp", "attn", "resid"}
    one_pass(model, sites)


def test_a_structure_that_was_misread_is_caught() -> None:
    """RWKV's feed-forward multiplies its output projection by a gate: that is not what it looks like."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(RwkvConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2)).eval()
    with pytest.raises(WrongSite, match="RwkvFeedForward of layer 0"):
        one_pass(model, find_sites(model, ["mlp"]))


def test_half_precisions_pass_the_self_check() -> None:
    for family in ("gpt2", "llama", "phi3", "bloom", "mamba", "mamba2"):
        model = FAMILIES[family]().bfloat16()
        one_pass(model, find_sites(model) + find_sites(model, ["resid"]))


def test_a_generation_step_with_a_cache_is_read_like_any_pass() -> None:
    for family in ("gpt2", "llama", "mamba", "mamba2"):
        model = FAMILIES[family]()
        sites, whole, steps = find_sites(model), {}, {}
        one_pass(model, sites, lambda s, v, f, keep=whole: keep.__setitem__(s.layer, v.clone()))
        name = "cache_params" if "mamba" in family else "past_key_values"
        with (
            SiteReader(
                model, sites, lambda s, v, f, keep=steps: keep.setdefault(s.layer, []).append(v.clone())
            ) as reader,
            torch.no_grad(),
        ):
            reader.begin(2, 2)
            cache = model(IDS[:, :2], use_cache=True)[name]
            reader.end()
            reader.begin(2, 1)
            model(IDS[:, 2:], use_cache=True, **{name: cache})
            reader.end()
        for layer, values in whole.items():
            assert torch.allclose(torch.cat(steps[layer], 1), values, atol=1e-5), (family, layer)


def test_a_pass_can_end_without_waiting_and_tell_later_what_was_not_finite() -> None:
    model = FAMILIES["gpt2"]()
    poisoned: list[bool] = []

    def poison(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * torch.inf,) if poisoned else args

    model.get_submodule("transformer.h.1.mlp.c_proj").register_forward_pre_hook(poison)
    sites = find_sites(model)
    step = IDS[:, :1]  # one token: another way of looking than for many
    with SiteReader(model, sites, ignore, check=False) as reader, torch.no_grad():
        for ids, bad in ((IDS, False), (step, True), (step, False)):
            poisoned[:] = [True] if bad else []
            reader.begin(*ids.shape)
            model(ids)
            with Waits() as waits:
                reader.end(settle=False)
            assert not +waits.count
        with pytest.raises(NonFiniteActivations, match="layer 1"):
            reader.settle()
        reader.settle()  # told once
        for ids in (IDS, step):
            poisoned[:] = []
            reader.begin(*ids.shape)
            model(ids)
            reader.end()
