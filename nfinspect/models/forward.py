"""The inputs of one forward pass over ragged sequences, such that every token's values are those of an unpadded pass.

Established by experiment for every family (tests/unit/models/test_padding.py), float32, transformers 5.23:

- Right padding is exact for every causal model and needs no attention mask at all: a real token never sees the
  padding after it. Without a mask the attention takes the same path as an unpadded pass.
- Left padding needs the mask, and `position_ids` wherever the model takes them: by default GPT-2, GPT-Neo, GPT-J and
  the rotary families count positions from the row's start, padding included. OPT counts them from the mask, and so do
  BLOOM and Falcon's ALiBi.
- Mamba and Mamba-2 zero the padding before `in_proj` and again after the convolution. That is exact with left
  padding only while `in_proj` has no bias: with one (`use_bias`) the convolution of the first real tokens
  sees the bias where an unpadded pass sees zeros.
- Decoders of encoder-decoders (BART and its kin) count learned positions from the row's start and take no
  `position_ids`; RecurrentGemma's state and DeepSeek-V4's compressed keys include the padding.

Whether a side is exact is therefore found by running the model (dependence.py). A side that is not is replaced by the
other; if neither is (as in a model that is not causal), only sequences of one length can be batched.
"""

import math
from collections.abc import Sequence

from torch import nn

from . import structure
from .batch import Batch, padded
from .dependence import dependence, rope_limit
from .errors import ModelError


def forward_batch(
    model: nn.Module, sequences: Sequence[Sequence[int]], *, pad_id: int, padding_side: str = "right"
) -> Batch:
    """The inputs for one pass over `sequences` (lists of token ids, none empty), on the model's device.

    Padding is filled with `pad_id`, any id of the vocabulary. Raises ModelError for an empty list or sequence, for an
    unknown side, for lengths that this model cannot take in one batch (dependence.py), and if rotary scaling depends on
    the longest sequence (`rope_limit`).
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
            f"{max(lengths)}: this model's rotary scaling depends on the longest one; batch equal lengths "
            "together"
        )
    side = padding_side
    if min(lengths) != max(lengths):
        exact = dependence(model)
        if not exact.left and not exact.right:
            raise ModelError(
                f"expected sequences of one length in a batch, found {min(lengths)} to {max(lengths)}: padding changes "
                f"the values of '{structure.config_of(model).model_type}'; batch equal lengths together"
            )
        if not (exact.left if side == "left" else exact.right):
            side = "right" if side == "left" else "left"
    return padded(model, sequences, pad_id=pad_id, side=side)


def steps_clamp_as_a_pass(model: nn.Module) -> bool:
    """Whether decoding step by step gives the same values as one pass: False for Mamba-2's mixers with a
    `time_step_limit`, as transformers 5.23 clamps the step size Δ in a pass over a sequence and not in a decoding step.
    """
    limits = (getattr(module, "time_step_limit", None) for module in model.modules())
    return all(limit is None or tuple(limit) == (0.0, math.inf) for limit in limits)
