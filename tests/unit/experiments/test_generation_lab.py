"""Texts written with edits are those that hooks written by hand give, token by token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import nfinspect_samples
import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB, compiled_ways
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Model, OpenAIGPTConfig
from words import word_tokenizer

import nfinspect as nf
from nfinspect.experiments.ablation import LayerAblation, ablated
from nfinspect.experiments.generation_lab import Generation, Sampling, control_edits, generation
from nfinspect.models import LoadedModel, ModelError, SilentHook, UnsupportedModel, find_sites, in_memory, load_model
from nfinspect.models.editing import DirectionEdit, Edit, NeuronEdit
from nfinspect_store.errors import RequestError

NEW = 12
NEURONS = np.array([1, 4, 9])
PROMPTS = {"gpt2-relu": "Tulips are red and the", "mamba": "Tulips are red and the"}
WORDS = "w5 w9 w33 w7 w12"
MODELS = ("gpt2-relu", "mamba", "llama", "phi3", "gpt1")
KINDS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "zero": (0.0, lambda a: a * 0),
    "scale": (-6.5, lambda a: a * -6.5),
    "clamp": (9.0, lambda a: a * 0 + 9.0),
    "add": (-7.0, lambda a: a - 7.0),
}


@cache
def loaded_model(name: str) -> LoadedModel:
    if name in PROMPTS:
        return load_model(nfinspect_samples.path(name), device="cpu", dtype="float32")
    if name == "gpt1":  # it has no key-value cache: each step reads the whole text again
        torch.manual_seed(7)
        config = OpenAIGPTConfig(vocab_size=VOCAB, n_embd=16, n_layer=3, n_head=4, n_positions=64)
        return in_memory(AutoModelForCausalLM.from_config(config).eval(), word_tokenizer())
    return in_memory(FAMILIES[name](), word_tokenizer())


def projections(loaded: LoadedModel) -> list[torch.nn.Module]:
    """Those that read the neurons of each layer, found by their names alone."""
    ends = ("mlp.c_proj", "mixer.out_proj", "mlp.down_proj")
    return [module for name, module in loaded.model.named_modules() if name.endswith(ends)]


def by_hand(
    loaded: LoadedModel, ids: list[int], new: int, change: Callable[[Tensor], Tensor], layer: int, start: int
) -> tuple[list[int], Tensor]:
    """Greedy decoding that reads the whole text again for every token, and the logits of the last pass."""

    def hook(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = args[0].clone()
        values[:, start:, NEURONS] = change(values[:, start:, NEURONS])
        return (values, *args[1:])

    handle = projections(loaded)[layer].register_forward_pre_hook(hook)
    ids = list(ids)
    try:
        for _ in range(new):
            with torch.no_grad():
                logits = loaded.model(torch.tensor([ids]), use_cache=False).logits[0]
            ids.append(int(logits[-1].argmax()))
    finally:
        handle.remove()
    return ids, logits


@cache
def unchanged(name: str, prompt: tuple[int, ...]) -> list[int]:
    return by_hand(loaded_model(name), list(prompt), NEW, lambda a: a, 1, 0)[0]


def text_of(name: str) -> str:
    return PROMPTS.get(name, WORDS)


def written(name: str, edits: Sequence[Edit] = (), **options: object) -> Generation:
    options = {"sampling": Sampling(NEW), **options}
    return generation(loaded_model(name), text_of(name), edits, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("zero", 0),
        ("scale", 3),
        ("clamp", 0),
        ("add", 3),
        *(pytest.param(kind, start, marks=pytest.mark.slow) for kind, start in zip(KINDS, (3, 0, 3, 0), strict=True)),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_a_text_with_edited_neurons_is_that_of_a_plain_hook(name: str, kind: str, start: int) -> None:
    loaded = loaded_model(name)
    amount, change = KINDS[kind]
    site = find_sites(loaded.model)[1]
    found = written(name, [NeuronEdit(kind, site, NEURONS, amount)], start=start)  # type: ignore[arg-type]
    assert found.edited is not None and found.comparison is not None
    ids = [token.token_id for token in found.edited.tokens]
    prompt = ids[: found.prompt_tokens]
    expected, logits = by_hand(loaded, prompt, len(ids) - len(prompt), change, 1, start)
    assert ids == expected
    # Every token's surprisal, prompt and text, is that of the hooked model reading the whole.
    nats = -logits.double().log_softmax(-1)
    told = [token.surprisal for token in found.edited.tokens[1:]]
    wanted = [float(nats[i, token]) for i, token in enumerate(ids[1:])]
    np.testing.assert_allclose(told, wanted, rtol=0, atol=2e-4)
    plain = unchanged(name, tuple(prompt))
    assert [token.token_id for token in found.original.tokens] == plain[: len(found.original.tokens)]
    assert found.edited.nll == pytest.approx(np.mean(wanted[: len(prompt) - 1]), abs=1e-4)
    assert found.comparison.delta_nll == pytest.approx(found.edited.nll - (found.original.nll or 0), abs=1e-12)
    differs = [i for i, (a, b) in enumerate(zip(plain, ids, strict=False)) if a != b]
    assert found.comparison.first_difference == (differs[0] if differs else None)


def test_the_edits_above_do_change_texts() -> None:
    for name in MODELS:
        site = find_sites(loaded_model(name).model)[1]
        changed = [written(name, [NeuronEdit(kind, site, NEURONS, KINDS[kind][0])]) for kind in ("scale", "clamp")]  # type: ignore[arg-type]
        assert any(one.comparison is not None and one.comparison.first_difference is not None for one in changed), name


@pytest.mark.parametrize("start", [0, 2])
def test_values_that_edits_change_are_counted(start: int) -> None:
    """Zeroing a ReLU's neurons changes those that fire: as many as a plain hook sees. Adding changes all."""
    loaded = loaded_model("gpt2-relu")
    site = find_sites(loaded.model)[1]
    zeroed = written("gpt2-relu", [NeuronEdit("zero", site, NEURONS)], start=start)
    assert zeroed.edited is not None and zeroed.comparison is not None
    ids, seen = [token.token_id for token in zeroed.edited.tokens], []
    module = dict(loaded.model.named_modules())[site.module]
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        loaded.model(torch.tensor([ids]))
    hook.remove()
    fire = int((seen[0][0, start:, NEURONS] != 0).sum())
    assert 0 < fire < (len(ids) - start) * len(NEURONS) and zeroed.comparison.changed_values == fire
    added = written("gpt2-relu", [NeuronEdit("add", site, NEURONS, 9.0)], start=start)
    assert added.edited is not None and added.comparison is not None
    assert added.comparison.changed_values == (len(added.edited.tokens) - start) * len(NEURONS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_scale_1_is_the_same_to_the_last_bit(name: str, temperature: float) -> None:
    sites = find_sites(loaded_model(name).model) + find_sites(loaded_model(name).model, ["resid"])
    edits = [NeuronEdit("scale", site, np.arange(site.neurons), 1.0) for site in sites]
    found = written(name, edits, sampling=Sampling(NEW, temperature, 3))
    assert found.edited == found.original
    assert found.comparison is not None
    assert found.comparison.delta_nll == 0 and found.comparison.first_difference is None
    assert found.comparison.changed_values == 0
    assert all(one.original == one.edited for one in found.next)
    assert found.original == written(name, sampling=Sampling(NEW, temperature, 3)).original


def test_edits_from_the_end_of_the_prompt_on_leave_the_prompt_alone() -> None:
    site = find_sites(loaded_model("gpt2-relu").model)[3]
    edits = [NeuronEdit("add", site, np.arange(40), 9.0)]
    prompt = written("gpt2-relu").prompt_tokens
    found = written("gpt2-relu", edits, start=prompt)
    assert found.comparison is not None and found.comparison.delta_nll == 0
    assert all(one.original == one.edited for one in found.next)
    assert found.comparison.first_difference is not None and found.comparison.first_difference > prompt


def test_a_direction_is_added_to_the_blocks_output() -> None:
    loaded = loaded_model("gpt2-relu")
    (site,) = find_sites(loaded.model, ["resid"], [2])
    vector = np.random.default_rng(1).normal(size=site.neurons).astype(np.float32)
    found = written("gpt2-relu", [DirectionEdit("d", site, vector, 1.5)], start=1)
    assert found.edited is not None

    def hook(module: object, args: object, output: tuple[Tensor, ...] | Tensor) -> tuple[Tensor, ...] | Tensor:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        hidden[:, 1:] += 1.5 * torch.tensor(vector)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = loaded.model.transformer.h[2].register_forward_hook(hook)
    try:
        ids = [token.token_id for token in found.edited.tokens]
        expected, logits = by_hand(loaded, ids[: found.prompt_tokens], NEW, lambda a: a, 0, 0)
    finally:
        handle.remove()
    assert ids == expected != [token.token_id for token in found.original.tokens]
    after = logits[found.prompt_tokens - 1].double().softmax(-1)
    for one in found.next:
        assert one.edited == pytest.approx(float(after[one.token_id]), abs=1e-5)
    best = sorted(found.next, key=lambda one: -(one.edited or 0))[:10]
    assert {one.token_id for one in best} == set(after.topk(10).indices.tolist())


@contextmanager
def values_read(loaded: LoadedModel) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda m, args: seen.append(args[0][0].clone()))
        for module in projections(loaded)
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", MODELS)
def test_strongest_neurons_are_those_of_one_pass_over_the_whole(name: str) -> None:
    loaded = loaded_model(name)
    told: list[tuple[str, int]] = []
    found = written(name, top=2, tell=lambda side, token: told.append((side, token.position)))
    tokens = found.original.tokens
    assert told == [("original", i) for i in range(len(tokens))]
    assert found.edited is None and found.comparison is None
    with values_read(loaded) as seen, torch.no_grad():
        loaded.model(torch.tensor([[token.token_id for token in tokens]]), use_cache=False)
    for place, token in enumerate(tokens):
        assert token.generated == (place >= found.prompt_tokens)
        assert [layer for layer, _, _ in token.strongest] == [i for i in range(len(seen)) for _ in range(2)]
        for layer, neuron, value in token.strongest:
            of_layer = seen[layer].reshape(len(tokens), -1)[place]
            assert value == pytest.approx(float(of_layer[neuron]), abs=1e-4)
            assert abs(value) >= float(of_layer.abs().topk(2).values[-1]) - 1e-4
    assert all(not token.strongest for token in written(name, top=0).original.tokens)


