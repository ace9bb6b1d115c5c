"""A neuron's direct effect on the logits, against the model itself with its norms' scale frozen."""

from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
import torch
import transformers as tf
from families import FAMILIES, UNKNOWN, VOCAB, gpt2, llama
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedModel
from transformers.utils import ModelOutput
from words import word_tokenizer

from nfinspect.experiments.direct_path import path_to_logits
from nfinspect.experiments.norms import measured_norm
from nfinspect.experiments.output_weights import output_effects
from nfinspect.experiments.scales import scale_to_logits
from nfinspect.models import LayerSite, UnsupportedModel, default_site, find_sites, in_memory
from nfinspect_store.errors import RequestError

NONE = {(family, "attn") for family in FAMILIES if "mamba" in family}
"""Sites that a family does not have."""


def frozen(norm: nn.Module):  # type: ignore[no-untyped-def]
    """The norm with scale 1 as its papers have it: LayerNorm takes the mean off, Gemma multiplies by 1 + weight."""
    kind = type(norm).__name__

    def forward(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        if kind == "LayerNorm":
            return (x - x.mean(-1, keepdim=True)) * norm.weight + norm.bias
        if kind == "CohereLayerNorm":
            return (x - x.mean(-1, keepdim=True)) * norm.weight
        return x * (1 + norm.weight if kind.startswith("Gemma") else norm.weight)

    return forward


def logits_change(model: PreTrainedModel, site: LayerSite, neuron: int) -> torch.Tensor:
    """The last token's logits with the neuron one higher, minus those without; nothing else passes the change on.

    Later blocks are cut off by projections that write nothing, and every norm that stands after the neuron is frozen.
    """
    layers = len(find_sites(model, ["resid"]))
    kinds = ["mlp", "attn"] if default_site(model) == "mlp" else ["mixer"]
    with torch.no_grad():
        for later in find_sites(model, kinds):
            follows = later.layer == site.layer and site.site == "attn" and later.site == "mlp"
            if later.layer > site.layer or follows:
                for parameter in model.get_submodule(later.module).parameters():
                    parameter.zero_()
    block = find_sites(model, ["resid"], [site.layer])[0].module
    stack = block.rpartition(".")[0]
    norms = {n: m for n, m in model.named_modules() if type(m).__name__.endswith("Norm")}
    on_the_way = [m for n, m in norms.items() if not n.startswith(f"{stack}.")]
    post = [f"{stack}.{i}" for i in range(site.layer + 1, layers)]
    if model.config.model_type == "opt" and not model.config.do_layer_norm_before:
        on_the_way += [m for n, m in norms.items() if n.rpartition(".")[0] in post]
        if site.site != "resid":
            on_the_way.append(norms[f"{block}.final_layer_norm"])
        if site.site == "attn":
            on_the_way.append(norms[f"{block}.self_attn_layer_norm"])
    sublayer = {"mlp": "post_feedforward_layernorm", "attn": "post_attention_layernorm"}.get(site.site, "")
    if model.config.model_type in ("gemma2", "gemma3_text") and sublayer:
        on_the_way.append(norms[f"{block}.{sublayer}"])
    module = model.get_submodule(site.module)

    def raised(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        values = args[0].clone()
        values[..., neuron] += 1
        return (values, *args[1:])

    def raised_output(_: nn.Module, args: object, output: object) -> object:
        values = (output[0] if isinstance(output, tuple) else output).clone()
        values[..., neuron] += 1
        return (values, *output[1:]) if isinstance(output, tuple) else values

    ids = torch.tensor([[5, 6, 7, 8]])
    with ExitStack() as stack_of_patches, torch.no_grad():
        for norm in on_the_way:
            stack_of_patches.enter_context(mock.patch.object(norm, "forward", frozen(norm)))
        if hasattr(model.config, "final_logit_softcapping"):
            model.config.final_logit_softcapping = None
        before = model(ids, use_cache=False).logits
        if site.site == "resid":
            handle = module.register_forward_hook(raised_output)
        else:
            handle = module.register_forward_pre_hook(raised)
        after = model(ids, use_cache=False).logits
        handle.remove()
    change = (after - before)[0, -1]
    return change - change.mean()


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, kind) for family in FAMILIES for kind in ("default", "attn", "resid") if (family, kind) not in NONE],
)
def test_the_effect_is_what_the_model_does_with_its_norms_frozen(family: str, kind: str) -> None:
    for layer in (0, 1):
        model = FAMILIES[family]().double()
        site = find_sites(model, [default_site(model) if kind == "default" else kind], [layer])[0]
        neurons = [0, 3, site.neurons - 1]
        found = output_effects(in_memory(model, word_tokenizer()), site, neurons)
        assert found.shape == (3, VOCAB) and found.dtype == np.float32
        for row, neuron in zip(found, neurons, strict=True):
            expected = logits_change(model, site, neuron).numpy()
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(row, expected, atol=1e-5 * np.abs(expected).max())


