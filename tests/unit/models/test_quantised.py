"""Models with quantised weights, each made and loaded for real: values as plain hooks read them, weights dequantised.

A format whose package is missing is skipped; `make test-quantised` installs them.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from families import VOCAB
from safetensors.torch import load_file, save_file
from torch import Tensor

import nfinspect as nf
from nfinspect.experiments.lens import lens_logits
from nfinspect.experiments.output_weights import output_effects
from nfinspect.experiments.weight_cosines import weight_cosines
from nfinspect.models import LoadedModel, ModelError, UnsupportedModel, find_sites, fingerprint, in_memory, load_model
from nfinspect.models.quantised import is_quantised

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from words import word_tokenizer  # noqa: E402  (its folder has just been put on the path)

PROMPTS = [[5, 9, 8], [11, 12, 13, 14, 15], [20]]
Weights = dict[str, Tensor]
Make = Callable[[Path, Path], Weights]


def plain() -> tf.PreTrainedModel:
    """Wide enough for blocks of 64 and 128."""
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    model = tf.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    plain().save_pretrained(directory)
    return directory


def by_transformers(config: Callable[[], Any], exact: Callable[[Any], Tensor]) -> Make:
    """Quantised as transformers does it while loading. exact: the weights of a quantised module as numbers."""

    def make(source: Path, directory: Path) -> Weights:
        model = tf.AutoModelForCausalLM.from_pretrained(source, quantization_config=config(), device_map={"": "cpu"})
        found = {
            f"{name}.weight": exact(module).float()
            for name, module in model.named_modules()
            if name.endswith("_proj") and hasattr(module, "weight")
        }
        model.save_pretrained(directory)
        return found

    return make


def bitsandbytes(**options: Any) -> Make:
    def exact(module: Any) -> Tensor:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(module.weight, getattr(module, "state", None)).detach()

    return by_transformers(lambda: tf.BitsAndBytesConfig(**options), exact)


def torchao_int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return tf.TorchAoConfig(Int8WeightOnlyConfig())


def by_hand(quantise: Callable[[str, Tensor], tuple[Weights, Tensor]], config: dict[str, Any]) -> Make:
    """quantise: a projection's name and weights -> what the checkpoint holds, and the weights as numbers."""

    def make(source: Path, directory: Path) -> Weights:
        directory.mkdir()
        held, found = {}, {}
        for name, weight in load_file(source / "model.safetensors").items():
            if name.endswith("_proj.weight"):
                stored, found[name] = quantise(name.removesuffix("weight"), weight)
                held.update(stored)
            else:
                held[name] = weight
        save_file(held, directory / "model.safetensors", {"format": "pt"})
        shutil.copy(source / "generation_config.json", directory)
        told = json.loads((source / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**told, "quantization_config": config}))
        return found

    return make


def compressed(bits: int) -> Make:
    form = "int-quantized" if bits == 8 else "pack-quantized"

    def quantise(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        codes = (weight / scale).round().to(torch.int8)
        if bits == 8:
            return {f"{name}weight": codes, f"{name}weight_scale": scale}, codes * scale
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        stored = {"weight_packed": pack_to_int32(codes, bits), "weight_scale": scale}
        stored["weight_shape"] = torch.tensor(weight.shape)
        return {name + key: value for key, value in stored.items()}, codes * scale

    weights = {"num_bits": bits, "type": "int", "strategy": "channel", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "format": form}}
    return by_hand(
        quantise,
        {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": groups,
        },
    )


def fp8(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
    scale = (weight.abs().max() / 448).reshape(1, 1)
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {f"{name}weight": codes, f"{name}weight_scale_inv": scale}, codes.float() * scale


FORMATS: dict[str, tuple[str, str, Make]] = {
    "bitsandbytes 4 bits": ("bitsandbytes", "bitsandbytes", bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    "bitsandbytes 8 bits": ("bitsandbytes", "bitsandbytes", bitsandbytes(load_in_8bit=True)),
    "torchao int8": ("torchao", "torchao", by_transformers(torchao_int8, lambda m: m.weight.dequantize().detach())),
    "compressed-tensors int8": ("compressed_tensors", "compressed-tensors", compressed(8)),
    "compressed-tensors int4": ("compressed_tensors", "compressed-tensors", compressed(4)),
    "fp8": ("accelerate", "fp8", by_hand(fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]})),
}
ROUNDS_INPUT = "bitsandbytes 8 bits"
"""LLM.int8 rounds what it is given to 8 bits, too, and computes in float16."""

