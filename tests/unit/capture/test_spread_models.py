"""Models that accelerate has spread: by --device balanced, or by from_pretrained(device_map=…) with offloading."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.reading import BatchReader
from nfinspect.capturing.recorder import LayerValues
from nfinspect.capturing.statistics import HistogramCounter
from nfinspect.experiments.output_weights import output_effects
from nfinspect.models import ModelError, UnsupportedModel, embedding_device, find_sites, in_memory, load_model
from nfinspect.models.devices import computes_on, devices_of, spread_note
from nfinspect.models.quantised import check_packages

pytest.importorskip("accelerate", reason="device maps need accelerate: pip install accelerate")

PROMPTS = {"tulip": ["w5 w6 w7", "w9"], "baseline": ["w20 w21 w22 w23 w24"]}
LLAMA = {
    "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    "model.layers.2": "disk", "model.norm": "cpu", "lm_head": "cpu",
}  # fmt: skip
EMBEDDINGS_AWAY = {**dict.fromkeys(LLAMA, "disk"), "model.layers.0": "cpu"}
GPT2 = {
    "transformer.wte": "cpu", "transformer.wpe": "disk", "transformer.h.0": "disk", "transformer.h.1": "cpu",
    "transformer.h.2": "disk", "transformer.ln_f": "disk", "lm_head": "cpu",
}  # fmt: skip
MAPS = {"half": ("llama", LLAMA), "embeddings": ("llama", EMBEDDINGS_AWAY), "tied": ("gpt2", GPT2)}


@pytest.fixture
def spread(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> Callable[[str], tuple[PreTrainedModel, PreTrainedModel]]:
    """spread(name of a map) -> the model whole, and the model by that map."""

    def load(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
        family, devices = MAPS[name]
        place = model_dir(family)
        whole = AutoModelForCausalLM.from_pretrained(place)
        parts = AutoModelForCausalLM.from_pretrained(place, device_map=devices, offload_folder=tmp_path / "offload")
        assert any(weight.device.type == "meta" for weight in parts.parameters())
        return whole.eval(), parts.eval()

    return load


def values_of(run: nf.Run, sites: tuple[str, ...]) -> dict[tuple[str, int], Any]:
    return {(x.site, x.layer): np.asarray(run.activations(x.site, x.layer)) for x in run.layers if x.site in sites}


@pytest.mark.filterwarnings("ignore:You are calling .generate")  # older transformers say so
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("half", "live"),
        ("embeddings", "replay"),
        ("tied", "live"),
        pytest.param("half", "replay", marks=pytest.mark.slow),
        pytest.param("embeddings", "live", marks=pytest.mark.slow),
        pytest.param("tied", "replay", marks=pytest.mark.slow),
    ],
)
def test_offloaded_layers_give_the_values_of_the_whole_model(
    name: str, mode: Any, spread: Callable[[str], tuple[PreTrainedModel, PreTrainedModel]], tmp_path: Path
) -> None:
    sites = ("mlp", "attn", "resid")
    whole, parts = spread(name)
    how: dict[str, Any] = {"generate": 4, "sites": sites, "mode": mode, "store": tmp_path}
    with nf.capture(whole, word_tokenizer(), PROMPTS, run="whole", **how) as expected:
        with pytest.warns(UserWarning, match=r"of its \d+ weights are offloaded"):
            found = nf.capture(parts, word_tokenizer(), PROMPTS, run="parts", **how)
        with found:
            rows = "SELECT prompt_idx, position, token_id FROM tokens ORDER BY token_idx"
            assert found.sql(rows).fetchall() == expected.sql(rows).fetchall()
            ours = values_of(found, sites)
            for key, values in values_of(expected, sites).items():
                np.testing.assert_allclose(ours[key], values, rtol=1e-5, atol=1e-6, err_msg=str(key))
            assert found.sql("SELECT device FROM run").fetchall() == [("cpu",)]
    assert any(weight.device.type == "meta" for weight in parts.parameters())  # they went back where they were


def test_ones_own_passes_over_offloaded_layers_are_recorded(
    spread: Callable[[str], tuple[PreTrainedModel, PreTrainedModel]], tmp_path: Path
) -> None:
    found = []
    for i, model in enumerate(spread("half")):
        with nf.record(model, word_tokenizer(), store=tmp_path, run=f"run{i}") as recording, torch.no_grad():
            model(torch.tensor([[5, 6, 7, 8]]))
        with recording.run as run:
            found.append(values_of(run, ("mlp",)))
    for key, values in found[0].items():
        np.testing.assert_allclose(found[1][key], values, rtol=1e-5, atol=1e-6)


def test_offloaded_weights_are_not_read_as_numbers(
    spread: Callable[[str], tuple[PreTrainedModel, PreTrainedModel]],
) -> None:
    whole, parts = spread("half")
    here, there = (in_memory(model, word_tokenizer()) for model in (whole, parts))
    first, second = find_sites(parts)[:2]
    np.testing.assert_allclose(output_effects(there, first, [1]), output_effects(here, first, [1]), atol=1e-6)
    with pytest.raises(
        UnsupportedModel, match=r"weights of model.layers.1.mlp.down_proj in memory, found them offloaded"
    ):
        output_effects(there, second, [1])


@pytest.mark.parametrize("device", ["balanced", "sequential"])
def test_a_device_map_is_a_device(device: str, model_dir: Callable[[str], Path]) -> None:
    """On a machine without a GPU all of it is in the main memory."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: the model is there")
    place = model_dir("llama")
    loaded, plain = load_model(place, device=device), load_model(place, device="cpu")
    assert (loaded.device, loaded.places, loaded.notes) == ("cpu", "cpu", ())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain.model(ids).logits)


