"""Which calls of a layer belong to a training pass, each of them once, and which tokens of the pass are padding.

A pass begins where the watched module is called, or a model of transformers within it: somebody's own module may call
its parts without being called itself, and may name the mask as it likes.

Gradient checkpointing runs a layer twice: in the pass (`use_reentrant=True` switches gradients off there) and again
within the backward pass, the last layer first. The first call is the one that counts.
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
    """What a call of a layer is to a training."""

    READ = "a token's only call, or its first"
    AGAIN = "run a second time for the gradients"
    APART = "no part of the training: a validation, a frozen part that runs without gradients"


class Passes:
    """Follows the passes through a module by the hooks of `attach`. masks: look for the attention mask, too."""

    def __init__(self, model: nn.Module, *, masks: bool = False) -> None:
        self._entries = {module: _place_of_mask(module) if masks else None for module in entries(model)}
        self._masks = masks
        self._with_gradients: list[bool] = []
        self._read: set[Hashable] = set()
        self.recomputed = False
        """Whether layers came within a backward pass alone, and so the last one first."""
        self.mask: Tensor | None = None
        """bool[batch, tokens] of the pass: true where a token is no padding."""

    def attach(self, handles: list[RemovableHandle]) -> None:
        """Adds its hooks to the caller's."""
        for module in self._entries:
            handles.append(module.register_forward_pre_hook(Hook(self._enter), with_kwargs=True))
            handles.append(module.register_forward_hook(Hook(self._leave), always_call=True))

    def begin_step(self) -> None:
        self._read.clear()
        self._with_gradients.clear()
        self.recomputed, self.mask = False, None

    def call_of(self, layer: Hashable) -> Call:
        """What the call of `layer` that runs now is."""
        if inside_backward():
            if layer in self._read:
                return Call.AGAIN
            if torch.is_grad_enabled():  # else it will be run once more, within that checkpoint's own backward pass
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
            if mask is not None or not self._with_gradients:  # what a model within a pass is not told still holds
                self.mask = mask
        self._with_gradients.append(torch.is_grad_enabled())

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        if not is_traced() and self._with_gradients:
            self._with_gradients.pop()


def entries(model: nn.Module) -> list[nn.Module]:
    """The module, and every model of transformers in it."""
    return [model, *(module for module in model.modules() if module is not model and is_pretrained(module))]


def is_pretrained(module: nn.Module) -> bool:
    """Whether it is a model of transformers, which is not imported for that."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def visible_rows(rows: Tensor, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The rows whose token a mask does not hide.

    rows: [tokens, neurons]; shape: of the values without their neurons, [batch, tokens], [tokens, batch], or flat.
    Values of another shape have no such tokens, and all their rows count.
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
    """Which positional argument of forward() the attention mask is."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # a forward that has no signature
        return None
    return names.index(MASK) if MASK in names else None


def _mask_in(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int | None) -> Tensor | None:
    """By name, by position, or in a batch that is handed over as one mapping."""
    found = kwargs.get(MASK)
    if found is None and place is not None and place < len(args):
        found = args[place]
    if found is None:
        batches = (value for value in (*args, *kwargs.values()) if isinstance(value, Mapping))
        found = next((batch[MASK] for batch in batches if MASK in batch), None)
    return found.bool() if isinstance(found, Tensor) and found.dim() == 2 else None


def inside_backward() -> bool:
    """Whether a backward pass runs, as gradient checkpointing does to run its layers again."""
    found: bool = torch._C._current_graph_task_id() != -1
    return found