ROUNDING = {ROUNDS_INPUT: 2e-3, "bitsandbytes 4 bits": 1e-2}
"""How far measured weights may be from dequantised ones; 1e-5 for others. bitsandbytes computes 4 bits in bfloat16 on
processors that have instructions for it, and packs the codes anew for them."""


@pytest.fixture(scope="module", params=list(FORMATS))
def quantised(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, LoadedModel, Weights]:
    """A format, a model in it as loaded, and its weights as numbers."""
    package, _, make = FORMATS[request.param]
    pytest.importorskip(package, reason=f"{package} reads this format: make test-quantised")
    directory = tmp_path_factory.mktemp("quantised") / "model"
    weights = make(base, directory)
    word_tokenizer().save_pretrained(directory)
    return request.param, load_model(directory, device="cpu"), weights


def test_the_model_is_told_as_quantised(quantised: tuple[str, LoadedModel, Weights]) -> None:
    name, loaded, _ = quantised
    assert any(f"holds weights quantised by {FORMATS[name][1]}: they are " in note for note in loaded.notes)
    # transformers dequantises fp8 where there is no GPU, and the model is a plain one.
    assert fingerprint(loaded).quantised == (name != "fp8")
    assert fingerprint(loaded) == fingerprint(loaded)


@pytest.mark.parametrize("mode", ["live", "replay"])
def test_values_are_those_that_plain_hooks_read(
    mode: Any, quantised: tuple[str, LoadedModel, Weights], tmp_path: Path
) -> None:
    name, loaded, _ = quantised
    sites = ("mlp", "attn", "resid")
    how: dict[str, Any] = {"generate": 4, "mode": mode, "sites": sites, "store": tmp_path}
    with nf.capture(loaded.model, loaded.tokenizer, PROMPTS, run="run", **how) as run:
        tokens = run.sql("SELECT prompt_idx, token_id FROM tokens ORDER BY token_idx").fetchall()
        found = {(x.site, x.layer): np.asarray(run.activations(x.site, x.layer)) for x in run.layers}
    seen: dict[tuple[str, int], list[Tensor]] = {}
    blocks = loaded.model.model.layers
    handles = []
    for layer, block in enumerate(blocks):
        for site, module in (("mlp", block.mlp.down_proj), ("attn", block.self_attn.o_proj)):
            key = site, layer
            handles.append(
                module.register_forward_pre_hook(lambda m, args, key=key: seen.setdefault(key, []).append(args[0][0]))
            )
        handles.append(
            block.register_forward_hook(
                lambda m, args, out, layer=layer: seen.setdefault(("resid", layer), []).append(out[0])
            )
        )
    for prompt in range(len(PROMPTS)):
        with torch.no_grad():
            loaded.model(torch.tensor([[token for p, token in tokens if p == prompt]]))
    for handle in handles:
        handle.remove()
    for key, parts in seen.items():
        expected = torch.cat(parts).float().numpy()
        tolerance = (5e-2 if name == ROUNDS_INPUT else 1e-4) * np.abs(expected).max()
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=tolerance, err_msg=str(key))