def scaled(name: str) -> PreTrainedModel:
    """Models that multiply by numbers in their config, none of them 1."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": VOCAB, "intermediate_size": 24, "pad_token_id": 0}
    torch.manual_seed(3)
    if name == "granite":
        factors = {"residual_multiplier": 0.3, "logits_scaling": 8.0, "embedding_multiplier": 12.0}
        config: tf.PreTrainedConfig = tf.GraniteConfig(**sizes, **factors)
    else:
        config = tf.CohereConfig(**sizes, logit_scale=0.0625)
    return tf.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("site", ["mlp", "attn", "resid"])
@pytest.mark.parametrize("name", ["granite", "cohere"])
def test_what_a_model_multiplies_by_counts(name: str, site: str) -> None:
    for layer in (0, 1):
        model = scaled(name).double()
        place = find_sites(model, [site], [layer])[0]
        found = output_effects(in_memory(model, word_tokenizer()), place, [1, place.neurons - 1])
        for row, neuron in zip(found, [1, place.neurons - 1], strict=True):
            expected = logits_change(model, place, neuron).numpy()
            np.testing.assert_allclose(row, expected, atol=1e-5 * np.abs(expected).max())


def test_a_soft_cap_counts_with_its_slope_at_small_logits() -> None:
    """The head's weights are so small that the cap bends nothing: 1e-3 of logits of size 1 under a cap of 0.5."""
    for cap in (0.5, None):
        model = FAMILIES["gemma2"]().double()
        model.config.final_logit_softcapping = cap
        model.lm_head.weight = nn.Parameter(1e-3 * model.lm_head.weight.detach())
        site = find_sites(model)[2]
        found = output_effects(in_memory(model, word_tokenizer()), site, [4])[0]
        with mock.patch.object(model.config, "final_logit_softcapping", None):
            expected = logits_change(model, site, 4).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_are_measured_in_any_precision(dtype: torch.dtype) -> None:
    model = scaled("granite").to(dtype)
    loaded = in_memory(model, word_tokenizer())
    for site in find_sites(model, ["mlp", "attn"]):
        assert scale_to_logits(loaded, path_to_logits(loaded, site)) == pytest.approx(0.3 / 8, rel=3e-3)
    plain = in_memory(llama().to(dtype), word_tokenizer())
    assert scale_to_logits(plain, path_to_logits(plain, find_sites(plain.model)[0])) == 1


@pytest.mark.parametrize("config", UNKNOWN, ids=lambda config: config.model_type)
def test_types_outside_the_table_have_their_effects(config: tf.PreTrainedConfig) -> None:
    torch.manual_seed(3)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    loaded = in_memory(model, word_tokenizer())
    for site in find_sites(model, ["mlp", "resid"]):
        scale = config.logit_scale if config.model_type == "cohere" else 1
        assert scale_to_logits(loaded, path_to_logits(loaded, site)) == pytest.approx(scale)


