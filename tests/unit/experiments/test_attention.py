"""Attention neurons: planted ones found, scores equal to their formulas, gradients equal to finite differences."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, UNKNOWN, gpt2
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, PreTrainedModel
from words import word_tokenizer

from nfinspect.analysis.attention_scores import AttentionScores
from nfinspect.analysis.attention_weights import attended, rollout
from nfinspect.experiments.attention import MAP_TOKENS, attention
from nfinspect.experiments.attention_sources import attention_source
from nfinspect.experiments.errors import AttentionUnavailable, GradientUnavailable
from nfinspect.experiments.value_gradients import read_gradients
from nfinspect.models import LayerSite, LoadedModel, UnknownSite, find_sites, in_memory
from nfinspect_store.errors import RequestError

IDS = [5, 17, 8, 99, 23, 4, 61, 17, 30]
SHORT = [44, 9, 73]
BY_ATTENTION = ("attention_weighted", "rollout")
METHODS = (*BY_ATTENTION, "gradient_guided")


def loaded_of(model: PreTrainedModel) -> LoadedModel:
    return in_memory(model, word_tokenizer())


def eager(family: str) -> LoadedModel:
    loaded = loaded_of(FAMILIES[family]())
    if "mamba" not in family:
        loaded.model.set_attn_implementation("eager")
    return loaded


def matrix(found: AttentionScores, column: str = "score") -> np.ndarray:
    """float64[layers, neurons] of a column of the scores."""
    table = found.scores.sort_by([("layer", "ascending"), ("neuron", "ascending")])
    values = np.array(table.column(column).to_pylist(), float)
    return values.reshape(len(found.layers), -1)


def values_of(loaded: LoadedModel, ids: Sequence[int]) -> list[np.ndarray]:
    """What the default site holds, read by hooks of this test: float64[tokens, neurons] by layer."""
    values: list[np.ndarray] = []
    sites = find_sites(loaded.model)
    handles = [
        loaded.model.get_submodule(site.module).register_forward_pre_hook(
            lambda module, args, site=site: values.append(args[0].reshape(len(ids), site.neurons).double().numpy())
        )
        for site in sites
    ]
    with torch.no_grad():
        loaded.model(torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return values


# Scores by attention


def planted(position: int) -> GPT2LMHeadModel:
    """Every head attends to `position` from there on, and neuron 5 of layer 1 is active there alone."""
    model = gpt2("relu")
    assert isinstance(model, GPT2LMHeadModel)
    mark = torch.zeros(16)
    mark[0], mark[1] = 1.0, -1.0  # mean 0: it passes a LayerNorm
    with torch.no_grad():
        model.transformer.wpe.weight[position] += 100 * mark
        for block in model.transformer.h:
            for norm in (block.ln_1, block.ln_2):
                norm.weight.fill_(1.0), norm.bias.zero_()
            block.attn.c_attn.bias[:16] = 1.0  # queries: the same everywhere
            block.attn.c_attn.weight[:, 16:32] += torch.outer(mark, torch.ones(16))  # keys: where the mark stands
        mlp = model.transformer.h[1].mlp
        mlp.c_fc.weight[:, 5] = 10 * mark
        mlp.c_fc.bias[5] = -30.0
        mlp.c_proj.weight[5] = 0.0
    return model


@pytest.mark.parametrize("method", BY_ATTENTION)
def test_a_neuron_planted_where_attention_goes_is_first(method: str) -> None:
    loaded = loaded_of(planted(4))
    found = attention(loaded, [IDS, [*IDS, *SHORT]], method)  # type: ignore[arg-type]
    first, second = found.neurons(2)
    assert (first.rank, first.site, first.address) == (1, "mlp", "L1/N5")
    assert first.score is not None and second.score is not None and first.score > 3 * abs(second.score)
    assert first.first_activation == 0 and first.mean_activation > 1


def test_position_0_counts_in_no_score_and_is_reported_apart() -> None:
    loaded = loaded_of(planted(0))
    found = attention(loaded, [IDS])
    neuron = next(row for row in found.scores.to_pylist() if (row["layer"], row["neuron"]) == (1, 5))
    assert neuron["score"] == 0 and neuron["mean_activation"] == 0 and neuron["first_activation"] > 10
    assert all(layer.sink is not None and layer.sink > 0.9 for layer in found.layers)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gemma2", "mamba", "mamba2", "falcon_mamba"])
@pytest.mark.parametrize("method", BY_ATTENTION)
def test_scores_are_their_formula(method: str, family: str) -> None:
    loaded = eager(family)
    maps = [layer.weights for layer in attention_source(loaded).read(IDS).values()]
    by_layer = rollout(maps) if method == "rollout" else [attended(m) for m in maps]
    values = values_of(loaded, IDS)
    expected = [(w[1:, None] * a[1:]).sum(0) - a[1:].mean(0) for w, a in zip(by_layer, values, strict=True)]
    found = attention(loaded, [IDS], method)  # type: ignore[arg-type]
    assert matrix(found) == pytest.approx(np.stack(expected), abs=1e-9)
    assert matrix(found, "mean_activation") == pytest.approx(np.stack([a[1:].mean(0) for a in values]), abs=1e-9)
    assert matrix(found, "first_activation") == pytest.approx(np.stack([a[0] for a in values]), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "mamba"])
def test_a_score_is_the_mean_over_the_prompts_that_have_two_tokens(family: str, method: str) -> None:
    loaded = eager(family)
    one, other = (matrix(attention(loaded, [ids], method)) for ids in (IDS, SHORT))  # type: ignore[arg-type]
    both = attention(loaded, [IDS, [7], SHORT], method)  # type: ignore[arg-type]
    assert matrix(both) == pytest.approx((one + other) / 2, abs=1e-12)
    assert (both.prompts, both.samples, both.tokens) == (3, 2, len(IDS) + len(SHORT))
    assert both.notes == (
        "left out, as they have a single token: 1 of 3 prompts",
        "only 2 prompts: over other prompts other neurons may be the first",
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "mamba2"])
def test_the_same_again_is_the_same_to_the_last_digit(family: str, method: str) -> None:
    loaded = loaded_of(FAMILIES[family]())
    one, other = (attention(loaded, [IDS, SHORT], method) for _ in range(2))  # type: ignore[arg-type]
    assert one == other
    assert one.to_json(50) == other.to_json(50)


# Gradients


def loss_of(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    given = torch.tensor(list(ids))
    with torch.no_grad():
        return F.cross_entropy(model(given[None]).logits[0, :-1].double(), given[1:], reduction="sum")


def slope(loaded: LoadedModel, site: LayerSite, position: int, neuron: int, step: float) -> float:
    """∂NLL/∂a by a central difference: the value itself is moved on its way into the projection."""

    def moved(by: float) -> float:
        def hook(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = args[0].clone()
            value.view(len(IDS), site.neurons)[position, neuron] += by
            return (value, *args[1:])

        handle = loaded.model.get_submodule(site.module).register_forward_pre_hook(hook)
        loss = float(loss_of(loaded.model, IDS))
        handle.remove()
        return loss

    return (moved(step) - moved(-step)) / (2 * step)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gemma2", "mamba", "mamba2", "falcon_mamba"])
def test_gradients_are_finite_differences(family: str) -> None:
    """In float64; RMS norms and Mamba's scan compute in float32 all the same, and allow no closer comparison."""
    step, tolerance = (1e-4, 1e-6) if family in ("gpt2", "opt") else (1e-2, 2e-3)
    loaded = loaded_of(FAMILIES[family]().double())
    seen: dict[LayerSite, tuple[Tensor, Tensor]] = {}

    def sink(site: LayerSite, values: Tensor, gradients: Tensor) -> None:
        seen[site] = values, gradients

    sites = find_sites(loaded.model)
    loss = read_gradients(loaded, sites, IDS, sink)
    assert loss == pytest.approx(float(loss_of(loaded.model, IDS)), rel=1e-6)
    for site in sites:
        values, gradients = seen[site]
        assert values.shape == gradients.shape == (len(IDS), site.neurons)
        assert not gradients[-1].any()  # nothing is predicted from the last token
        largest = float(gradients.abs().max())
        for position, neuron in [
            (0, 1),
            (3, 2),
            (7, site.neurons - 1),
            divmod(int(gradients.abs().argmax()), site.neurons),
        ]:
            expected = slope(loaded, site, position, neuron, step)
            assert float(gradients[position, neuron]) == pytest.approx(expected, abs=tolerance * largest)