def test_what_reads_weights_computes_with_dequantised_ones(quantised: tuple[str, LoadedModel, Weights]) -> None:
    name, loaded, weights = quantised
    model = plain()
    model.load_state_dict(weights, strict=False)
    expected = in_memory(model, word_tokenizer())
    site, other = find_sites(loaded.model)[1], find_sites(model)[1]
    tolerance = ROUNDING.get(name, 1e-5)
    effects = output_effects(expected, other, [0, 77])
    found = output_effects(loaded, site, [0, 77])
    np.testing.assert_allclose(found, effects, rtol=0, atol=tolerance * np.abs(effects).max())
    cosines, plainly = (weight_cosines(one, "mlp", (0, 7), [0, 1]) for one in (loaded, expected))
    for mine, wanted in (
        (cosines.gate, plainly.gate),
        (cosines.inputs, plainly.inputs),
        (cosines.outputs, plainly.outputs),
    ):
        assert mine is not None and wanted is not None
        for a, b in zip(mine, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=max(tolerance, 2e-6))
    logits, by_numbers = (lens_logits(one, [5, 9, 8, 30]).numpy() for one in (loaded, expected))
    off = np.abs(logits - by_numbers).max() / np.abs(by_numbers).max()
    assert off <= (5e-2 if name in ROUNDING else 1e-4)


MIXTURES = [name for name in FORMATS if name != "compressed-tensors int8"]
"""Formats of which a mixture loads: bitsandbytes and torchao leave its experts as they are, the others are unpacked."""


