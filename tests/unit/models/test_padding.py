"""Every recorded value equals the one of an unpadded pass, for every family, site and padding side.

The reference reads the model in the plainest way, by module names written down here, without anything of the
package.
"""

from dataclasses import dataclass

import pytest
import torch
from families import FAMILIES, VOCAB, phi3
from rounding import assert_same_pass
from torch import Tensor
from transformers import PreTrainedModel

from nfinspect.models import (
    LayerSite,
    ModelError,
    SiteReader,
    UnknownToken,
    body,
    default_site,
    find_sites,
    forward_batch,
)
from nfinspect.models.forward import rope_limit

SEQUENCES = [[5], [9, 8, 7, 6, 5], [11, 12, 13], [20, 21, 22, 23, 24, 25, 26, 27, 28]]


@dataclass(frozen=True)
class Names:
    """Inside block {}: the output projection of MLP or mixer, the attention's, the gate and its part."""

    blocks: str
    neuron: str
    attn: str | None = None
    gate: str | None = None
    part: tuple[int | None, int | None] = (None, None)


_LLAMA = Names("model.layers.{}", "mlp.down_proj", "self_attn.o_proj", "mlp.gate_proj")
_OPT = Names("model.decoder.layers.{}", "fc2", "self_attn.out_proj")
_FALCON = Names("transformer.h.{}", "mlp.dense_4h_to_h", "self_attention.dense")
_MAMBA = Names("backbone.layers.{}", "mixer.out_proj", None, "mixer.in_proj", (32, 64))
_MAMBA_2 = Names("backbone.layers.{}", "mixer.out_proj", None, "mixer.in_proj", (0, 32))
NAMES = {
    "gpt2": Names("transformer.h.{}", "mlp.c_proj", "attn.c_proj"),
    "opt": _OPT,
    "opt_350m": _OPT,
    "gpt_neox": Names("gpt_neox.layers.{}", "mlp.dense_4h_to_h", "attention.dense"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": Names("model.layers.{}", "mlp.fc2", "self_attn.dense"),
    "phi3": Names("model.layers.{}", "mlp.down_proj", "self_attn.o_proj", "mlp.gate_up_proj", (0, 24)),
    "bloom": _FALCON,
    "falcon_old": _FALCON,
    "falcon_alibi": _FALCON,
    "falcon_new": _FALCON,
    "gpt_neo": Names("transformer.h.{}", "mlp.c_proj", "attn.attention.out_proj"),
    "gptj": Names("transformer.h.{}", "mlp.fc_out", "attn.out_proj"),
    "mamba": _MAMBA,
    "mamba_bias": _MAMBA,
    "falcon_mamba": _MAMBA,
    "mamba2": _MAMBA_2,
    "mamba2_clamped": _MAMBA_2,
}
Key = tuple[str, int]


def plain(model: PreTrainedModel, names: Names, tokens: list[int]) -> tuple[dict[Key, Tensor], dict[int, Tensor]]:
    """Values [tokens, neurons] per (site, layer) and the gate's per layer, of one sequence."""
    values: dict[Key, Tensor] = {}
    gates: dict[int, Tensor] = {}
    handles = []
    site = "mixer" if "mixer" in names.neuron else "mlp"

    def keep_input(key: Key):
        return lambda m, args: values.__setitem__(key, args[0].reshape(len(tokens), -1).clone())

    def keep_output(key: Key):
        return lambda m, args, out: values.__setitem__(key, (out if isinstance(out, Tensor) else out[0])[0].clone())

    def keep_gate(layer: int):
        return lambda m, args, out: gates.__setitem__(layer, out[0][..., slice(*names.part)].clone())

    for layer in range(model.config.num_hidden_layers):
        block = model.get_submodule(names.blocks.format(layer))
        handles.append(block.register_forward_hook(keep_output(("resid", layer))))
        handles.append(block.get_submodule(names.neuron).register_forward_pre_hook(keep_input((site, layer))))
        if names.attn:
            handles.append(block.get_submodule(names.attn).register_forward_pre_hook(keep_input(("attn", layer))))
        if names.gate:
            handles.append(block.get_submodule(names.gate).register_forward_hook(keep_gate(layer)))
    with torch.no_grad():
        model(torch.tensor([tokens]))
    for handle in handles:
        handle.remove()
    return values, gates


def captured(model: PreTrainedModel, sites: list[LayerSite], **how) -> list[dict[Key, tuple[Tensor, Tensor | None]]]:
    """The same through SiteReader, one padded pass, cut back to each sequence."""
    batch = forward_batch(model, SEQUENCES, pad_id=3, **how)
    rows: list[dict[Key, tuple[Tensor, Tensor | None]]] = [{} for _ in SEQUENCES]

    def sink(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        for row, out in enumerate(rows):
            cut = batch.columns(row)
            out[site.site, site.layer] = (
                values[row, cut].clone(),
                None if fired is None else fired[row, cut].clone(),
            )

    with SiteReader(model, sites, sink) as reader, torch.no_grad():
        reader.begin(*batch.input_ids.shape, batch.valid)
        body(model)(**batch.inputs())
        reader.end()
    return rows


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_values_and_firing_equal_an_unpadded_pass(family: str, side: str) -> None:
    model, names = FAMILIES[family](), NAMES[family]
    sites = [default_site(model), "resid", *(["attn"] if names.attn else [])]
    rows = captured(model, find_sites(model, sites), padding_side=side)
    for row, tokens in zip(rows, SEQUENCES, strict=True):
        values, gates = plain(model, names, tokens)
        assert row.keys() == values.keys()
        for (site, layer), expected in values.items():
            got, fired = row[site, layer]
            assert_same_pass(got, expected, layer)
            if site in ("mlp", "mixer") and names.gate:
                assert fired is not None
                clear = gates[layer].abs() > 1e-5  # a gate of ±0 within rounding may go either way
                assert torch.equal(fired[clear], gates[layer][clear] > 0)
                assert 0 < int(fired.sum()) < fired.numel() or fired.shape[0] == 1
            else:
                assert fired is None


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neo", "gptj"])
def test_left_padding_without_positions_would_be_wrong(family: str) -> None:
    """Why forward_batch gives position_ids; rotary ones only shift, and so agree up to rounding."""
    model = FAMILIES[family]()
    batch = forward_batch(model, SEQUENCES, pad_id=3, padding_side="left")
    assert batch.position_ids is not None
    inputs = batch.inputs()
    inputs.pop("position_ids")
    with torch.no_grad():
        shifted = body(model)(**inputs).last_hidden_state
        right = body(model)(**batch.inputs()).last_hidden_state
    difference = float((shifted - right)[batch.valid].abs().max())
    if family in ("gpt2", "gpt_neo"):
        assert difference > 1e-2
    else:
        assert difference < 1e-4


def test_mamba_with_biases_is_padded_on_the_right_where_left_is_inexact() -> None:
    model = FAMILIES["mamba_bias"]()
    for name, bias in model.named_parameters():
        if name.endswith("proj.bias"):  # some versions of transformers begin with zeros, which are exact
            torch.nn.init.normal_(bias)
    with torch.no_grad():
        alone = body(model)(torch.tensor([[5]])).last_hidden_state[0, 0]
        ids, mask = torch.tensor([[0, 0, 5], [9, 8, 7]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
        left = body(model)(ids, attention_mask=mask).last_hidden_state[0, 2]
    assert float((alone - left).abs().max()) > 1e-3
    batch = forward_batch(model, [[5], [9, 8, 7]], pad_id=0, padding_side="left")
    assert batch.padding_side == "right"
    assert batch.columns(0) == slice(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_runs_every_block_but_not_the_vocabulary(family: str) -> None:
    model = FAMILIES[family]()
    calls: list[str] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append("head"))
    block = NAMES[family].blocks.format(model.config.num_hidden_layers - 1)
    model.get_submodule(block).register_forward_hook(lambda *_: calls.append("last block"))
    with torch.no_grad():
        out = body(model)(**forward_batch(model, [[5, 6]], pad_id=0).inputs()).last_hidden_state
    assert calls == ["last block"]
    with torch.no_grad():
        assert model(torch.tensor([[5, 6]])).logits.shape == (1, 2, 101)
    assert out.shape[:2] == (1, 2)


def test_a_batch_of_equal_lengths_needs_no_mask() -> None:
    batch = forward_batch(FAMILIES["gpt2"](), [[5, 6], [7, 8]], pad_id=0, padding_side="left")
    assert batch.attention_mask is None
    assert batch.position_ids is None
    assert batch.valid.all()


@pytest.mark.parametrize(
    ("sequences", "side", "words"),
    [([], "right", "empty"), ([[1], []], "right", "empty"), ([[1]], "middle", "'middle'")],
)
def test_what_is_no_batch_is_refused(sequences: list[list[int]], side: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        forward_batch(FAMILIES["gpt2"](), sequences, pad_id=0, padding_side=side)


def test_lengths_are_not_mixed_beyond_the_limit_of_length_dependent_rotary_scaling() -> None:
    """Phi-3 128k: one long sequence changes the frequencies of all in its batch."""
    model = phi3(
        original_max_position_embeddings=4,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.0],
            "long_factor": [9.0, 9.0],
        },
    )
    with torch.no_grad():
        alone = body(model)(torch.tensor([[5, 6, 7]])).last_hidden_state[0]
        mixed = body(model)(torch.tensor([[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6]])).last_hidden_state[0, :3]
    assert float((alone - mixed).abs().max()) > 1e-5
    assert rope_limit(model) == 4
    forward_batch(model, [[1, 2], [3, 4, 5, 6]], pad_id=0)
    forward_batch(model, [[1] * 5, [2] * 5], pad_id=0)
    with pytest.raises(ModelError, match="one length"):
        forward_batch(model, [[1, 2], [3, 4, 5, 6, 7]], pad_id=0)


@pytest.mark.parametrize("sequences", [[[5, VOCAB]], [[-1, 5], [6]], [[5], [6, 2 * VOCAB, 7]]])
def test_an_id_that_the_model_has_not_is_refused_before_it_runs(sequences: list[list[int]]) -> None:
    expected = f"from 0 to {VOCAB - 1}, the model's vocabulary, found -?[0-9]+ in the input"
    with pytest.raises(UnknownToken, match=expected):
        forward_batch(FAMILIES["gpt2"](), sequences, pad_id=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_as_they_are_have_no_such_limit(family: str) -> None:
    assert rope_limit(FAMILIES[family]()) is None
