"""The surprisal of tokens, −ln p given the tokens before them, from the final hidden states."""

from typing import Any

import torch
from torch import Tensor, nn

from .structure import width_out

LOGIT_BYTES = 16 * 2**20
"""Bytes of logits held at a time: 83 tokens of a vocabulary of 50,257 [own]."""


def token_surprisal(model: nn.Module, hidden: Tensor, following: Tensor) -> Tensor | None:
    """−ln p of each next token, in nats, under the model's plain softmax (temperature 1): float32[tokens].

    hidden: [tokens, hidden size], what `body(model)` returns; following: int64[tokens], the token after each. Only a
    few tokens' logits are held at a time. None for a model without a vocabulary projection. Correct only for models
    that use the output of that projection as logits (every Mamba); others scale or cap it.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        return None
    rows = max(1, LOGIT_BYTES // (4 * (width_out(head) or 1)))
    weight: Any = getattr(head, "weight", None)
    # The head may have another precision than the states. Packed codes are none.
    plain = isinstance(weight, Tensor) and weight.is_floating_point() and weight.element_size() > 1
    dtype = weight.dtype if plain else hidden.dtype
    # no_grad whatever the caller's mode: autograd would keep every chunk of logits.
    with torch.no_grad():
        parts = []
        for states, ids in zip(torch.split(hidden, rows), torch.split(following, rows), strict=True):
            logits = head(states.to(dtype)).float()
            parts.append(logits.logsumexp(-1) - logits.gather(-1, ids.to(logits.device)[:, None])[:, 0])
    return torch.cat(parts) if parts else hidden.new_empty(0, dtype=torch.float32)
