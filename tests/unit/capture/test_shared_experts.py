"""The MLP that every token of a mixture of experts passes beside those chosen for it: the site `shared`."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from experts_by_hand import EXPERTS, WIDTH, model_of
from families import _ROPE, _build
from torch import Tensor
from words import word_tokenizer

import nfinspect as nf
from nfinspect.experiments.logits import neuron_logits
from nfinspect.models import UnknownSite, UnsupportedModel, find_sites, in_memory
from nfinspect.models.editing import NeuronEdit, edited

PROMPTS = {"red": ["w5 w6 w7 w8 w9", "w10 w11"], "blue": ["w20", "w21 w22 w23 w24 w25 w26"]}
IDS = [5, 6, 7, 8, 9, 10]
NAMES = {"qwen2_moe": "shared_expert", "deepseek_v3": "shared_experts"}
pytestmark = pytest.mark.filterwarnings("ignore:found by structure", "ignore:the neurons of mlp.shared")


def shared(model: Any, layer: int) -> Any:
    return getattr(model.model.layers[layer].mlp, NAMES[model.config.model_type])


def by_hand(model: Any, layer: int, ids: list[int]) -> tuple[Tensor, Tensor]:
    """silu(gate) x up, and the gate before the activation, of a layer's shared experts: [tokens, neurons]."""
    given: list[Tensor] = []
    handle = shared(model, layer).register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
        handle.remove()
        hidden = given[0].reshape(len(ids), -1)
        gate, up = (hidden @ getattr(shared(model, layer), name).weight.T for name in ("gate_proj", "up_proj"))
    return gate / (1 + torch.exp(-gate)) * up, gate


@pytest.mark.parametrize("family", sorted(NAMES))
@pytest.mark.parametrize("mode", ["live", "replay"])
def test_a_run_has_them_beside_the_experts(family: str, mode: Any, tmp_path: Path) -> None:
    model = model_of(family)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = nf.capture(
            model, word_tokenizer(), PROMPTS, store=tmp_path, run="run", sites=("mlp", "shared"), generate=3, mode=mode
        )
    assert not [one for one in said if "not read" in str(one.message)]
    assert run.default_site == "mlp" and run.sites == ("mlp", "shared") and run.info.settings.get("notes") is None
    layers = [layer for layer in run.layers if layer.site == "shared"]
    assert [layer.layer for layer in layers] == [layer.layer for layer in run.layers if layer.experts]
    for layer in layers:
        assert layer.experts == 0 and layer.fires == "gate" and layer.neurons == WIDTH
        found = run.activations("shared", layer.layer)
        start = 0
        for prompt in range(run.prompts):
            ids = run.prompt_tokens(prompt).token_id.tolist()
            values, _ = by_hand(model, layer.layer, ids)
            np.testing.assert_allclose(found[start : start + len(ids)], values.numpy(), rtol=1e-4, atol=1e-6)
            start += len(ids)
        assert start == len(found) == run.tokens
        counted = run.statistics("shared", layer=layer.layer)
        assert set(counted.n.tolist()) == {run.tokens}, "every token passes them"
        np.testing.assert_allclose(counted.mean, found.mean(0), rtol=1e-5, atol=1e-7)


def test_a_run_without_them_says_so(tmp_path: Path) -> None:
    model = model_of("deepseek_v3")
    (note,) = {site.note for site in find_sites(model, ["mlp"], experts=True) if site.experts}
    assert note.startswith("the neurons of mlp.shared_experts.down_proj") and "at the site shared" in note
    run = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="run", keep="stats")
    assert run.info.settings["notes"] == [note]


def test_what_counts_every_token_works_on_them(tmp_path: Path) -> None:
    run = nf.capture(model_of("qwen2_moe"), word_tokenizer(), PROMPTS, store=tmp_path, run="run", sites=("shared",))
    assert run.default_site == "shared"
    assert run.ngrams(n=1).site == "shared"
    assert run.activations("shared", 0).shape == (run.tokens, WIDTH)


@pytest.mark.parametrize("family", sorted(NAMES))
def test_zeroing_them_is_as_if_their_output_weights_were_0(family: str) -> None:
    model, layer = model_of(family), 1
    (site,) = find_sites(model, ["shared"], [layer])
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([IDS])).logits
        with edited(in_memory(model, word_tokenizer()), [NeuronEdit("zero", site, np.array([1, 5]), 0.0)]):
            found = model(input_ids=torch.tensor([IDS])).logits
        shared(model, layer).down_proj.weight[:, [1, 5]] = 0
        wanted = model(input_ids=torch.tensor([IDS])).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert (found - plain).abs().max() > 1e-5


def test_logits_take_the_gate_of_a_shared_expert_as_half_open() -> None:
    """sigmoid(0): what it is on a token is not known from the weights alone."""
    model = model_of("qwen2_moe")
    loaded = in_memory(model, word_tokenizer())
    found = neuron_logits(loaded, "shared:L2/N3", top=5)
    column = shared(model, 2).down_proj.weight[:, 3]
    with torch.no_grad():
        effects = 0.5 * (model.lm_head.weight * model.model.norm.weight) @ column
        effects -= effects.mean()
    wanted = effects.topk(5)
    assert [one.token_id for one in found.promoted] == wanted.indices.tolist()
    np.testing.assert_allclose([one.effect for one in found.promoted], wanted.values, rtol=1e-4, atol=1e-6)


def test_a_router_as_wide_as_the_shared_experts_is_not_their_gate() -> None:
    config = tf.Qwen2MoeConfig(
        num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=WIDTH, **_ROPE,
        shared_expert_intermediate_size=EXPERTS,
    )  # fmt: skip
    for site in find_sites(_build(config), ["shared"]):
        assert site.gate is not None and site.gate.endswith("shared_expert.gate_proj") and site.neurons == EXPERTS


def test_models_without_them_and_those_that_cannot_be_read() -> None:
    with pytest.raises(UnknownSite, match="expected one of the sites mlp, attn, resid, found 'shared'"):
        find_sites(model_of("mixtral"), ["shared"], experts=True)
    with pytest.raises(UnknownSite, match="'shared'"):
        find_sites(_build(tf.LlamaConfig(**_ROPE)), ["shared"])
    model = model_of("deepseek_v3")
    for block in model.model.layers[1:]:
        block.mlp.shared_experts = torch.nn.ParameterDict({"down_proj": torch.zeros(2, 16, 8)})
    with pytest.raises(UnsupportedModel, match="found mlp.shared_experts: it is unknown"):
        find_sites(model, ["shared"])
