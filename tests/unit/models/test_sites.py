"""Where neurons are read: the table, the structure behind it, and what is refused."""

from dataclasses import replace

import pytest
import torch
import transformers as tf
from families import FAMILIES, VOCAB, gpt2, llama

from nfinspect.models import UnknownSite, UnsupportedModel, default_site, find_sites, sites
from nfinspect_store.types import RELU_FAMILY


def tiny(config: object) -> tf.PreTrainedModel:
    torch.manual_seed(1)
    return tf.AutoModelForCausalLM.from_config(config).eval()


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("family", "site", "neurons", "activation", "fires"),
    [
        ("gpt2", "mlp", 64, "gelu_new", "positive"),
        ("opt", "mlp", 24, "relu", "positive"),
        ("gpt_neox", "mlp", 24, "gelu", "positive"),
        ("bloom", "mlp", 64, "gelu_new", "positive"),
        ("llama", "mlp", 24, "silu", "gate"),
        ("gemma2", "mlp", 24, "gelu_pytorch_tanh", "gate"),
        ("phi3", "mlp", 24, "silu", "gate"),
        ("mamba", "mixer", 32, "silu", "gate"),
        ("mamba2", "mixer", 32, "silu", "gate"),
    ],
)
def test_the_default_site_of_a_family(family: str, site: str, neurons: int, activation: str, fires: str) -> None:
    found = find_sites(FAMILIES[family]())
    assert [s.layer for s in found] == [0, 1, 2]
    for s in found:
        assert (s.site, s.neurons, s.activation, s.fires, s.note) == (site, neurons, activation, fires, "")


def test_resid_and_attn_fire_by_scale_and_have_no_activation() -> None:
    for s in find_sites(llama(), ["attn", "resid"]):
        assert (s.fires, s.activation, s.gate, s.neurons) == ("scale", "", None, 16)


def test_sites_are_ordered_by_layer_then_as_asked_and_repeats_count_once() -> None:
    found = find_sites(gpt2(), ["resid", "mlp", "resid"], [2, 0, 2])
    assert [(s.layer, s.site) for s in found] == [(0, "resid"), (0, "mlp"), (2, "resid"), (2, "mlp")]


def test_a_base_model_without_its_head_has_the_same_sites() -> None:
    assert [s.module for s in find_sites(gpt2().transformer)] == [f"h.{i}.mlp.c_proj" for i in range(3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_structure_alone_finds_what_the_table_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES[family]()
    wanted = [default_site(model), "resid", *([] if "mamba" in family else ["attn"])]
    by_table = find_sites(model, wanted)
    monkeypatch.setattr(sites, "FAMILIES", {})
    by_structure = find_sites(model, wanted)
    assert all("found by structure" in s.note for s in by_structure if s.site != "resid")
    # BLOOM's config does not name its GELU.
    ignored = {"note": "", **({"activation": ""} if family == "bloom" else {})}
    assert [replace(s, **ignored) for s in by_structure] == [replace(s, **ignored) for s in by_table]


@pytest.mark.parametrize(
    ("config", "module", "fires"),
    [
        (tf.StableLmConfig(**SIZES), "mlp.down_proj", "gate"),
        (tf.Olmo2Config(**SIZES), "mlp.down_proj", "gate"),
        (tf.GlmConfig(**SIZES, head_dim=4), "mlp.down_proj", "gate"),
        (tf.CohereConfig(**SIZES), "mlp.down_proj", "gate"),
        (tf.Starcoder2Config(**SIZES), "mlp.c_proj", "positive"),
        (tf.NemotronConfig(**SIZES), "mlp.down_proj", "positive"),
        (
            tf.GPTBigCodeConfig(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=64),
            "mlp.c_proj",
            "positive",
        ),
        (
            tf.CodeGenConfig(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
            "mlp.fc_out",
            "positive",
        ),
    ],
    ids=lambda v: getattr(v, "model_type", None),
)
def test_types_outside_the_table_are_found_by_structure_and_say_so(config: object, module: str, fires: str) -> None:
    for s in find_sites(tiny(config), ["mlp", "attn"]):
        assert s.note.startswith("found by structure")
        if s.site == "mlp":
            assert s.module.endswith(module)
            assert s.fires == fires


def test_a_site_the_model_does_not_have_names_those_it_has() -> None:
    with pytest.raises(UnknownSite, match="mixer, resid, found 'attn'"):
        find_sites(FAMILIES["mamba"](), ["attn"])
    with pytest.raises(UnknownSite, match="mlp, attn, resid, found 'mixer'"):
        find_sites(gpt2(), ["mixer"])
    with pytest.raises(UnknownSite, match="found 'neurons'"):
        find_sites(gpt2(), ["neurons"], [1])


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_refused(layer: int) -> None:
    with pytest.raises(UnknownSite, match=f"between 0 and 2, found {layer}"):
        find_sites(gpt2(), ["mlp"], [0, layer])


@pytest.mark.parametrize(
    "config",
    [
        tf.MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2),
        tf.Qwen2MoeConfig(
            **SIZES,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
        ),
    ],
    ids=lambda v: v.model_type,
)
def test_mlp_neurons_of_experts_are_refused_and_the_rest_works(config: object) -> None:
    model = tiny(config)
    assert default_site(model) == "resid"
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        find_sites(model, ["mlp"])
    assert {s.site for s in find_sites(model, ["attn", "resid"])} == {"attn", "resid"}


def test_a_dense_layer_of_a_mixture_can_be_read() -> None:
    config = tf.Qwen2MoeConfig(
        **SIZES,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        mlp_only_layers=[0],
    )
    (found,) = find_sites(tiny(config), ["mlp"], [0])
    assert found.module == "model.layers.0.mlp.down_proj"
    assert found.gate == "model.layers.0.mlp.gate_proj"


def test_a_hybrid_has_each_site_where_it_stands() -> None:
    config = tf.JambaConfig(
        **SIZES,
        num_experts=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        use_mamba_kernels=False,
        mamba_d_state=4,
    )
    model = tiny(config)
    assert [s.layer for s in find_sites(model, ["attn"])] == [1]
    assert [s.layer for s in find_sites(model, ["mixer"])] == [0]
    with pytest.raises(UnknownSite, match="in layer 0"):
        find_sites(model, ["attn"], [0])


def test_encoder_decoders_and_wrappers_are_refused() -> None:
    t5 = tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=VOCAB, d_model=16, d_ff=24, num_layers=2, num_heads=4, d_kv=4)
    )
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        find_sites(t5)
    with pytest.raises(UnsupportedModel, match="DataParallel"):
        find_sites(torch.nn.DataParallel(gpt2()))


def test_only_activations_with_an_exact_zero_are_of_the_relu_family() -> None:
    from transformers.activations import ACT2FN

    below = torch.linspace(-5, -0.1, 20)
    for name in RELU_FAMILY & set(ACT2FN):
        assert not ACT2FN[name](below).any(), name
    for name in ("gelu", "gelu_new", "silu", "quick_gelu", "leaky_relu", "mish"):
        assert name not in RELU_FAMILY
        assert ACT2FN[name](below).any()