def test_a_device_map_without_accelerate_is_refused(
    model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfinspect.models.devices.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="the package accelerate for --device balanced, found none") as error:
        load_model(model_dir("llama"), device="balanced")
    assert "\n" not in str(error.value)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    model = FAMILIES["llama"]().to("meta")
    with pytest.raises(UnsupportedModel, match="meta device and come from nowhere"):
        nf.capture(model, word_tokenizer(), ["w5"], store=tmp_path)


class Hook:
    """As much of accelerate's hook as says where a module computes."""

    def __init__(self, place: object) -> None:
        self.execution_device = place


class Hooks:
    def __init__(self, *hooks: Hook) -> None:
        self.hooks = hooks


def test_a_model_on_several_devices_names_them_in_its_order() -> None:
    """As if: weights that are elsewhere, and hooks that bring them to GPUs that this machine need not have."""
    model = FAMILIES["llama"]().to("meta")
    for module in model.modules():
        module._hf_hook = Hook(1)
    model.model.embed_tokens._hf_hook = Hooks(Hook(None), Hook("cuda:0"))
    model.lm_head._hf_hook = Hook(torch.device("cpu"))
    assert str(embedding_device(model)) == "cuda:0" and str(computes_on(model.lm_head)) == "cpu"
    assert devices_of(model) == ("cuda:0", "cuda:1", "cpu")
    assert spread_note(model).startswith("the model is spread over cuda:0, cuda:1, cpu; ")
    loaded = in_memory(model, word_tokenizer())
    assert (loaded.device, loaded.places) == ("cuda:0", "cuda:0, cuda:1, cpu")
    assert devices_of(nn.Identity()) == ("cpu",)


def test_histograms_follow_the_values() -> None:
    """Counted in main memory at first (a resumed run), then on the device of a layer, wherever that is."""
    values = np.linspace(-2, 2, 30, dtype=np.float32).reshape(10, 3)
    counter, plain = HistogramCounter(3), HistogramCounter(3)
    for one in (values, values):
        plain.add(one)
    counter.add(values)
    counter.add(torch.from_numpy(values))
    assert isinstance(counter.counts, torch.Tensor) and counter.move(torch.device("cpu")) is counter.counts
    np.testing.assert_array_equal(counter.fetch(), plain.fetch())
    assert counter.move(torch.device("meta")).device.type == "meta"


