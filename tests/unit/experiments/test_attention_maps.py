"""Attention weights of transformers: those that the model used, or none."""

import pytest
import torch
import transformers as tf
from families import FAMILIES, UNKNOWN, VOCAB
from transformers import PreTrainedModel
from words import word_tokenizer

from nfinspect.experiments.attention_maps import AttentionMaps, eager_attention
from nfinspect.experiments.attention_sources import attention_source
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.hidden_attention import HiddenAttention
from nfinspect.models import LoadedModel, in_memory

IDS = [5, 17, 8, 99, 23, 4, 61, 17, 30]
TRANSFORMERS = [name for name in FAMILIES if "mamba" not in name and "falcon" not in name]
FALCONS = ("falcon_old", "falcon_new")  # rotary; the one with ALiBi carries its mask with it
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}


def loaded_of(model: PreTrainedModel) -> LoadedModel:
    return in_memory(model, word_tokenizer())


def from_config(config: object, **options: str) -> PreTrainedModel:
    torch.manual_seed(1)
    return tf.AutoModelForCausalLM.from_config(config, **options).eval()


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_every_family_gives_causal_rows_of_sum_1_as_the_model_reports_them(family: str) -> None:
    loaded = loaded_of(FAMILIES[family]())
    with eager_attention(loaded.model):
        found = attention_source(loaded).read(IDS)
        with torch.no_grad():
            reported = loaded.model(torch.tensor([IDS]), output_attentions=True).attentions
    assert len(found) == loaded.layers
    for layer, weights in zip(found.values(), reported, strict=True):
        mean = weights[0].mean(0).numpy()
        assert layer.weights == pytest.approx(mean, abs=1e-6)
        assert layer.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert layer.sink.mean() == pytest.approx(mean[1:, 0].mean(), abs=1e-6)


@pytest.mark.parametrize("config", [c for c in UNKNOWN if c.model_type != "lfm2"], ids=lambda c: c.model_type)
def test_types_outside_the_table_too(config: object) -> None:
    loaded = loaded_of(from_config(config))
    with eager_attention(loaded.model):
        for layer in attention_source(loaded).read(IDS).values():
            assert layer.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_model_is_left_as_it_was() -> None:
    loaded = loaded_of(FAMILIES["llama"]())
    assert loaded.model.config._attn_implementation == "sdpa"
    with eager_attention(loaded.model):
        assert loaded.model.config._attn_implementation == "eager"
        attention_source(loaded).read(IDS)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in loaded.model.modules() if "Attention" in type(module).__name__)


def test_half_precision_passes_the_check() -> None:
    loaded = loaded_of(FAMILIES["llama"]().to(torch.bfloat16))
    with eager_attention(loaded.model):
        for layer in attention_source(loaded).read(list(range(3, 63))).values():
            assert layer.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_without_eager_attention_there_is_none() -> None:
    with pytest.raises(AttentionUnavailable, match="expected attention weights from layer 0, found none"):
        attention_source(loaded_of(FAMILIES["gpt2"]()))


@pytest.mark.parametrize("family", FALCONS)
def test_falcon_set_to_sdpa_hands_out_unmasked_weights_and_is_refused(family: str) -> None:
    with pytest.raises(AttentionUnavailable, match="later tokens, found some in layer 0"):
        attention_source(loaded_of(FAMILIES[family]()))


@pytest.mark.parametrize("family", [*FALCONS, "falcon_alibi"])
def test_falcon_made_for_sdpa_is_switched_and_gives_what_one_made_for_eager_gives(family: str) -> None:
    model = FAMILIES[family]()
    twin = from_config(model.config, attn_implementation="eager")
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = twin(torch.tensor([IDS]), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    model.config._attn_implementation = "sdpa"  # the twin has taken its config
    loaded = loaded_of(model)
    with eager_attention(model):
        found = attention_source(loaded).read(IDS)
    assert model.config._attn_implementation == "sdpa"
    for layer, weights in zip(found.values(), expected, strict=True):
        assert layer.weights == pytest.approx(weights[0].mean(0).numpy(), abs=1e-6)
        assert layer.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert (layer.weights[0, 1:] == 0).all()


@pytest.mark.parametrize("family", [*FALCONS, "falcon_alibi"])
def test_falcon_made_for_eager_attention_is_read(family: str) -> None:
    loaded = loaded_of(from_config(FAMILIES[family]().config, attn_implementation="eager"))
    source = attention_source(loaded)
    assert isinstance(source, AttentionMaps)
    for layer in source.read(IDS).values():
        assert layer.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_learned_sink_takes_what_the_rows_lack_and_is_refused() -> None:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = tf.GptOssConfig(**SIZES, **experts, head_dim=4, layer_types=["full_attention"] * 2)
    loaded = loaded_of(from_config(config, attn_implementation="eager"))
    with pytest.raises(AttentionUnavailable, match="sum to 1, found one off by"):
        attention_source(loaded)


def test_a_mamba_has_hidden_attention() -> None:
    assert isinstance(attention_source(loaded_of(FAMILIES["mamba2"]())), HiddenAttention)