def four_bits(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
    """As checkpoints of transformers 4 hold each expert's projection."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(weight.contiguous(), quant_type="nf4")
    kept = {f"{name}weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {f"{name}weight": codes, **kept}, dequantize_4bit(codes, state)


def eight_bits(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
    scale = weight.abs().amax(1)
    codes = (weight / scale[:, None] * 127).round().to(torch.int8)
    return {f"{name}weight": codes, f"{name}SCB": scale}, codes * scale[:, None] / 127


def without_scale(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
    held, numbers = eight_bits(name, weight)
    return {key: value for key, value in held.items() if "experts" not in key or not key.endswith("SCB")}, numbers


def packed(name: str, weight: Tensor) -> tuple[Weights, Tensor]:
    """As GPTQ and AWQ name it; what is in it is not read."""
    return {f"{name}qweight": torch.zeros(1, 1, dtype=torch.int32)}, weight


BITS_4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BITS_8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
REFUSED: dict[str, tuple[str, Make, str]] = {
    "bitsandbytes 4 bits": (
        "bitsandbytes",
        by_hand(four_bits, BITS_4),
        r"experts\.\d\.\w+\.weight\.absmax packed by bits",
    ),
    "bitsandbytes 8 bits": (
        "bitsandbytes",
        by_hand(eight_bits, BITS_8),
        r"experts\.\d\.\w+\.SCB packed by bitsandbytes",
    ),
    "codes alone": ("bitsandbytes", by_hand(without_scale, BITS_8), r"mlp\.experts\.\w+_proj packed by bitsandbytes"),
    "gptq": (
        "torch",
        by_hand(packed, {"quant_method": "gptq", "bits": 4}),
        r"experts\.\d\.\w+\.qweight packed by gptq",
    ),
    "awq": ("torch", by_hand(packed, {"quant_method": "awq", "bits": 4}), r"experts\.\d\.\w+\.qweight packed by awq"),
    "compressed-tensors int8": (
        "compressed_tensors",
        compressed(8),
        r"load here, found in .*mlp\.experts\.gate_up_proj: ",
    ),
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four experts of 128 neurons, of which a token passes two; in the layout of published checkpoints."""
    torch.manual_seed(0)
    config = tf.Qwen3MoeConfig(
        vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=128, moe_intermediate_size=128,
        num_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    model = tf.Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    directory = tmp_path_factory.mktemp("mixture")
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", MIXTURES)
def test_neurons_of_experts_are_those_of_the_weights_as_numbers(name: str, mixture: Path, tmp_path: Path) -> None:
    """Computed by hand from what the experts are given, with what the format makes of each expert's projections."""
    package, _, make = FORMATS[name]
    pytest.importorskip(package, reason=f"{package} reads this format: make test-quantised")
    weights = {**load_file(mixture / "model.safetensors"), **make(mixture, tmp_path / "model")}
    word_tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device="cpu")
    used = "dequantised to float32" if name == "fp8" else "used as they are, those of experts as numbers"
    assert any(note.endswith(f": they are {used}") for note in loaded.notes)
    with nf.capture(loaded.model, loaded.tokenizer, PROMPTS, run="run", store=tmp_path, sites=("mlp", "resid")) as run:
        tokens = run.sql("SELECT prompt_idx, token_id FROM tokens ORDER BY token_idx").fetchall()
        found = [np.asarray(run.activations("mlp", layer)) for layer in (0, 1)]
        streams = [np.asarray(run.activations("resid", layer)) for layer in (0, 1)]
    given: list[list[tuple[Tensor, Tensor]]] = [[], []]
    passed: list[list[Tensor]] = [[], []]
    for layer, block in enumerate(loaded.model.model.layers):
        block.mlp.experts.register_forward_pre_hook(lambda m, args, layer=layer: given[layer].append(args[:2]))
        block.register_forward_hook(lambda m, args, out, layer=layer: passed[layer].append(out[0]))
    for prompt in range(len(PROMPTS)):
        with torch.no_grad():
            loaded.model(torch.tensor([[token for p, token in tokens if p == prompt]]))
    rough = 5e-2 if name == ROUNDS_INPUT else 1e-2 if name in ROUNDING else 1e-4
    for layer in (0, 1):
        expected = np.full_like(found[layer], np.nan)
        hidden, chosen = (torch.cat([one[i] for one in given[layer]]) for i in (0, 1))
        for expert in range(4):
            gate, up = (
                hidden @ weights[f"model.layers.{layer}.mlp.experts.{expert}.{of}_proj.weight"].T
                for of in ("gate", "up")
            )
            there = (chosen == expert).any(1).numpy()
            values = (torch.nn.functional.silu(gate) * up).numpy()
            expected[there, expert * 128 : (expert + 1) * 128] = values[there]
        for mine, wanted in ((found[layer], expected), (streams[layer], torch.cat(passed[layer]).numpy())):
            np.testing.assert_allclose(mine, wanted, rtol=0, atol=rough * np.nanmax(np.abs(wanted)))


@pytest.mark.parametrize("name", list(REFUSED))
def test_experts_that_would_be_taken_for_other_numbers_are_refused(name: str, mixture: Path, tmp_path: Path) -> None:
    """transformers itself loads those of 8 bits, with codes in place of weights."""
    package, make, says = REFUSED[name]
    pytest.importorskip(package, reason=f"{package} reads this format: make test-quantised")
    make(mixture, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=says) as error:
        load_model(tmp_path / "model", device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_formats_without_a_package_for_the_cpu_are_refused(method: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    shutil.copytree(base, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    config = json.loads((base / "config.json").read_text())
    told = {"quant_method": method, "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    with pytest.raises(ModelError, match=f"quantised by {method}, found no .*gptqmodel") as error:
        load_model(tmp_path / "model", device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "told, named",
    [({"quant_method": "nosuch"}, "nosuch"), ({}, "none"), ({"quant_method": "bitsandbytes"}, "bitsandbytes")],
)
def test_a_method_that_transformers_would_skip_is_refused(
    told: dict[str, Any], named: str, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    with pytest.raises(UnsupportedModel, match=f"transformers reads, found {named} in quantization_config") as error:
        load_model(tmp_path / "model", device="cpu")
    assert "\n" not in str(error.value)


def test_plain_weights_are_checked_as_plain_whatever_their_config_says(base: Path) -> None:
    """transformers itself loads them with a warning."""
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    model.config.quantization_config = {"quant_method": "nosuch"}
    assert not is_quantised(model)
    assert not fingerprint(in_memory(model, word_tokenizer())).quantised


def test_what_a_format_cannot_do_here_is_told_as_its_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a format for GPUs alone, on a machine without one."""
    shutil.copytree(base, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    config = json.loads((base / "config.json").read_text())
    told = {"quant_method": "vptq", "config_for_layers": {}, "shared_layer_config": {}}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    monkeypatch.setattr("nfinspect.models.load.check_packages", lambda method, directory: None)
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "model", device="cpu")
    assert "vptq" in str(error.value).lower() and "\n" not in str(error.value)