def test_every_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(name: str) -> object:
        if name == "optimum.quanto":
            raise ModuleNotFoundError("No module named 'optimum'")
        return None

    monkeypatch.setattr("nfinspect.models.quantised.find_spec", none)
    for method, wanted in (
        ("quanto", "optimum optimum-quanto accelerate"),
        ("fp8", "accelerate"),
        ("bitsandbytes", "bitsandbytes accelerate"),
    ):
        with pytest.raises(ModelError) as error:
            check_packages(method, tmp_path)
        assert str(error.value).endswith(f"pip install {wanted}")


def test_an_adapter_is_not_spread(model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    config = {"base_model_name_or_path": str(model_dir("llama")), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="one device for the adapter"):
        load_model(tmp_path, device="balanced", allow_pickle=True)


# Two devices on a machine that has one: torch's meta device, whose tensors have no values, is the first. An operation
# on tensors of both fails.

DEVICES = torch.device("meta"), torch.device("cpu")


def device_of(layer: int) -> torch.device:
    return DEVICES[layer // 2]


own_to = torch.Tensor.to


def moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to, with zeros for values that the meta device does not have."""
    try:
        return own_to(tensor, *args, **kwargs)
    except NotImplementedError:
        return torch.zeros_like(tensor, device=DEVICES[1])


@pytest.fixture
def on_two_devices(monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A Llama whose third block is on the second device. What enters a part is brought there, as accelerate does it."""
    from accelerate.utils import send_to_device

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: [0.0] * tensor.numel())  # a value is asked for
    asked = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: tensor.is_meta or asked(tensor))
    monkeypatch.setattr("nfinspect.capturing.reading.workplace", lambda tensor: tensor.device)
    for name in ("__init__", "saw", "remove"):  # it compares values
        monkeypatch.setattr(f"nfinspect.models.hooks.FirstPassCheck.{name}", lambda *given: None)
    model = FAMILIES["llama"]()
    parts = [(model.model.embed_tokens, 0), (model.model.rotary_emb, 0), (model.model.norm, 2), (model.lm_head, 2)]
    for part, layer in (*parts, *((block, i) for i, block in enumerate(model.model.layers))):
        device = device_of(layer)
        part.to(device)
        part._hf_hook = Hook(device)
        for owner in part.modules():
            owner._hf_hook = Hook(device)
        part.register_forward_pre_hook(
            lambda module, args, kwargs, device=device: (send_to_device(args, device), send_to_device(kwargs, device)),
            with_kwargs=True,
        )
    return model


def devices_in(values: Mapping[int, LayerValues]) -> dict[int, set[torch.device]]:
    """Where the values and gates of each layer are."""
    return {
        layer_id: {torch.device(one.device) for one in (layer.values, layer.fired) if one is not None}
        for layer_id, layer in values.items()
    }


def test_values_stay_on_the_device_of_their_layer(on_two_devices: PreTrainedModel) -> None:
    loaded = in_memory(on_two_devices, word_tokenizer())
    assert loaded.places == "meta, cpu"
    sites = find_sites(on_two_devices, ["mlp", "attn", "resid"])
    reader = BatchReader(loaded, sites)
    expected = {layer_id: {device_of(site.layer)} for layer_id, site in enumerate(sites)}
    assert devices_in(reader.replay([[5, 6, 7, 8], [9, 10, 11, 12]])) == expected

    def generate() -> list[list[int]]:
        cache = DynamicCache()
        for tokens in (3, 1, 1):
            ids = torch.zeros((2, tokens), dtype=torch.long, device=DEVICES[0])
            on_two_devices.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return [[5, 6, 7, 1, 1], [8, 9, 1, 1]]

    _, values = reader.live(generate, [[5, 6, 7], [8, 9]])
    assert devices_in(values) == expected
    assert all(layer.values.shape[0] == 9 for layer in values.values())
