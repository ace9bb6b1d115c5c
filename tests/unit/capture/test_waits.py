"""A step of a captured generation waits for the device as often as transformers' own does: never because of a hook.

There need not be a GPU: what would wait for one is counted on the CPU (waits.py).
"""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experts_by_hand import model_of
from families import FAMILIES
from transformers import GenerationConfig, PreTrainedModel
from waits import Waits, per_step
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.following import FollowedToken, Follower
from nfinspect.capturing.generation import generate
from nfinspect.models import find_sites, in_memory
from nfinspect.models.editing import DirectionEdit, NeuronEdit, edited

PROMPTS = [[5, 9, 8], [11, 12, 13], [20, 21, 22]]
RAGGED = [[5], [9, 8, 7, 6, 5], [11, 12, 13]]


def endless(family: str) -> PreTrainedModel:
    """A model that never ends a text, so that every generation has all its steps."""
    model = FAMILIES[family]()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return model


def bare(model: PreTrainedModel, prompts: list[list[int]]) -> Callable[[int], object]:
    """transformers' generation alone, of prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def write(new: int) -> object:
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None)
        with torch.no_grad():
            return model.generate(ids, attention_mask=mask, generation_config=config)

    return write


@pytest.fixture
def names() -> Iterator[int]:
    return count()


@pytest.mark.parametrize("prompts", [PROMPTS, RAGGED], ids=["of one length", "padded"])
@pytest.mark.parametrize("keep", ["all", "stats"])
@pytest.mark.parametrize(
    ("family", "sites"), [("gpt2", ("mlp", "resid")), ("llama", ("mlp", "attn", "resid")), ("mamba", ("mixer",))]
)
def test_a_step_of_a_live_capture_waits_for_nothing_of_ours(
    family: str, sites: tuple[str, ...], keep: Any, prompts: list[list[int]], names: Iterator[int], tmp_path: Path
) -> None:
    model = endless(family)

    def captured(new: int) -> None:
        nf.capture(
            model, word_tokenizer(), prompts, generate=new, mode="live", sites=sites, keep=keep, batch_size=3,
            store=tmp_path, run=f"run{next(names)}",
        ).close()  # fmt: skip

    captured(2)  # what is found out about a model by running it is found out once
    assert per_step(captured) == per_step(bare(model, prompts))


@pytest.mark.parametrize("how", ["batched_mm", "grouped_mm"])
def test_a_step_of_experts_waits_for_nothing_of_ours(how: str, names: Iterator[int], tmp_path: Path) -> None:
    model = model_of("mixtral", how)
    model.generation_config.eos_token_id = model.config.eos_token_id = None

    def captured(new: int) -> None:
        nf.capture(
            model, word_tokenizer(), RAGGED, generate=new, mode="live", sites=("mlp",), keep="stats", batch_size=3,
            store=tmp_path, run=f"run{next(names)}",
        ).close()  # fmt: skip

    captured(2)
    assert per_step(captured) == per_step(bare(model, RAGGED))


def test_a_sampled_step_sends_its_noise_and_waits_for_nothing_else() -> None:
    """On a CUDA GPU the noise goes from pinned memory, which nothing waits for."""
    model = endless("llama")

    def sampled(new: int) -> object:
        return generate(
            model, PROMPTS, new_tokens=new, prompt_indices=range(3), pad_id=0, seed=0, temperature=1.0, read_last=True
        )

    own = per_step(bare(model, PROMPTS))
    assert per_step(sampled) == {**own, "to": own.get("to", 0) + 1}


def test_an_edited_step_waits_for_nothing_of_ours() -> None:
    model = endless("llama")
    loaded = in_memory(model, word_tokenizer())
    first, second = find_sites(model)[:2]
    (last,) = find_sites(model, ["resid"], [2])
    chosen = np.array([3, 1])
    edits = [
        NeuronEdit("zero", first, chosen),
        NeuronEdit("scale", first, chosen + 2, 0.5),
        NeuronEdit("clamp", second, chosen, 2.0),
        NeuronEdit("add", second, chosen + 2, 1.0),
        DirectionEdit("up", last, np.ones(16, np.float32), 0.5),
    ]

    def written(new: int) -> object:
        with edited(loaded, edits, start=2):
            return generate(model, RAGGED, new_tokens=new, prompt_indices=range(3), pad_id=0, seed=0, temperature=0.0)

    written(2)  # what is found out about a model by running it is found out once
    assert per_step(written) == per_step(bare(model, RAGGED))


def test_an_edited_step_that_some_rows_have_not_reached_sends_once_which_have() -> None:
    """On a CUDA GPU that goes from pinned memory, as the noise does, however many layers are edited."""
    model = endless("llama")
    loaded = in_memory(model, word_tokenizer())
    edits = [NeuronEdit("zero", site, np.array([3, 1])) for site in find_sites(model)]
    prompts = [[5], [9, 8, 7] * 7]  # edits begin within the longer one, and after all that the short one becomes

    def written(new: int) -> object:
        with edited(loaded, edits, start=20):
            return generate(model, prompts, new_tokens=new, prompt_indices=range(2), pad_id=0, seed=0, temperature=0.0)

    written(2)
    own = per_step(bare(model, prompts))
    assert per_step(written) == {**own, "to": own.get("to", 0) + 1}


def test_a_followed_step_fetches_what_it_tells_of_all_layers_at_once() -> None:
    model = endless("llama")
    loaded = in_memory(model, word_tokenizer())
    told: list[FollowedToken] = []

    def followed(new: int) -> None:
        with Follower(loaded, find_sites(model), PROMPTS[0], told.append) as follower:
            generate(
                model, PROMPTS, new_tokens=new, prompt_indices=range(3), pad_id=0, seed=0, temperature=0.0,
                follower=follower,
            )  # fmt: skip

    own, found = per_step(bare(model, PROMPTS)), per_step(followed)
    more = {name: found[name] - own.get(name, 0) for name in found if found[name] != own.get(name, 0)}
    # The token and its surprisal; the strongest neurons.
    assert more == {"tolist": 1, "_local_scalar_dense": 1, "cpu": 1, "numpy": 1}
    assert len(told[-1].strongest) + len(told[-2].strongest) == 3 * 3


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda values: float(values.sum()), "_local_scalar_dense"),
        (lambda values: values.tolist(), "tolist"),
        (lambda values: values.cpu(), "cpu"),
        (lambda values: bool((values > 0).any()), "_local_scalar_dense"),
        (lambda values: values[values > 0], "mask as an index"),
        (lambda values: torch.ones(1).to(values.device), "to"),
    ],
    ids=["a number", "a list", "a copy", "a condition", "a mask", "a copy to the device"],
)
def test_a_hook_that_waits_is_found(wait: Callable[[torch.Tensor], object], name: str) -> None:
    model = endless("gpt2")
    write = bare(model, PROMPTS)
    own = per_step(write)
    model.transformer.h[1].mlp.register_forward_hook(lambda module, args, output: (wait(output), None)[1])
    found = per_step(write)
    assert found[name] - own.get(name, 0) >= 1


def test_a_copy_that_need_not_be_waited_for_does_not_count() -> None:
    with Waits() as waits:
        torch.ones(2).to("cpu", non_blocking=True).to(torch.float64).sum()
        torch.ones(2).pow(2).index_select(0, torch.tensor([1]))
    assert not +waits.count
    assert "to" not in torch.Tensor.__dict__ and torch.ones(2).tolist() == [1, 1]
