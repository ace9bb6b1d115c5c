"""Which calls of a layer belong to a training pass, counting each once, and which tokens of the pass are padding.

A pass begins when the watched module, or a model of transformers inside it, is called: a user's own module may call its
parts without being called itself, and may name the mask as it likes.

Gradient checkpointing runs a layer twice: in the pass (`use_reentrant=True` disables gradients there) and again within
the backward pass, where the last layer comes first. The first call is the one that counts.
"""

import inspect
import sys
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.training.hooks import Hook, is_traced

MASK = "attention_mask"


class Call(Enum):
    """The role of a layer's call in a training."""

    READ = "a token's only call, or its first"
    AGAIN = "recomputed for the gradients"
    APART = "not part of the training: a validation, a frozen part that runs without gradients"


class Passes:
    """Follows the passes through a module with the hooks of `attach`. masks: also look for the attention mask."""

    def __init__(self, model: nn.Module, *, masks: bool = False) -> None:
        self._entries = {module: _place_of_mask(module) if masks else None for module in entries(model)}
        self._masks = masks
        self._with_gradients: list[bool] = []
        self._read: set[Hashable] = set()
        self.recomputed = False
        """Whether layers ran only within a backward pass, and so in reverse order."""
        self.mask: Tensor | None = None
        """bool[batch, tokens] of the pass: true where a token is not padding."""

    def attach(self, handles: list[RemovableHandle]) -> None:
        """Attach the hooks, and append their handles to `handles`."""
        for module in self._entries:
            handles.append(module.register_forward_pre_hook(Hook(self._enter), with_kwargs=True))
            handles.append(module.register_forward_hook(Hook(self._leave), always_call=True))

    def begin_step(self) -> None:
        self._read.clear()
        self._with_gradients.clear()
        self.recomputed, self.mask = False, None

    def call_of(self, layer: Hashable) -> Call:
        """The role of the call of `layer` that is running now."""
        if inside_backward():
            if layer in self._read:
                return Call.AGAIN
            if torch.is_grad_enabled():  # else it will be recomputed again, within that checkpoint's own backward pass
                self.recomputed = True
                return Call.READ
            return Call.APART
        if torch.is_grad_enabled() or (self._with_gradients and self._with_gradients[-1]):
            self._read.add(layer)
            return Call.READ
        return Call.APART

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if is_traced():
            return
        if self._masks and not inside_backward():
            mask = _mask_in(args, kwargs, self._entries[module])
            if mask is not None or not self._with_gradients:  # an inner model without a mask keeps the pass's
                self.mask = mask
        self._with_gradients.append(torch.is_grad_enabled())

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        if not is_traced() and self._with_gradients:
            self._with_gradients.pop()


def entries(model: nn.Module) -> list[nn.Module]:
    """The module, and every model of transformers inside it."""
    return [model, *(module for module in model.modules() if module is not model and is_pretrained(module))]


def is_pretrained(module: nn.Module) -> bool:
    """Whether it is a model of transformers, without importing transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def visible_rows(rows: Tensor, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The rows of tokens that are not masked.

    rows: [tokens, neurons]; shape: of the values without the neuron axis: [batch, tokens], [tokens, batch], or flat.
    For values of any other shape the mask does not apply, and all rows count.
    """
    if mask is None or mask.numel() != len(rows) or bool(mask.all()):
        return rows
    if shape == tuple(mask.shape) or len(shape) == 1:
        flat = mask.reshape(-1)
    elif shape == tuple(mask.shape)[::-1]:
        flat = mask.t().reshape(-1)
    else:
        return rows
    return rows[flat.to(rows.device)]


def _place_of_mask(module: nn.Module) -> int | None:
    """The position of the attention mask among the arguments of forward(); None if it has none."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # a forward without a signature
        return None
    return names.index(MASK) if MASK in names else None


def _mask_in(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int | None) -> Tensor | None:
    """The mask given by name, by position, or in a batch that is passed as one mapping; None if it is not 2-D."""
    found = kwargs.get(MASK)
    if found is None and place is not None and place < len(args):
        found = args[place]
    if found is None:
        batches = (value for value in (*args, *kwargs.values()) if isinstance(value, Mapping))
        found = next((batch[MASK] for batch in batches if MASK in batch), None)
    return found.bool() if isinstance(found, Tensor) and found.dim() == 2 else None


def inside_backward() -> bool:
    """Whether a backward pass is running, in which gradient checkpointing recomputes layers."""
    found: bool = torch._C._current_graph_task_id() != -1
    return found
