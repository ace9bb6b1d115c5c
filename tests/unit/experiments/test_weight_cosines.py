"""Cosines of weights: planted copies, beside plain arithmetic on the modules' own weights."""

import numpy as np
import pytest
import torch
import transformers as tf
from families import FAMILIES, gpt2, llama, mamba, phi3
from words import word_tokenizer

from nfinspect.experiments.weight_cosines import weight_cosines
from nfinspect.models import UnknownSite, find_sites, in_memory
from nfinspect_store.errors import RequestError

LAYERS = [0, 1, 2]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.detach().double(), b.detach().double(), dim=0))


def test_a_gated_mlps_gate_up_and_down_are_apart() -> None:
    model = llama()
    mlp = [layer.mlp for layer in model.model.layers]
    with torch.no_grad():
        mlp[2].gate_proj.weight[5] = 2 * mlp[0].gate_proj.weight[3]
        mlp[1].up_proj.weight[6] = -3 * mlp[0].up_proj.weight[3]
        mlp[1].down_proj.weight[:, 7] = mlp[0].down_proj.weight[:, 3]
        mlp[1].down_proj.weight[:, 0] = 0
    found = weight_cosines(in_memory(model, word_tokenizer()), "mlp", (0, 3), LAYERS)
    assert found.gate is not None and found.inputs is not None
    assert (found.gate[2][5], found.inputs[1][6], found.outputs[1][7]) == (1, -1, 1)
    assert abs(found.inputs[2][5]) < 0.9 and abs(found.outputs[1][6]) < 0.9
    assert np.isnan(found.outputs[1][0])  # a vector of 0 has no direction
    for layer, neuron in ((0, 0), (1, 11), (2, 23)):
        assert found.gate[layer][neuron] == pytest.approx(
            cosine(mlp[0].gate_proj.weight[3], mlp[layer].gate_proj.weight[neuron]), abs=1e-6
        )
        assert found.inputs[layer][neuron] == pytest.approx(
            cosine(mlp[0].up_proj.weight[3], mlp[layer].up_proj.weight[neuron]), abs=1e-6
        )


def test_a_fused_gate_is_split() -> None:
    model = phi3()
    mlp = [layer.mlp for layer in model.model.layers]
    found = weight_cosines(in_memory(model, word_tokenizer()), "mlp", (1, 2), LAYERS)
    half = mlp[0].gate_up_proj.weight.shape[0] // 2
    assert found.gate is not None and found.inputs is not None
    assert found.gate[0][9] == pytest.approx(
        cosine(mlp[1].gate_up_proj.weight[2], mlp[0].gate_up_proj.weight[9]), abs=1e-6
    )
    assert found.inputs[0][9] == pytest.approx(
        cosine(mlp[1].gate_up_proj.weight[half + 2], mlp[0].gate_up_proj.weight[half + 9]), abs=1e-6
    )


def test_a_plain_mlp_has_no_gate_and_conv1d_is_turned() -> None:
    model = gpt2()
    mlp = [block.mlp for block in model.transformer.h]
    found = weight_cosines(in_memory(model, word_tokenizer()), "mlp", (0, 3), LAYERS)
    assert found.gate is None and found.inputs is not None
    assert found.inputs[2][8] == pytest.approx(cosine(mlp[0].c_fc.weight[:, 3], mlp[2].c_fc.weight[:, 8]), abs=1e-6)
    assert found.outputs[2][8] == pytest.approx(cosine(mlp[0].c_proj.weight[3], mlp[2].c_proj.weight[8]), abs=1e-6)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "mamba" not in name])
def test_every_family_with_an_mlp_tells_of_inputs(family: str) -> None:
    loaded = in_memory(FAMILIES[family](), word_tokenizer())
    found = weight_cosines(loaded, "mlp", (0, 0), [0, 1])
    gated = find_sites(loaded.model, ["mlp"], [0])[0].gate is not None
    assert found.inputs is not None and (found.gate is not None) == gated
    assert found.inputs[0][0] == found.outputs[0][0] == 1 and found.notes == ()


def test_other_sites_tell_of_outputs_only() -> None:
    found = weight_cosines(in_memory(mamba(), word_tokenizer()), "mixer", (0, 3), LAYERS)
    assert found.gate is None and found.inputs is None and "only output weights" in found.notes[0]
    assert found.outputs[0][3] == 1
    with pytest.raises(RequestError, match="no weights of its own"):
        weight_cosines(in_memory(gpt2(), word_tokenizer()), "resid", (0, 3), LAYERS)
    with pytest.raises(UnknownSite, match="mixer"):
        weight_cosines(in_memory(gpt2(), word_tokenizer()), "mixer", (0, 3), LAYERS)


def test_of_a_gate_that_adapters_add_to_only_the_output_weights_are_compared() -> None:
    """Zamba2: what a neuron is read from is the sum of two projections."""
    config = tf.Zamba2Config(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, layers_block_type=["linear_attention", "hybrid"],
        num_attention_heads=4, num_key_value_heads=4, intermediate_size=24, mamba_d_state=8, n_mamba_heads=4,
        mamba_headdim=8, adapter_rank=4, use_mamba_kernels=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    found = weight_cosines(in_memory(model, word_tokenizer()), "mlp", (1, 3), [1])
    assert found.gate is None and found.inputs is None and "not known which projection" in found.notes[0]
    rows = model.model.layers[1].shared_transformer.feed_forward.down_proj.weight.T
    wanted = torch.nn.functional.cosine_similarity(rows, rows[3:4])
    np.testing.assert_allclose(found.outputs[0], wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