def test_a_stream_that_is_no_sum_is_refused() -> None:
    model = llama()
    block = model.model.layers[2]
    block.register_forward_hook(lambda module, args, output: output.roll(1, -1))
    loaded = in_memory(model, word_tokenizer())
    with pytest.raises(UnsupportedModel, match="scaled by a number, found something else"):
        output_effects(loaded, find_sites(model)[0], [0])
    model = llama()

    def rolled(module: object, args: object, output: ModelOutput) -> ModelOutput:
        output["logits"] = output["logits"].roll(1, -1)
        return output

    model.register_forward_hook(rolled)
    loaded = in_memory(model, word_tokenizer())
    with pytest.raises(UnsupportedModel, match="a multiple of the head's output"):
        output_effects(loaded, find_sites(model)[0], [0])


def test_the_mean_over_the_vocabulary_is_removed_and_neurons_come_as_asked() -> None:
    model = llama()
    loaded = in_memory(model, word_tokenizer())
    site = find_sites(model)[1]
    found = output_effects(loaded, site, [7, 2])
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-7)
    np.testing.assert_allclose(found[1], output_effects(loaded, site, [2])[0], atol=1e-6)
    assert output_effects(loaded, site, []).shape == (0, VOCAB)


def test_a_large_vocabulary_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    site = find_sites(loaded.model)[0]
    whole = output_effects(loaded, site, range(5))
    monkeypatch.setattr("nfinspect.experiments.output_weights.VOCABULARY_CHUNK", 7)
    np.testing.assert_allclose(output_effects(loaded, site, range(5)), whole, atol=1e-6)


def test_half_precision_weights_give_the_effects_of_their_values() -> None:
    model = llama()
    half = in_memory(model.to(torch.bfloat16), word_tokenizer())
    site = find_sites(model)[2]
    found = output_effects(half, site, [1])
    exact = output_effects(in_memory(model.float(), word_tokenizer()), site, [1])
    np.testing.assert_array_equal(found, exact)


def test_hooks_are_gone_afterwards() -> None:
    model = gpt2()
    output_effects(in_memory(model, word_tokenizer()), find_sites(model)[0], [0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_told_is_refused() -> None:
    model = gpt2()
    loaded = in_memory(model, word_tokenizer())
    with pytest.raises(RequestError, match="neurons 0-63"):
        output_effects(loaded, find_sites(model)[0], [64])
    torch.manual_seed(0)
    classifier = GPT2ForSequenceClassification(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4)).eval()
    classifier.config.pad_token_id = 0
    with pytest.raises(UnsupportedModel, match="language model with its head"):
        output_effects(in_memory(classifier, word_tokenizer()), find_sites(classifier)[0], [0])
    model.transformer.ln_f = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
    with pytest.raises(UnsupportedModel, match="found the Tanh"):
        output_effects(loaded, find_sites(model)[0], [0])


def test_packed_weights_that_the_module_does_not_show_are_refused() -> None:
    model = llama()
    site = find_sites(model)[0]
    loaded = in_memory(model, word_tokenizer())
    projection = model.get_submodule(site.module)
    projection.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    projection.forward = lambda x: torch.rand(*x.shape[:-1], 16)  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModel, match="not a product of its input"):
        output_effects(loaded, site, [0])


@pytest.mark.parametrize("width", [2, 3, 5, 16, 17])
def test_a_norm_is_known_by_what_it_does(width: int) -> None:
    layer = nn.LayerNorm(width)
    root = nn.RMSNorm(width)
    with torch.no_grad():
        for norm in (layer, root):
            norm.weight.copy_(torch.linspace(-2, 3, width))
        layer.bias.fill_(5)
    for norm, centred in ((layer, True), (root, False)):
        found = measured_norm(norm, width, "norm")
        assert found.centred is centred
        torch.testing.assert_close(found.gain, norm.weight.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedModel, match="grows with its input"):
        measured_norm(nn.Linear(width, width), width, "linear")
