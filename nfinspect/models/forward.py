"""One forward pass over ragged sequences, such that every token's values are those of an unpadded pass.

Established by experiment for every family (tests/unit/models/test_padding.py), float32, transformers 5.23:

- Right padding is exact everywhere and needs no attention mask at all: every model here is causal, so a real
  token never sees the padding after it. Without a mask the attention takes the same path as an unpadded pass.
- Left padding needs the mask, and `position_ids` wherever the model takes them: GPT-2, GPT-Neo, GPT-J and the
  rotary families count positions from the row's start, padding included, when left to themselves. OPT counts
  them from the mask; BLOOM and Falcon's ALiBi do so too.
- Mamba and Mamba-2 zero the padding before `in_proj` and again after the convolution. That is exact with left
  padding only while `in_proj` has no bias: with one (`use_bias`) the convolution of the first real tokens
  sees the bias where an unpadded pass sees zeros. There, left padding is replaced by right padding.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import structure
from .errors import ModelError


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass.

    `input_ids` int64[batch, tokens]; `valid` bool[batch, tokens], true where a position is no padding;
    `attention_mask` int64[batch, tokens] and `position_ids` int64[batch, tokens], None where the pass is
    exact without; `lengths` the sequences' own; `padding_side` the side really used (see the module).
    """

    input_ids: Tensor
    valid: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    lengths: tuple[int, ...]
    padding_side: str

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for `body(model)` or for the model itself; no cache is kept."""
        given = {"attention_mask": self.attention_mask, "position_ids": self.position_ids}
        return {
            "input_ids": self.input_ids,
            "use_cache": False,
            **{k: v for k, v in given.items() if v is not None},
        }

    def columns(self, row: int) -> slice:
        """The positions of sequence `row` in its padded row."""
        width, length = self.input_ids.shape[1], self.lengths[row]
        return slice(0, length) if self.padding_side == "right" else slice(width - length, width)


def body(model: nn.Module) -> nn.Module:
    """The part of `model` that runs all blocks and the final norm, without the vocabulary projection.

    The projection is the dearest single product of a small model (GPT-2: 50,257 x 768) and no neuron is read
    there. Raises UnsupportedModel for encoder-decoders and wrappers.
    """
    return structure.decoder(model)


def forward_batch(
    model: nn.Module, sequences: Sequence[Sequence[int]], *, pad_id: int, padding_side: str = "right"
) -> Batch:
    """The inputs for one pass over `sequences` (lists of token ids, none empty), on the model's device.

    Padding is filled with `pad_id`, any id of the vocabulary. Raises ModelError for an empty list or
    sequence, for an unknown side, and where rotary scaling depends on the longest sequence (see
    `rope_limit`).
    """
    if padding_side not in ("left", "right"):
        raise ModelError(f"expected padding_side 'left' or 'right', found '{padding_side}'")
    lengths = tuple(len(s) for s in sequences)
    if not lengths or min(lengths) == 0:
        raise ModelError("expected at least one sequence with at least one token in each, found an empty one")
    limit = rope_limit(model)
    if limit is not None and max(lengths) > limit and min(lengths) != max(lengths):
        raise ModelError(
            f"expected sequences of one length in a batch beyond {limit} tokens, found {min(lengths)} to "
            f"{max(lengths)}: this model's rotary scaling follows the longest one; batch equal lengths "
            "together"
        )
    device = embedding_device(model)
    width = max(lengths)
    side = padding_side if padding_side == "right" or _left_is_exact(model) else "right"
    ids = torch.full((len(lengths), width), pad_id, dtype=torch.long)
    valid = torch.zeros((len(lengths), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
        ids[row, place] = torch.tensor(list(sequence), dtype=torch.long)
        valid[row, place] = True
    mask, positions = None, None
    if side == "left" and min(lengths) != width:
        mask = valid.long().to(device)
        if "position_ids" in inspect.signature(body(model).forward).parameters:
            # Padding gets position 0: any row of a learned position table will do, -1 is none.
            positions = (valid.long().cumsum(-1) - 1).clamp(min=0).to(device)
    return Batch(ids.to(device), valid.to(device), mask, positions, lengths, side)


def embedding_device(model: nn.Module) -> torch.device:
    """Where token ids have to be for a forward pass."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    parameter = next((embeddings if embeddings is not None else model).parameters())
    return parameter.device


def rope_limit(model: nn.Module) -> int | None:
    """The length beyond which a sequence's values depend on the longest one in its batch; None: never.

    Rotary types 'dynamic' and 'longrope' (Phi-3 128k) choose their frequencies once per pass, by its greatest
    position; 'dynamic' only beyond max_position_embeddings.
    """
    config = structure.config_of(model)
    rope = getattr(config, "rope_parameters", None) or {}
    limits = []
    # One set of parameters, or one per kind of layer (Gemma 3).
    for one in [rope] if "rope_type" in rope else rope.values():
        kind = one.get("rope_type") if isinstance(one, dict) else None
        if kind == "longrope":
            limits.append(one.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif kind is not None and "dynamic" in kind:
            limits.append(config.max_position_embeddings)
    return min((int(limit) for limit in limits), default=None)


def steps_clamp_as_a_pass(model: nn.Module) -> bool:
    """False where token by token gives other values than one pass: mixers of Mamba-2's kind with a `time_step_limit`.

    transformers 5.23 clamps the step size Δ in the pass over a sequence and not in a decoding step.
    """
    limits = (getattr(module, "time_step_limit", None) for module in model.modules())
    return all(limit is None or tuple(limit) == (0.0, math.inf) for limit in limits)


def _left_is_exact(model: nn.Module) -> bool:
    """False where a state-space mixer's in_proj has a bias."""
    return not any(
        hasattr(m, "A_log") and getattr(getattr(m, "in_proj", None), "bias", None) is not None for m in model.modules()
    )
