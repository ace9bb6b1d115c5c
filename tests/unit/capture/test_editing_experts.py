"""Edits of the neurons of a mixture of experts, against weights that are changed instead, and sums made by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from experts_by_hand import EXPERTS, WIDTH, _neurons, model_of
from torch import Tensor
from words import word_tokenizer

from nfinspect.models import SiteReader, WrongSite, find_sites, forward_batch, in_memory
from nfinspect.models.editing import NeuronEdit, edited

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
LAYER = 1
EDITED = [3, 2 * WIDTH + 1, 2 * WIDTH + 4]
"""Neurons of experts 0 and 2."""


def logits(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return found


def edits(model: Any, kind: Any, amount: float = 0.0) -> list[NeuronEdit]:
    (site,) = find_sites(model, ["mlp"], [LAYER], experts=True)
    assert site.experts == EXPERTS
    return [NeuronEdit(kind, site, np.array(EDITED), amount)]


def edited_logits(model: Any, these: list[NeuronEdit], ids: list[int], start: int = 0) -> Tensor:
    with edited(in_memory(model, word_tokenizer()), these, start):
        return logits(model, ids)


def output_row(experts: Any, neuron: int) -> Tensor:
    """What an expert's output projection makes of one neuron: [hidden]; a view."""
    weight = experts.down_proj[neuron // WIDTH]
    row: Tensor = weight[neuron % WIDTH] if experts.is_transposed else weight[:, neuron % WIDTH]
    return row


@pytest.mark.parametrize("how", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize(("kind", "amount"), [("zero", 0.0), ("scale", -1.5)])
def test_zero_and_scale_are_as_if_the_output_weights_were_changed(
    kind: Any, amount: float, family: str, how: str
) -> None:
    model = model_of(family, how)
    plain = logits(model, PROMPT)
    found = edited_logits(model, edits(model, kind, amount), PROMPT)
    assert torch.equal(logits(model, PROMPT), plain), "the model is as it was"
    with torch.no_grad():
        for neuron in EDITED:
            output_row(model.model.layers[LAYER].mlp.experts, neuron).mul_(amount)
    torch.testing.assert_close(found, logits(model, PROMPT), rtol=1e-4, atol=1e-6)
    assert (found - plain).abs().max() > 1e-5


@pytest.mark.parametrize("how", ["eager", "grouped_mm"])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize(("kind", "start"), [("add", 0), ("clamp", 0), ("clamp", 4)])
def test_add_and_clamp_are_on_the_tokens_routed_to_the_expert(kind: Any, start: int, family: str, how: str) -> None:
    """By hand: what a neuron's value gains times its output weights and the router's weight, where it was chosen."""
    model, amount = model_of(family, how), 0.75
    found = edited_logits(model, edits(model, kind, amount), PROMPT, start)
    changed: list[int] = []

    def by_hand(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden, index, weights = args
        total = output.clone().reshape(len(hidden), -1)
        for token in range(start, len(hidden)):
            for place, expert in enumerate(index[token].tolist()):
                values, _ = _neurons(model.config, module, expert, hidden[token])
                for neuron in EDITED:
                    if neuron // WIDTH == expert:
                        gain = amount if kind == "add" else amount - values[neuron % WIDTH]
                        total[token] += gain * weights[token, place] * output_row(module, neuron)
                        changed.append(token)
        return total.view_as(output)

    handle = model.model.layers[LAYER].mlp.experts.register_forward_hook(by_hand)
    expected = logits(model, PROMPT)
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert changed and (start == 0 or min(changed) >= start)


def test_padding_and_a_reader_around_an_edit() -> None:
    """A reader sees what the model goes on with; left padding moves no position."""
    model = model_of("mixtral")
    batch = forward_batch(model, [PROMPT, PROMPT[:3]], pad_id=0, padding_side="left")
    these = edits(model, "clamp", 0.5)
    seen: list[Tensor] = []
    routed: list[Tensor] = []
    with (
        edited(in_memory(model, word_tokenizer()), these, 1),
        SiteReader(
            model,
            [these[0].site],
            lambda site, values, fired: seen.append(values.clone()),
            routing=lambda site, choice: routed.append(choice.experts.clone()),
        ) as reader,
        torch.no_grad(),
    ):
        reader.begin(*batch.input_ids.shape, batch.valid)
        out = model(**batch.inputs()).logits
        reader.end()
    for row, ids in enumerate((PROMPT, PROMPT[:3])):
        alone = edited_logits(model, these, ids, 1)
        torch.testing.assert_close(out[row, -len(ids) :], alone, rtol=1e-4, atol=1e-5)
    values, experts = seen[0][0].unflatten(-1, (-1, WIDTH)), routed[0][0]
    clamped = 0
    for token in range(len(PROMPT)):
        for place, expert in enumerate(experts[token].tolist()):
            for neuron in EDITED:
                if neuron // WIDTH == expert:
                    is_half = bool(values[token, place, neuron % WIDTH] == 0.5)
                    assert is_half == (token >= 1)
                    clamped += is_half
    assert clamped


def test_experts_whose_neurons_do_not_pass_the_activation_are_refused() -> None:
    model = model_of("mixtral")
    experts = model.model.layers[LAYER].mlp.experts
    own = type(experts).forward
    try:
        type(experts).forward = lambda self, hidden, index, weights: hidden
        with pytest.raises(WrongSite, match="one for each token and expert chosen for it, found 0"):
            edited_logits(model, edits(model, "zero"), PROMPT)
    finally:
        type(experts).forward = own
