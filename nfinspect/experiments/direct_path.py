"""The path from a neuron's output weights to the logits: the norms and projections on it, in order.

One pass over two tokens shows it, in the order in which the model really calls its modules: their names and their order
of declaration differ from family to family (Lfm2's last norm is its `embedding_norm`, OPT declares its last norm before
its blocks).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nfinspect.experiments.norms import measured_norm
from nfinspect.experiments.projection_weights import projection_weight
from nfinspect.models import LayerSite, LoadedModel, UnsupportedModel, blocks, forward_batch
from nfinspect.models.checks import first_input, first_tensor

PASSED_BY = (nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Step:
    """A module on the path, with its dotted name."""

    name: str
    module: nn.Module

    @property
    def is_norm(self) -> bool:
        return "norm" in type(self.module).__name__.lower()


@dataclass(frozen=True)
class Tail:
    """What is between the last block and the logits: the final norm and perhaps a projection, then the head."""

    steps: tuple[Step, ...]
    head: Step

    @property
    def entry(self) -> Step:
        """The first module that the last block's output enters."""
        return (*self.steps, self.head)[0]


@dataclass(frozen=True)
class Way:
    """The path from what a site writes to the logits.

    start: the dotted name of the module that writes to the residual stream: the site's own, or the norm that ends its
    sublayer; None if there are norms on the stream itself. steps: norms and projections in order; tail: those after the
    blocks.
    """

    start: str | None
    steps: tuple[Step, ...]
    tail: Tail

    @property
    def entry(self) -> Step:
        return self.tail.entry

    @property
    def head(self) -> Step:
        return self.tail.head


@dataclass(frozen=True)
class _Call:
    step: Step
    given: Tensor | None


class _Pass:
    """The module calls of one pass over two tokens, in order, and the output of the module named `output_of`."""

    def __init__(self, loaded: LoadedModel, output_of: str | None = None) -> None:
        self.calls: list[_Call] = []
        self.output: Tensor | None = None
        model = loaded.model
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        handles = []
        for name, module in model.named_modules():
            if module is head or not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(self._caller(Step(name, module)), with_kwargs=True))
            if name == output_of:
                handles.append(module.register_forward_hook(self._gave))
        try:
            with torch.no_grad():
                model(**forward_batch(model, [_two_tokens(loaded)], pad_id=0).inputs())
        finally:
            for handle in handles:
                handle.remove()

    def _caller(self, step: Step) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
        def called(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            given = first_input(args, kwargs)
            self.calls.append(_Call(step, None if given is None else given.detach().clone()))

        return called

    def _gave(self, module: nn.Module, args: object, output: object) -> None:
        tensor = first_tensor(output)
        self.output = None if tensor is None else tensor.detach().clone()


def _two_tokens(loaded: LoadedModel) -> list[int]:
    """Two token ids other than padding, whose embedding may be 0: all-zero values could not be told apart."""
    padding = getattr(loaded.model.config.get_text_config(), "pad_token_id", None)
    return [i for i in range(3) if i != padding][:2]


def find_tail(loaded: LoadedModel) -> Tail:
    """What the last block's output goes through. Raises UnsupportedModel if that is not a known path to the logits."""
    return _tail(loaded, _Pass(loaded))


def path_to_logits(loaded: LoadedModel, site: LayerSite) -> Way:
    """The norms and projections that what `site` writes goes through before the head.

    In a model with norms on its residual stream (OPT-350m) these include every norm of the later blocks; in one with a
    norm after each sublayer (Gemma 2) that of the site's own sublayer comes first. Raises UnsupportedModel.
    """
    prefix, _ = blocks(loaded.model)
    seen = _Pass(loaded, site.module)
    tail = _tail(loaded, seen)
    if any(step.is_norm for step in tail.steps):
        own = [] if site.site == "resid" else _sublayer_norms(seen, f"{prefix}.{site.layer}.")
        return Way(own[-1].name if own else site.module, (*own, *tail.steps), tail)
    return Way(None, (*_stream_norms(seen, prefix, site), *tail.steps), tail)


def _tail(loaded: LoadedModel, seen: _Pass) -> Tail:
    head = loaded.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    prefix, _ = blocks(loaded.model)
    after = 1 + max(i for i, call in enumerate(seen.calls) if call.step.name.startswith(f"{prefix}."))
    steps = [call.step for call in seen.calls[after:] if not isinstance(call.step.module, PASSED_BY)]
    if head is None or not any(step.module is head for step in steps):
        raise UnsupportedModel(
            f"expected a projection to the vocabulary that the model calls after its blocks, found none in "
            f"{type(loaded.model).__name__}: logits need a language model with its head"
        )
    last = next(i for i, step in enumerate(steps) if step.module is head)
    for step in steps[:last]:
        if not step.is_norm and not isinstance(step.module, nn.Linear | Conv1D):
            raise UnsupportedModel(
                f"expected a norm or a projection between the last block and the head, found the "
                f"{type(step.module).__name__} {step.name}: the path to the logits is not known for this model"
            )
    return Tail(tuple(steps[:last]), steps[last])


def _sublayer_norms(seen: _Pass, block: str) -> list[Step]:
    """The norms of a block whose input is exactly the projection's output, before anything is added to it."""
    return [
        call.step
        for call in seen.calls
        if call.step.is_norm and call.step.name.startswith(block) and _equal(call.given, seen.output)
    ]


def _stream_norms(seen: _Pass, prefix: str, site: LayerSite) -> list[Step]:
    """The norms on the residual stream itself, from the site on, in a model without a final norm."""
    in_blocks = [call.step for call in seen.calls if call.step.name.startswith(f"{prefix}.")]
    if not in_blocks[-1].is_norm:
        raise UnsupportedModel(
            f"expected a norm after the blocks or at their end, found {in_blocks[-1].name} last: the direct effect on "
            "the logits is not known for this model"
        )
    own = f"{prefix}.{site.layer}."
    if site.site == "resid":
        start = 1 + max(i for i, step in enumerate(in_blocks) if step.name.startswith(own))
    else:
        start = next(i for i, step in enumerate(in_blocks) if step.name == site.module)
    return [step for step in in_blocks[start:] if step.is_norm]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))


def through(steps: tuple[Step, ...], directions: Tensor) -> Tensor:
    """Directions, float32[..., width], after norms (with frozen scale) and projections (without bias)."""
    for step in steps:
        if step.is_norm:
            norm = measured_norm(step.module, directions.shape[-1], step.name)
            directions = norm(directions.to(norm.gain.device))
        else:
            weight = projection_weight(step.module, step.name)
            directions = directions.to(weight.device) @ weight.float().T
    return directions
