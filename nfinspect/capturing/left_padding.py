"""Whether a model reads a left-padded row as it reads the row alone: found by running it.

Models that count positions from the row's start, padding included, do not (GPT-2, GPT-Neo); rotary models count the
same way, but only distances matter to them; OPT and BLOOM count from the mask. In a Mamba whose `in_proj` has a bias,
padding affects the values.
"""

import torch
from torch import Tensor, nn

from nfinspect.models import body, embedding_device
from nfinspect.modes import eval_mode

TOKENS, PADS = 16, 8
"""The most tokens and padding that are tried [own]: even a shift of one position shows."""

MOST_OFF = {torch.float32: 1e-3, torch.float64: 1e-3}
"""The relative distance that rounding can explain; 0.05 in half precisions [own]."""


def note_on_left_padding(model: nn.Module, token_ids: list[int], pads: int, *, takes_positions: bool) -> str | None:
    """One line if the model's last hidden states of a left-padded row are not those of the row alone, else None.

    token_ids: a row without the `pads` padding tokens before it. The model runs twice over the first few of them, in
    eval mode and without gradients; its mode is restored.
    """
    inner = body(model)
    device = embedding_device(model)
    ids, pads = token_ids[:TOKENS], min(pads, PADS)
    alone = torch.tensor([ids], device=device)
    padded = torch.tensor([ids[:1] * pads + ids], device=device)
    mask = torch.tensor([[0] * pads + [1] * len(ids)], device=device)
    with eval_mode(inner), torch.no_grad():
        expected = _hidden(inner(alone, use_cache=False))
        found = _hidden(inner(padded, attention_mask=mask, use_cache=False))[:, pads:]
    off = float((found.float() - expected.float()).norm() / expected.float().norm())
    if off <= MOST_OFF.get(expected.dtype, 0.05):
        return None
    cause, remedy = "this model does not leave padding out", "pad on the right"
    if takes_positions:
        cause = "without position_ids this model counts positions from the row's start, padding included"
        remedy = "pass position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0), or pad on the right"
    return (
        f"left-padded rows were recorded as the model read them, {100 * off:.0f} % off what it makes of a lone prompt "
        f"(the last hidden states of {len(ids)} tokens after {pads} of padding): {cause}; {remedy}"
    )


def _hidden(output: object) -> Tensor:
    first = output[0]  # type: ignore[index]
    assert isinstance(first, Tensor)
    return first