def test_draws_depend_on_the_seed_alone() -> None:
    one, again, other = (written("gpt2-relu", sampling=Sampling(NEW, 1.0, seed)) for seed in (5, 5, 6))
    assert one == again
    assert one.original.tokens != other.original.tokens
    greedy = [written("gpt2-relu", sampling=Sampling(NEW, 0.0, seed)).original for seed in (5, 6)]
    assert greedy[0] == greedy[1]


def test_controls_are_edits_of_the_same_size_elsewhere() -> None:
    loaded = loaded_model("gpt2-relu")
    site = find_sites(loaded.model)[1]
    (resid,) = find_sites(loaded.model, ["resid"], [2])
    vector = np.arange(resid.neurons, dtype=np.float32)
    edits: list[Edit] = [
        NeuronEdit("clamp", site, NEURONS, 9.0),
        NeuronEdit("scale", site, np.array([4, 7]), 2.0),
        DirectionEdit("d", resid, vector, 0.5),
    ]
    drawn, notes = control_edits(edits, 20, 3)
    assert len(drawn) == 20 and notes == []
    for clamp, scale, direction in drawn:
        assert isinstance(clamp, NeuronEdit) and isinstance(scale, NeuronEdit) and isinstance(direction, DirectionEdit)
        assert (clamp.kind, clamp.amount, len(set(clamp.neurons.tolist()))) == ("clamp", 9.0, 3)
        assert not {1, 4, 9, 7} & {*clamp.neurons.tolist(), *scale.neurons.tolist()}
        assert clamp.neurons[1] == scale.neurons[0]  # one neuron, edited twice
        assert np.linalg.norm(direction.vector) == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        assert abs(direction.vector @ vector) < 0.7 * np.linalg.norm(vector) ** 2
    found = written("gpt2-relu", edits[:1], controls=20, sampling=Sampling(2, seed=3))
    assert found.comparison is not None and found.comparison.control.count == 20
    costs = []
    for (control,) in control_edits(edits[:1], 20, 3)[0][:2]:
        again = written("gpt2-relu", [control], sampling=Sampling(2))
        assert again.comparison is not None
        costs.append(again.comparison.delta_nll)
    assert found.comparison.control.delta_nlls[:2] == tuple(costs)
    whole, said = control_edits([NeuronEdit("zero", site, np.arange(site.neurons - 3))], 20, 0)
    assert whole == [] and "fewer are left" in said[0]


