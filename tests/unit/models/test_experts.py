"""The neurons of mixtures of experts: those computed by hand, at the tokens that the router chose, however they run."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers as tf
from experts_by_hand import CHOSEN, CONFIGS, EXPERTS, WIDTH, ByHand, by_hand, model_of
from families import _ROPE, _build
from torch import Tensor
from transformers.integrations import moe

from nfinspect.models import (
    LayerSite,
    Routing,
    SiteReader,
    UnsupportedModel,
    WrongSite,
    body,
    default_site,
    find_sites,
    forward_batch,
    why_no_mlp,
)

PROMPTS = [[5, 9, 11, 23, 40, 8, 77], [50, 13, 17], [7, 8, 9, 10, 61]]
WAYS = ("eager", "batched_mm", "grouped_mm")


def read(model: Any, ids: list[list[int]], side: str = "right") -> dict[LayerSite, tuple[Any, ...]]:
    """values, fired and routing of every prompt, [tokens, …], as SiteReader gives them in one padded pass."""
    seen: dict[LayerSite, Any] = {}
    chosen: dict[LayerSite, Routing] = {}
    sites = [site for site in find_sites(model, ["mlp"], experts=True) if site.experts]
    batch = forward_batch(model, ids, pad_id=0, padding_side=side)

    def take(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        assert fired is not None
        seen[site] = values.clone(), fired.clone(), chosen[site]

    with SiteReader(model, sites, take, routing=chosen.__setitem__) as reader, torch.no_grad():
        reader.begin(*batch.input_ids.shape, batch.valid)
        body(model)(**batch.inputs())
        reader.end()
    return {
        site: tuple(
            (values[i, batch.columns(i)], fired[i, batch.columns(i)], routing.experts[i, batch.columns(i)],
             routing.weights[i, batch.columns(i)])
            for i in range(len(ids))
        )
        for site, (values, fired, routing) in seen.items()
    }  # fmt: skip


def spread(values: Tensor, experts: Tensor) -> Tensor:
    """[tokens, chosen * width] of the chosen experts as [tokens, experts * width], NaN elsewhere."""
    whole = torch.full((len(values), EXPERTS, values.shape[1] // CHOSEN), float("nan"))
    for token, chosen in enumerate(experts.tolist()):
        for place, expert in enumerate(chosen):
            whole[token, expert] = values[token].view(CHOSEN, -1)[place].float()
    return whole.flatten(1)


@pytest.fixture(scope="module")
def computed() -> Callable[[str], tuple[Any, list[dict[int, ByHand]]]]:
    """computed(family) -> a model, not to be changed but in how its experts run; and its neurons by hand."""

    @cache
    def of(family: str) -> tuple[Any, list[dict[int, ByHand]]]:
        model = model_of(family, "eager")
        return model, [by_hand(model, ids) for ids in PROMPTS]

    return of


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_values_gates_and_choices_are_those_of_a_loop_by_hand(
    family: str, how: str, side: str, computed: Callable[[str], tuple[Any, list[dict[int, ByHand]]]]
) -> None:
    model, hands = computed(family)
    model.set_experts_implementation(how)
    found = read(model, PROMPTS, side)
    assert {site.layer for site in found} == set(hands[0])
    for site, prompts in found.items():
        assert (site.neurons, site.experts, site.chosen) == (EXPERTS * WIDTH, EXPERTS, CHOSEN)
        assert site.fires == "gate" and site.module.endswith(".experts")
        for hand, ids, (values, fired, experts, weights) in zip(hands, PROMPTS, prompts, strict=True):
            wanted = hand[site.layer]
            torch.testing.assert_close(spread(values, experts), wanted.neurons, rtol=1e-4, atol=1e-6, equal_nan=True)
            gates = wanted.gates.flatten(1)
            clear = gates.abs() > 1e-6
            assert torch.equal(spread(fired, experts)[clear] > 0, gates[clear] > 0)
            assert int(clear.sum()) > 0.9 * CHOSEN * WIDTH * len(ids)
            torch.testing.assert_close(torch.gather(wanted.weights, 1, experts), weights.float(), rtol=1e-4, atol=1e-6)


def test_the_choice_of_a_mixtral_router_is_the_softmax_of_its_own_logits() -> None:
    model = model_of("mixtral")
    seen: list[Tensor] = []
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    found = read(model, [PROMPTS[0]])
    handle.remove()
    (site,) = (site for site in found if site.layer == 1)
    ((_, _, experts, weights),) = found[site]
    logits = seen[0][0] @ model.model.layers[1].mlp.gate.weight.T
    for token, row in enumerate(torch.softmax(logits, -1).tolist()):
        best = sorted(range(EXPERTS), key=lambda e, row=row: -row[e])[:CHOSEN]
        assert experts[token].tolist() == best
        total = sum(row[e] for e in best)
        assert weights[token].tolist() == pytest.approx([row[e] / total for e in best], rel=1e-5)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_reading_changes_no_output_and_leaves_the_model_as_it_was(family: str, how: str) -> None:
    model = model_of(family, how)
    batch = forward_batch(model, PROMPTS, pad_id=0)
    modules = {name: dict(module.__dict__) for name, module in model.named_modules()}
    with torch.no_grad():
        before = model(**batch.inputs()).logits
        sites = find_sites(model, ["mlp"], experts=True)
        outputs = []
        with (
            SiteReader(model, sites, lambda *args: None) as outer,
            SiteReader(model, sites, lambda *args: None) as inner,
        ):
            for reader in (outer, inner):
                reader.begin(*batch.input_ids.shape, batch.valid)
            outputs.append(model(**batch.inputs()).logits)
            for reader in (outer, inner):
                reader.end()
        outputs.append(model(**batch.inputs()).logits)
    for output in outputs:
        assert torch.equal(output, before)
    for name, module in model.named_modules():
        assert module.__dict__.keys() == modules[name].keys(), name
        assert "act_fn" not in module.__dict__ or module.__dict__["act_fn"] is modules[name]["act_fn"]


def test_experts_without_a_gate_fire_where_they_are_positive() -> None:
    config = tf.NemotronHConfig(
        **_ROPE, layers_block_type=["moe", "attention", "moe"], n_routed_experts=EXPERTS, num_experts_per_tok=CHOSEN,
        moe_intermediate_size=WIDTH, moe_shared_expert_intermediate_size=8, head_dim=4, use_mamba_kernels=False,
        mamba_num_heads=4, mamba_head_dim=8, n_groups=2, ssm_state_size=4,
    )  # fmt: skip
    model = _build(config)
    sites = find_sites(model, ["mlp"], experts=True)
    assert [(site.layer, site.fires, site.activation) for site in sites] == [
        (0, "positive", "relu2"),
        (2, "positive", "relu2"),
    ]
    given: list[tuple[Tensor, ...]] = []
    experts = model.get_submodule(sites[0].module)
    handle = experts.register_forward_pre_hook(lambda module, args: given.append(args))
    seen: dict[int, Tensor] = {}
    with SiteReader(model, sites, lambda site, values, fired: seen.setdefault(site.layer, values.clone())) as reader:
        reader.begin(1, len(PROMPTS[0]))
        with torch.no_grad():
            body(model)(torch.tensor([PROMPTS[0]]))
        reader.end()
    handle.remove()
    hidden, index, _ = given[0]
    for token, chosen in enumerate(index.tolist()):
        wanted = [torch.relu(experts.up_proj[expert] @ hidden[token]) ** 2 for expert in chosen]
        torch.testing.assert_close(seen[0][0, token], torch.cat(wanted), rtol=1e-4, atol=1e-6)


def test_what_is_not_read_is_said() -> None:
    model = model_of("qwen2_moe")
    (note,) = {site.note for site in find_sites(model, ["mlp"], experts=True)}
    assert "shared_expert.down_proj" in note and "not read" in note
    assert default_site(model) == "resid" and default_site(model, experts=True) == "mlp"
    assert why_no_mlp(model) == ""
    with pytest.raises(UnsupportedModel, match="mixture of experts.*a capture reads them"):
        find_sites(model, ["mlp"])


def test_a_dense_layer_keeps_its_own_width_beside_experts() -> None:
    sites = find_sites(model_of("qwen3_moe"), ["mlp"], experts=True)
    assert [(site.layer, site.neurons, site.experts) for site in sites] == [
        (0, EXPERTS * WIDTH, EXPERTS),
        (1, _ROPE["intermediate_size"], 0),
        (2, EXPERTS * WIDTH, EXPERTS),
    ]


def test_an_unknown_kernel_or_experts_that_do_something_else_are_refused() -> None:
    model = model_of("mixtral")
    experts = model.model.layers[0].mlp.experts
    own = type(experts).forward
    try:
        type(experts).forward = lambda self, hidden, index, weights: 2 * own(self, hidden, index, weights)
        with pytest.raises(WrongSite, match=r"layers\.0\.mlp\.experts of layer 0 to return what its experts project"):
            read(model, PROMPTS)
        type(experts).forward = lambda self, hidden, index, weights: hidden
        with pytest.raises(WrongSite, match="found 0"):
            read(model, PROMPTS)
    finally:
        type(experts).forward = own
    moe.ALL_EXPERTS_FUNCTIONS.register("own", moe.batched_mm_experts_forward)
    try:
        with pytest.raises(WrongSite, match="to run as eager, batched_mm or grouped_mm, found own"):
            read(model_of("mixtral", "own"), PROMPTS)
    finally:
        moe.ExpertsInterface._global_mapping.pop("own")
    model = model_of("mixtral")
    model.model.layers[0].mlp.experts.down_proj = None
    with pytest.raises(UnsupportedModel, match="packed or quantised"):
        find_sites(model, ["mlp"], experts=True)
