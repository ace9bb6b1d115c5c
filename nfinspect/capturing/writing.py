"""How a model generates, found by running it: do its steps give the values of one pass, and does padding change them?

A forward pass that is exact under left padding is not enough: GIT's and Whisper's generation counts positions from the
row's start, and GPT-1 has no key-value cache, so that each of its steps reads the whole sequence again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nfinspect.capturing.generation import generate
from nfinspect.models import UnsupportedModel, body, dependence
from nfinspect.models.dependence import SHORT, alike, hidden_states, plain_ids
from nfinspect.models.quantised import is_quantised

STEPS = 2
ROUNDING = {torch.float32: 1e-3}
"""How far a step's hidden state may be from a pass's, relative to its norm; 0.1 in other precisions, and with
quantised weights [own]."""


@dataclass(frozen=True)
class Writing:
    """together: prompts of different lengths, padded on the left, are continued as each would be alone. stepwise: the
    steps of a generation give, token by token, the values of one pass over the whole, so they can be read live."""

    together: bool
    stepwise: bool


_KNOWN: "WeakKeyDictionary[PreTrainedModel, Writing]" = WeakKeyDictionary()


def writing(model: PreTrainedModel) -> Writing:
    """How `model` generates; the first call runs a few steps after a few tokens. Call it without hooks attached."""
    known = _KNOWN.get(model)
    if known is None:
        known = _KNOWN[model] = _found_out(model)
    return known


def _found_out(model: PreTrainedModel) -> Writing:
    ids = plain_ids(model, 2 * SHORT)
    prompts = [ids[:SHORT], ids[SHORT : SHORT + 2]]
    left = dependence(model).left
    if left and _steps_are_one_pass(model, prompts):
        return Writing(together=True, stepwise=True)
    if all(_steps_are_one_pass(model, [prompt]) for prompt in prompts):
        return Writing(together=False, stepwise=True)
    # If steps differ from one pass anyway, only the tokens generated can show whether padding changes them.
    try:
        together = left and _written(model, prompts) == [_written(model, [prompt])[0] for prompt in prompts]
    except UnsupportedModel:
        together = False
    return Writing(together, stepwise=False)


def _steps_are_one_pass(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> bool:
    passes: list[Tensor] = []

    def keep(module: object, args: object, output: object) -> None:
        passes.append(output[0].detach())  # type: ignore[index]

    handle = body(model).register_forward_hook(keep)
    try:
        sequences = _written(model, prompts)
    except UnsupportedModel:  # the padding mask gets lost
        return False
    finally:
        handle.remove()
    width = max(map(len, prompts))
    if passes[0].shape[1] != width or any(one.shape[1] != 1 for one in passes[1:]):
        return False
    whole = torch.cat(passes, dim=1)
    rounding = {} if is_quantised(model) else ROUNDING
    for row, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True)):
        start = width - len(prompt)
        if not alike(whole[row, start : start + len(sequence)], hidden_states(model, [sequence])[0], rounding, 0.1):
            return False
    return True


def _written(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return generate(
        model,
        prompts,
        new_tokens=STEPS,
        prompt_indices=range(len(prompts)),
        pad_id=prompts[0][0],
        seed=0,
        temperature=0.0,
        read_last=True,
    )
