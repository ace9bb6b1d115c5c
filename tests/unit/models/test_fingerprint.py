"""Whether two models have the same weights, asked by what they answer: in any form of the same, and in no other."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from families import FAMILIES
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from nfinspect.models import Fingerprint, OtherWeights, check_same_weights, fingerprint, in_memory
from nfinspect.models.fingerprint import difference
from nfinspect.models.load import LoadedModel


class NoTokenizer:
    """Nothing is tokenised here."""

    pad_token_id = 0
    eos_token_id = 2


class LowRank(nn.Module):
    """An adapter beside a weight: W + B·A, made whenever it is used."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, weight.shape[1]) * 0.3)
        self.b = nn.Parameter(torch.randn(weight.shape[0], 2) * 0.3)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.b @ self.a


def loaded(model: PreTrainedModel) -> LoadedModel:
    return in_memory(model, NoTokenizer())  # type: ignore[arg-type]


def kept(model: PreTrainedModel) -> Fingerprint:
    """As a run's settings give it back."""
    return Fingerprint.from_json(json.loads(json.dumps(fingerprint(loaded(model)).to_json())))


def projection(model: PreTrainedModel, layer: int = 1) -> nn.Module:
    return dict(model.named_modules())[f"model.layers.{layer}.mlp.down_proj"]


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon_alibi", "mamba2"])
def test_the_same_weights_in_another_precision_are_the_same(family: str) -> None:
    model = FAMILIES[family]()
    then = kept(model)
    assert difference(then, fingerprint(loaded(model), then)).logits < 1e-5
    for dtype in (torch.float16, torch.bfloat16):
        check_same_weights(then, loaded(copy.deepcopy(model).to(dtype)), "r")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_trained_weights_are_others_wherever_they_were_trained(family: str) -> None:
    """Every matrix of the model, one at a time, by 5 % of its spread; embeddings may not be among the tokens asked."""
    model = FAMILIES[family]()
    then = kept(model)
    asked = dict(model.named_parameters())
    for name, weight in asked.items():
        if weight.ndim < 2 or "embed" in name or "wte" in name or "wpe" in name or "conv1d" in name:
            continue
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.05 * weight.std() * torch.randn_like(weight))
        found = difference(then, fingerprint(loaded(model), then))
        assert not found.same, name
        with torch.no_grad():
            weight.copy_(before)
    assert difference(then, fingerprint(loaded(model), then)).same


def test_an_adapter_is_its_merged_model_and_not_the_one_below_it() -> None:
    torch.manual_seed(0)
    base = FAMILIES["llama"]()
    adapted = copy.deepcopy(base)
    parametrize.register_parametrization(projection(adapted), "weight", LowRank(projection(adapted).weight))
    then = kept(adapted)
    merged = copy.deepcopy(adapted)
    parametrize.remove_parametrizations(projection(merged), "weight", leave_parametrized=True)
    assert check_same_weights(then, loaded(merged), "r") == ""
    check_same_weights(then, loaded(copy.deepcopy(merged).bfloat16()), "r")
    with pytest.raises(
        OtherWeights, match=r"that r was captured from, found others .* layer 1 on, .* differ by \d"
    ) as no:
        check_same_weights(then, loaded(base), "r")
    assert "\n" not in str(no.value) and "layer 1 on" in no.value.short


def test_what_follows_the_blocks_counts_too() -> None:
    model = FAMILIES["llama"]()
    then = kept(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.1)  # type: ignore[union-attr]
    with pytest.raises(OtherWeights, match="from the logits alone"):
        check_same_weights(then, loaded(model), "r")


def test_quantised_weights_are_given_room_and_said() -> None:
    model = FAMILIES["llama"]()
    then = kept(model)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if name.endswith("proj.weight"):
                step = weight.abs().amax(1, keepdim=True) / 7
                weight.copy_((weight / step).round() * step)
    with pytest.raises(OtherWeights):
        check_same_weights(then, loaded(rounded), "r")
    rounded.hf_quantizer = object()  # type: ignore[assignment]  # as transformers leaves it on a model that it has quantised
    assert "quantised weights" in check_same_weights(then, loaded(rounded), "r")


def test_another_model_is_named() -> None:
    then = kept(FAMILIES["llama"]())
    with pytest.raises(OtherWeights, match="expected the llama model that r was captured from, found a opt"):
        check_same_weights(then, loaded(FAMILIES["opt"]()), "r")


@pytest.mark.parametrize(
    "damage",
    [
        {"token_ids": []},
        {"token_ids": None},
        {"token_ids": [-1]},
        {"token_ids": [1.5]},
        {"token_ids": [True]},
        {"vocabulary": [3]},
        {"vocabulary": "abc"},
        {"logits": [1.0]},
        {"logits": ["1"] * 64},
        {"layers": None},
        {"layers": [[1.0]]},
        {"layers": [1.0]},
        {"layers": [[10**400] * 5]},
        {"layers": [["1"] * 5]},
        {"model_type": None},
        {"dtype": 5},
        {"quantised": "no"},
    ],
    ids=str,
)
def test_a_damaged_fingerprint_is_one_line(damage: dict[str, object]) -> None:
    good = json.loads(json.dumps(fingerprint(loaded(FAMILIES["gpt2"]())).to_json()))
    without = {name: value for name, value in good.items() if name not in damage}
    for document in ({**good, **damage}, without):
        with pytest.raises(OtherWeights, match=r"^expected the fingerprint of the run's model .* is damaged") as error:
            Fingerprint.from_json(document)
        assert "\n" not in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize("document", [None, [], {}, "{}", 7, [[1]]], ids=str)
def test_what_is_no_fingerprint_is_one_line(document: object) -> None:
    with pytest.raises(OtherWeights, match="is damaged"):
        Fingerprint.from_json(document)


def test_a_field_of_a_later_version_is_left_alone() -> None:
    then = fingerprint(loaded(FAMILIES["gpt2"]()))
    assert Fingerprint.from_json({**json.loads(json.dumps(then.to_json())), "kernel": "flash"}) == then


def test_longer_than_the_model_reads_is_another_model() -> None:
    model = FAMILIES["gpt2"]()
    then = replace(kept(model), token_ids=(5,) * 65)
    with pytest.raises(OtherWeights, match="reads 64 tokens at most"):
        check_same_weights(then, loaded(model), "r")


def test_what_is_not_finite_agrees_with_nothing() -> None:
    then = kept(FAMILIES["gpt2"]())
    for now in (replace(then, logits=(math.nan,) * 64), replace(then, layers=((math.nan,) * 5,) * 3)):
        assert not difference(then, now).same


def test_a_token_that_a_config_names_is_not_asked() -> None:
    """That of an image among the words, say, which a model takes with an image alone."""
    model = FAMILIES["gpt2"]()

    def refuse(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if bool(torch.isin(args[0], torch.tensor(named)).any()):
            raise ValueError("expected an image")

    model.get_input_embeddings().register_forward_pre_hook(refuse)
    named: list[int] = []
    asked = fingerprint(loaded(model)).token_ids
    named = list(asked[::2])
    model.config.image_token_id, *model.config.other_token_id = named
    again = kept(model)
    assert len(again.token_ids) == len(set(again.token_ids)) == len(asked) and not {*named} & {*again.token_ids}
    assert check_same_weights(again, loaded(model), "r") == ""


def test_asking_changes_nothing() -> None:
    """Not the modes of the modules, some of which may be in eval mode already, not the weights, not the generator."""
    model = FAMILIES["gpt2"]().train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    first = kept(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    assert kept(model.eval()) == first