def test_gradient_guided_is_the_sum_of_value_times_gradient_with_position_0_apart() -> None:
    loaded = loaded_of(gpt2())
    found = attention(loaded, [IDS], "gradient_guided")
    effects: list[np.ndarray] = []
    read_gradients(loaded, find_sites(loaded.model), IDS, lambda site, a, g: effects.append((a * g).abs().numpy()))
    assert matrix(found) == pytest.approx(np.stack([e[1:].sum(0) for e in effects]), rel=1e-5)
    assert matrix(found, "first_score") == pytest.approx(np.stack([e[0] for e in effects]), rel=1e-5)
    assert found.heads.num_rows == found.attention_map.num_rows == found.map_tokens.num_rows == 0
    assert {(layer.sink, layer.entropy, layer.heads) for layer in found.layers} == {(None, None, None)}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_guided_needs_no_attention_in_any_family(family: str) -> None:
    model = FAMILIES[family]()
    before = [(weight.requires_grad, weight.grad) for weight in model.parameters()]
    assert before[0] == (True, None)
    found = attention(loaded_of(model), [SHORT], "gradient_guided")
    assert (matrix(found) > 0).any(axis=1).all()
    assert [(weight.requires_grad, weight.grad) for weight in model.parameters()] == before
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in model.modules() if isinstance(m, torch.nn.Embedding)
    )


