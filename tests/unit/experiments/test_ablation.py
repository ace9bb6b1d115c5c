"""Cutting neurons out by hooks does what cutting them out of the weights does."""

import copy

import nfinspect_samples
import numpy as np
import pytest
import torch
from families import FAMILIES, gpt2
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from words import word_tokenizer

from nfinspect.experiments.ablation import LayerAblation, ablated
from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.models import (
    LayerSite,
    SilentHook,
    SiteReader,
    UnknownSite,
    WrongSite,
    default_site,
    find_sites,
    in_memory,
    load_model,
)
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError

IDS = torch.arange(3, 27).reshape(2, 12)
NEURONS = np.array([1, 4, 9])


def logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def without_columns(model: PreTrainedModel, site: LayerSite, values: np.ndarray | None) -> PreTrainedModel:
    """A copy whose projection takes nothing from NEURONS; with values, what these would give is in its bias."""
    changed = copy.deepcopy(model)
    projection = changed.get_submodule(site.module)
    with torch.no_grad():
        weight = projection.weight if isinstance(projection, Conv1D) else projection.weight.T  # [neurons, hidden]
        if values is not None:
            added = torch.as_tensor(values).to(weight.dtype) @ weight[NEURONS]
            if projection.bias is None:
                projection.bias = torch.nn.Parameter(added)
            else:
                projection.bias += added
        weight[NEURONS] = 0
    return changed


CASES = [
    *((family, "default", "zero") for family in FAMILIES),
    *((family, "attn", "zero") for family in ("gpt2", "opt", "llama", "bloom", "falcon_new")),
    *((family, "default", "mean") for family in ("gpt2", "opt", "llama", "bloom", "mamba", "mamba2")),
]


@pytest.mark.parametrize(("family", "kind", "mode"), CASES)
def test_hooks_equal_hand_modified_weights(family: str, kind: str, mode: str) -> None:
    model = FAMILIES[family]().double()
    site = find_sites(model, [default_site(model) if kind == "default" else kind], [1])[0]
    values = None if mode == "zero" else np.array([0.5, -2.0, 1.25], np.float32)
    with ablated(in_memory(model, word_tokenizer()), [LayerAblation(site, NEURONS, values)]):
        found = logits(model)
    expected = logits(without_columns(model, site, values))
    untouched = logits(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found - untouched).abs().max() > 1e-4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "bloom"])
def test_resid_coordinates_are_cut_out_of_the_blocks_output(family: str) -> None:
    model = FAMILIES[family]()
    first, last = find_sites(model, ["resid"], [0, 2])
    seen: dict[LayerSite, torch.Tensor] = {}
    reader = SiteReader(model, [first, last], lambda site, values, fired: seen.update({site: values.clone()}))
    with ablated(in_memory(model, word_tokenizer()), [LayerAblation(first, NEURONS)]), reader:
        reader.begin(*IDS.shape)
        logits(model)
        reader.end()
    assert not seen[first][..., NEURONS].any()
    assert seen[first].any() and seen[last][..., NEURONS].any()


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "mamba2"])
def test_nothing_cut_out_or_values_put_back_change_nothing(family: str) -> None:
    model = FAMILIES[family]()
    loaded = in_memory(model, word_tokenizer())
    expected = logits(model)
    with ablated(loaded, []):
        assert torch.equal(logits(model), expected)
    site = find_sites(model)[1]
    with ablated(loaded, [LayerAblation(site, np.array([], np.int64))]):
        assert torch.equal(logits(model), expected)
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(site.module).register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    one = IDS[:1, :1]
    expected = logits(model, one)
    hook.remove()
    own = seen[0].reshape(-1)[NEURONS].numpy()
    with ablated(loaded, [LayerAblation(site, NEURONS, own)]):
        assert torch.equal(logits(model, one), expected)


def test_several_layers_are_cut_out_together() -> None:
    model = gpt2().double()
    first, second = find_sites(model, None, [0, 2])
    with ablated(in_memory(model, word_tokenizer()), [LayerAblation(s, NEURONS) for s in (first, second)]):
        found = logits(model)
    by_hand = without_columns(without_columns(model, first, None), second, None)
    torch.testing.assert_close(found, logits(by_hand), rtol=0, atol=1e-9)


def test_dead_relu_neurons_of_the_sample_leave_the_logits_bit_identical() -> None:
    loaded = load_model(nfinspect_samples.path("gpt2-relu"))
    text = nfinspect_samples.path("corpus", "tulip.txt").read_text(encoding="utf-8")
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"][:200]])
    greatest: dict[LayerSite, torch.Tensor] = {}
    sites = find_sites(loaded.model)
    reader = SiteReader(
        loaded.model, sites, lambda site, values, fired: greatest.update({site: values.abs().amax((0, 1))})
    )
    with reader:
        reader.begin(*ids.shape)
        expected = logits(loaded.model, ids)
        reader.end()
    dead = {site: np.flatnonzero(greatest[site].numpy() == 0) for site in sites}
    assert sum(map(len, dead.values())) >= 50
    with ablated(loaded, [LayerAblation(site, neurons) for site, neurons in dead.items()]):
        assert torch.equal(logits(loaded.model, ids), expected)
    live = {site: np.flatnonzero(greatest[site].numpy() > 0)[:5] for site in sites}
    with ablated(loaded, [LayerAblation(site, neurons) for site, neurons in live.items()]):
        assert not torch.equal(logits(loaded.model, ids), expected)


def test_a_projection_that_is_passed_by_is_an_error() -> None:
    model = FAMILIES["mamba"]()
    site = find_sites(model)[1]
    mixer = model.backbone.layers[1].mixer
    mixer.forward = lambda hidden, *args, **kwargs: torch.zeros_like(hidden)  # as a fused kernel would
    with (
        pytest.raises(SilentHook, match="layer 1 to be called once in a forward pass, found 0 times"),
        ablated(in_memory(model, word_tokenizer()), [LayerAblation(site, NEURONS)]),
    ):
        logits(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_site_of_another_model_is_an_error() -> None:
    model = gpt2()
    site = LayerSite("mlp", 0, find_sites(model)[0].module, 24, "relu", "positive")
    with (
        pytest.raises(WrongSite, match="expected 24 neurons .* found 64"),
        ablated(in_memory(model, word_tokenizer()), [LayerAblation(site, NEURONS)]),
    ):
        logits(model)


def test_addresses_are_found_in_the_model() -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    addresses = [Address(1, 5), Address(0, 2, "resid"), Address(1, 3, "mlp"), Address(1, 5, "mlp")]
    found = resolve_addresses(loaded, addresses)
    assert {(s.site, s.layer): n for s, n in found.items()} == {("mlp", 1): (5, 3), ("resid", 0): (2,)}
    with pytest.raises(RequestError, match="no neuron 64 in layer 1 at site mlp .* neurons 0-63"):
        resolve_addresses(loaded, [Address(1, 64)])
    with pytest.raises(UnknownSite, match="between 0 and 2"):
        resolve_addresses(loaded, [Address(3, 0)])
    with pytest.raises(UnknownSite, match="mixer"):
        resolve_addresses(loaded, [Address(0, 0, "mixer")])