def test_what_does_not_fit_is_refused() -> None:
    loaded = loaded_model("gpt2-relu")
    with pytest.raises(RequestError, match="one token or more"):
        generation(loaded, "")
    limit = loaded.max_context
    with pytest.raises(RequestError, match=f"context of {limit} tokens, found 1 and --new-tokens {limit}"):
        generation(loaded, "T", sampling=Sampling(limit or 0))


def test_logits_that_are_no_numbers_end_the_writing_too() -> None:
    site = find_sites(loaded_model("gpt2-relu").model)[1]
    prompt = written("gpt2-relu").prompt_tokens
    with pytest.raises(ModelError, match="expected finite logits"):  # the prompt is read without the edit
        written("gpt2-relu", [NeuronEdit("clamp", site, NEURONS, 3e38)], start=prompt)


@pytest.mark.parametrize("way", compiled_ways())
def test_a_compiled_model_is_edited_as_the_model_itself(way: str) -> None:
    def found(model: Any) -> dict[str, object]:
        return nf.generate(model, word_tokenizer(), WORDS, clamp="L1/N3=9", new_tokens=5, controls=0).to_json()

    model = FAMILIES["gpt2"]()
    plain = found(model)
    compiled = compiled_ways()[way](model)
    assert found(compiled) == plain
    assert plain["original"] != plain["edited"]


def test_edits_that_no_pass_saw_are_an_error() -> None:
    loaded = loaded_model("llama")
    changes = [LayerAblation(find_sites(loaded.model)[1], NEURONS)]
    with (
        pytest.raises(SilentHook, match="expected a forward pass of LlamaForCausalLM that calls its hooks, found none"),
        ablated(loaded, changes),
    ):
        pass
    with pytest.raises(KeyError), ablated(loaded, changes):
        raise KeyError
    with ablated(loaded, []):
        pass


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"top": 101}, {"top": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="expected a seed of 0 or more and a top of 0 to 100, found"):
        nf.generate(FAMILIES["gpt2"](), word_tokenizer(), WORDS, **wrong)  # type: ignore[arg-type]


def test_a_model_without_a_vocabulary_head_is_refused() -> None:
    model = GPT2Model(FAMILIES["gpt2"]().config).eval()
    with pytest.raises(UnsupportedModel, match="expected a model with a vocabulary head, .* found GPT2Model"):
        nf.generate(model, word_tokenizer(), WORDS)