def test_resid_has_gradients_too() -> None:
    loaded = loaded_of(gpt2())
    found = attention(loaded, [IDS], "gradient_guided", site="resid")
    assert matrix(found).shape == (3, 16) and (matrix(found) > 0).all()


def test_a_loss_that_does_not_depend_on_a_layer_is_said() -> None:
    loaded = loaded_of(gpt2())
    block = loaded.model.get_submodule("transformer.h.0.mlp")
    block.register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(GradientUnavailable, match="layer 0"):
        attention(loaded, [IDS], "gradient_guided")


# What is asked for, and what is handed out


def test_layers_and_sites_can_be_chosen() -> None:
    loaded = loaded_of(gpt2())
    whole = attention(loaded, [IDS], "rollout")
    part = attention(loaded, [IDS], "rollout", layers=[1])
    assert [layer.layer for layer in part.layers] == [1]
    assert matrix(part)[0] == pytest.approx(matrix(whole)[1], abs=0)
    assert attention(loaded, [IDS], site="resid").site == "resid"
    with pytest.raises(UnknownSite):
        attention(loaded, [IDS], site="mixer")


def test_heads_and_the_map_of_the_longest_prompt() -> None:
    loaded = eager("llama")
    long = [3 + i % 90 for i in range(64)]
    found = attention(loaded, [SHORT, long[:-1], IDS], texts=lambda ids: [f"t{i}" for i in ids])
    assert found.heads.num_rows == 3 * 4
    heads = np.array(found.heads.column("sink").to_pylist()).reshape(3, 4)
    assert [layer.sink for layer in found.layers] == pytest.approx(heads.mean(1))
    weights = attention_source(loaded).read(long[:-1])[2].weights
    rows = [row for row in found.attention_map.to_pylist() if row["layer"] == 2]
    assert len(rows) == 63 * 64 // 2 and all(row["key"] <= row["query"] < 63 for row in rows)
    assert [row["weight"] for row in rows] == pytest.approx([weights[row["query"], row["key"]] for row in rows])
    assert found.map_tokens.column("token").to_pylist() == [f"t{i}" for i in long[:-1]]


def test_a_map_is_capped() -> None:
    loaded = loaded_of(FAMILIES["mamba"]())
    found = attention(loaded, [[3 + i % 90 for i in range(100)]])
    assert found.map_tokens.num_rows == MAP_TOKENS
    assert max(found.attention_map.column("query").to_pylist()) == MAP_TOKENS - 1


def test_it_can_be_read_back() -> None:
    found = attention(loaded_of(gpt2()), [IDS, SHORT])
    tables = found.tables()
    again = AttentionScores.from_json(found.to_json(3), tables.__getitem__)
    assert again == found
    assert len(found.to_json(3)["neurons"]) == 3  # type: ignore[arg-type]


def refused(make: Callable[[], AttentionScores], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make()


def test_wrong_requests() -> None:
    loaded = loaded_of(gpt2())
    refused(lambda: attention(loaded, [IDS], "attention"), "expected one of the methods")  # type: ignore[arg-type]
    refused(lambda: attention(loaded, [[5], [6]]), "found none among 2")
    refused(lambda: attention(loaded, [IDS, [5] * 65]), "prompt 2 has 65 tokens, the model's context 64")


def test_progress_and_cancelling() -> None:
    loaded = loaded_of(gpt2())
    ticks: list[tuple[int, int]] = []
    attention(loaded, [IDS, SHORT], tick=lambda done, total: ticks.append((done, total)))
    assert ticks == [(1, 2), (2, 2)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for method in METHODS:
        with pytest.raises(KeyboardInterrupt):
            attention(loaded, [IDS, SHORT], method, tick=cancel)  # type: ignore[arg-type]
        assert loaded.model.config._attn_implementation == "sdpa"


def test_an_attention_that_cannot_be_had_is_refused_but_not_its_gradients() -> None:
    config = copy.deepcopy(next(config for config in UNKNOWN if config.model_type == "lfm2"))
    config.layer_types = ["conv", "full_attention"]
    loaded = loaded_of(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(AttentionUnavailable):
        attention(loaded, [IDS], "rollout")
    for method in ("attention_weighted", "gradient_guided"):
        assert attention(loaded, [IDS], method).samples == 1  # type: ignore[arg-type]
