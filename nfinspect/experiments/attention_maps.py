"""The attention weights of transformers, read from the attention modules while the model runs.

Fused attention never computes the weights, so the model has to run its `eager` attention. What is read is checked, as
some models return weights that they did not use: Falcon, while set to `sdpa`, returns weights without the causal mask
when asked for them (transformers 5.23).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.layer_attention import Gather, LayerAttention
from nfinspect.models import LoadedModel, blocks, body, forward_batch

ROW_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How far the sum of a row of weights may be from 1."""

HALF_TOLERANCE = 2e-2
"""The same in half precision: bfloat16 rounds each weight by up to 0.4 %."""


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside this context `model` computes its attention weights, if it can be switched; afterwards it is as before.

    Some models (Falcon) are not among those that transformers switches, but read their config in every pass.
    """
    before = model.config._attn_implementation
    if before in (None, "eager"):
        yield
        return
    _switch(model, "eager")
    try:
        yield
    finally:
        _switch(model, before)


def _switch(model: PreTrainedModel, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        model.config._attn_implementation = implementation


class AttentionMaps:
    """Reads the attention of a transformer, one sequence per pass, so that no padding is attended to.

    `layers`: those that have attention weights, which in a hybrid are not all.
    """

    def __init__(self, loaded: LoadedModel, attention: Mapping[int, nn.Module]) -> None:
        """attention: the attention module of each layer that has one; layers may share one. Raises AttentionUnavailable
        if none of them returns weights.
        """
        self._loaded = loaded
        self._modules = attention
        self._stack = blocks(loaded.model)[1]
        self._asking: dict[str, bool] = {}
        self.layers: tuple[int, ...] = tuple(attention)
        found = self._weighing()
        if len(found) < len(attention):
            # Some modules return weights only when asked; then the model holds those of all layers at once.
            self._asking = {"output_attentions": True}
            asked = self._weighing()
            self._asking = self._asking if len(asked) > len(found) else {}
            found = max(found, asked, key=len)
        if not found:
            raise AttentionUnavailable(
                f"expected attention weights from layer {self.layers[0]}, found none: this model has no softmax "
                "attention there, or cannot be switched to its eager attention; --method gradient_guided needs none"
            )
        self.layers = found
        self.read([loaded.pad_id] * 3)

    def read(self, token_ids: Sequence[int]) -> dict[int, LayerAttention]:
        """The attention of these layers over one sequence, by layer. Raises AttentionUnavailable."""
        found: dict[int, LayerAttention] = {}

        def take(layer: int, weights: Tensor | None) -> None:
            if layer in self.layers:
                found[layer] = _gathered(layer, weights)

        self._run(token_ids, take)
        for layer in self.layers:
            if layer not in found:
                raise AttentionUnavailable(
                    f"expected a call of the attention of layer {layer}, found none: a fused kernel bypasses it"
                )
        return {layer: found[layer] for layer in self.layers}

    def _weighing(self) -> tuple[int, ...]:
        """The layers whose attention returns weights. One that is not called counts: `read` says so."""
        without: list[int] = []
        self._run([self._loaded.pad_id] * 3, lambda layer, weights: without.append(layer) if weights is None else None)
        return tuple(layer for layer in self._modules if layer not in without)

    def _run(self, token_ids: Sequence[int], take: Callable[[int, Tensor | None], None]) -> None:
        """One pass. take: is given each layer and what its attention returned of weights."""
        model, tokens = self._loaded.model, len(token_ids)
        current = -1  # which block runs: a module that blocks share is called in each of them

        def begins(layer: int) -> Callable[..., None]:
            def hook(*_: object) -> None:
                nonlocal current
                current = layer

            return hook

        def hook(module: nn.Module, args: object, output: object) -> None:
            take(current, _weights_in(output, tokens))

        inputs = forward_batch(model, [token_ids], pad_id=self._loaded.pad_id).inputs()
        with ExitStack() as hooks:
            for layer in self._modules:
                hooks.callback(self._stack[layer].register_forward_pre_hook(begins(layer)).remove)
            for module in dict.fromkeys(self._modules.values()):
                hooks.callback(module.register_forward_hook(hook).remove)
            with torch.inference_mode():
                body(model)(**inputs, **self._asking)


def _weights_in(output: object, tokens: int) -> Tensor | None:
    """The weights [1, heads, tokens, tokens] in what an attention module returns, None if there are none."""
    for part in output if isinstance(output, tuple) else ():
        if isinstance(part, Tensor) and part.ndim == 4 and part.shape[0] == 1 and part.shape[2:] == (tokens, tokens):
            return part
    return None


def _gathered(layer: int, weights: Tensor | None) -> LayerAttention:
    if weights is None:
        raise AttentionUnavailable(f"expected attention weights from layer {layer}, as for other texts, found none")
    off = float((weights.sum(-1, dtype=torch.float32) - 1).abs().max())
    if not off <= ROW_TOLERANCE.get(weights.dtype, HALF_TOLERANCE):
        raise AttentionUnavailable(
            f"expected rows of attention weights that sum to 1, found one off by {off:.2g} in layer {layer}: this "
            "model's attention goes elsewhere, too (a learned sink, dropout); --method gradient_guided needs none"
        )
    if bool(weights.triu(1).any()):
        raise AttentionUnavailable(
            f"expected no attention to later tokens, found some in layer {layer}: the weights returned are not those "
            "used; load the model with attn_implementation='eager'"
        )
    gather = Gather(weights.shape[1], weights.shape[2], weights.device)
    gather.add(weights[0].float())
    return gather.result()
