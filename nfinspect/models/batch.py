"""The inputs of one forward pass over several sequences, and the part of a model that they are run through."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import structure
from .devices import computes_on
from .errors import UnknownToken


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass.

    `input_ids` int64[batch, tokens]; `valid` bool[batch, tokens], true where a position is not padding;
    `attention_mask` and `position_ids` int64[batch, tokens], None where the pass is exact without them; `lengths` of
    the unpadded sequences; `padding_side` the side actually used (forward.py).
    """

    input_ids: Tensor
    valid: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    lengths: tuple[int, ...]
    padding_side: str

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for `body(model)` or for the model itself, without a key-value cache."""
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

    That projection is the most expensive single product of a small model (GPT-2: 50,257 x 768), and no neuron is read
    there. Raises UnsupportedModel for encoder-decoders and wrappers.
    """
    return structure.decoder(model)


def padded(model: nn.Module, sequences: Sequence[Sequence[int]], *, pad_id: int, side: str) -> Batch:
    """The inputs with padding on `side`, whether or not that is exact for this model."""
    lengths = tuple(len(s) for s in sequences)
    device = embedding_device(model)
    width = max(lengths)
    ids = torch.full((len(lengths), width), pad_id, dtype=torch.long)
    valid = torch.zeros((len(lengths), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
        ids[row, place] = torch.tensor(list(sequence), dtype=torch.long)
        valid[row, place] = True
    check_ids(model, [int(ids.min()), int(ids.max())], "the input")
    mask, positions = None, None
    if side == "left" and min(lengths) != width:
        mask = valid.long().to(device)
        if "position_ids" in inspect.signature(body(model).forward).parameters:
            # Padding gets position 0: any row of a learned position table will do, but there is none for -1.
            positions = (valid.long().cumsum(-1) - 1).clamp(min=0).to(device)
    return Batch(ids.to(device), valid.to(device), mask, positions, lengths, side)


def vocabulary(model: nn.Module) -> int:
    """The number of token ids that the model has embeddings for; its tokenizer may have fewer or more."""
    weight = getattr(model, "get_input_embeddings")().weight  # noqa: B009  (nn.Module does not declare it)
    return int(weight.shape[0])


def check_ids(model: nn.Module, token_ids: Sequence[int], where: str) -> None:
    """Raises UnknownToken for an id without an embedding: on a GPU it would crash the whole process.

    where: the source of the ids, for the message.
    """
    known = vocabulary(model)
    ends = (min(token_ids), max(token_ids)) if len(token_ids) else ()
    outside = next((i for i in ends if not 0 <= i < known), None)
    if outside is not None:
        raise UnknownToken(
            f"expected token ids from 0 to {known - 1}, the model's vocabulary, found {outside} in {where}: the ids "
            "come from another model's tokenizer"
        )


def embedding_device(model: nn.Module) -> torch.device:
    """The device on which token ids have to be for a forward pass."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    return computes_on(embeddings if embeddings is not None else model)
