"""The factors that a model multiplies by between a site and the logits, measured instead of looked up.

Some families scale what a sublayer adds to the residual stream (Granite's residual_multiplier) or the logits (Cohere's
logit_scale, Granite's logits_scaling), each under its own name in the config, or bend the logits (Gemma 2's soft cap,
whose slope at 0 is 1). One pass over two rows shows them: every module with weights outputs zeros, so that the stream
holds only what the site writes, which is nothing in the first row and a known direction in the second; and the head
outputs small known logits.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from nfinspect.experiments.direct_path import Step, Way
from nfinspect.models import LoadedModel, UnsupportedModel, forward_batch
from nfinspect.models.checks import first_input, first_tensor

TOLERANCE = 1e-2
"""How far, relative to its norm, what arrives may be from a multiple of what was written; bfloat16 rounds by 0.4 %."""

SMALL = 2.0**-6
"""Size of the logits put in: a soft cap of 30 reduces them by a share of 1e-7."""

MASKED = 0.1
"""Largest share of the vocabulary that may be scaled differently: some models mask tokens not to be generated."""

Hook = Callable[[nn.Module, object, object], object]


def scale_to_logits(loaded: LoadedModel, way: Way) -> float:
    """What the model multiplies by between the start of `way` and the logits, apart from norms and projections.

    For a soft cap this is the slope at logits of 0. If there are norms on the stream itself, only they are assumed to
    scale the stream. Raises UnsupportedModel if what arrives is not a multiple of what was written.
    """
    model, head = loaded.model, way.head
    entered: list[Tensor] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name not in (way.start, head.name) and _has_weights(Step(name, module)):
                hooks.enter_context(_hooked(module, _silenced))
        hooks.enter_context(_hooked(head.module, _small_logits))
        if way.start is not None:
            hooks.enter_context(_hooked(model.get_submodule(way.start), _written))
            hooks.enter_context(_entering(way.entry.module, entered))
        with torch.no_grad():
            logits = model(**forward_batch(model, [[0, 0]] * 2, pad_id=0).inputs()).logits[-1, -1].double().cpu()
    scale = _of_logits(logits, loaded)
    if entered:
        scale *= _of_stream(entered[0], way.start or "", loaded)
    return scale


def _of_stream(arrived: Tensor, start: str, loaded: LoadedModel) -> float:
    rows = arrived.double().cpu().reshape(2, -1, arrived.shape[-1])
    change = (rows[1] - rows[0])[-1]
    written = _direction(len(change))
    scale = float(change @ written / (written @ written))
    if not float((change - scale * written).norm()) <= TOLERANCE * float(change.norm()) or scale == 0:
        raise UnsupportedModel(
            f"expected what {start} writes to reach the final norm unchanged or scaled by a number, found something "
            f"else there: the direct effect on the logits is not known for this model ('{loaded.model_type}')"
        )
    return scale


def _of_logits(logits: Tensor, loaded: LoadedModel) -> float:
    ratios = logits / (SMALL * _direction(len(logits)))
    alike = (ratios - ratios.median()).abs() <= TOLERANCE * ratios.median().abs()
    if not float(alike.double().mean()) >= 1 - MASKED:
        raise UnsupportedModel(
            "expected logits that are a multiple of the head's output, apart from a soft cap, found others: the direct "
            f"effect on the logits is not known for this model ('{loaded.model_type}')"
        )
    return float(ratios[alike].mean())


@lru_cache(maxsize=4)  # of a vocabulary it takes as long as a block
def _direction(width: int) -> Tensor:
    """float64[width]: numbers of either sign, with sizes from 1 to 2, that bfloat16 represents exactly. Read only."""
    places = torch.arange(width)
    return (1 + (37 * places % 64).double() / 64) * (1 - 2 * (places * places // 3 % 2)).double()


def _has_weights(step: Step) -> bool:
    module = step.module
    return not any(True for _ in module.children()) and (step.is_norm or any(True for _ in module.parameters()))


def _silenced(_: nn.Module, args: object, output: object) -> object:
    return torch.zeros_like(output) if isinstance(output, Tensor) else output


def _small_logits(_: nn.Module, args: object, output: object) -> object:
    assert isinstance(output, Tensor)  # a projection's
    return (SMALL * _direction(output.shape[-1])).to(output).expand_as(output)


def _written(_: nn.Module, args: object, output: object) -> object:
    whole = first_tensor(output)
    assert whole is not None  # path_to_logits has seen its output
    changed = torch.zeros_like(whole).reshape(2, -1, whole.shape[-1])  # some flatten rows and tokens
    changed[1] = _direction(whole.shape[-1]).to(whole)
    changed = changed.reshape(whole.shape)
    return (changed, *output[1:]) if isinstance(output, tuple | list) else changed


@contextmanager
def _hooked(module: nn.Module, hook: Hook) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _entering(module: nn.Module, entered: list[Tensor]) -> Iterator[None]:
    """Keep the input of `module` (first_input)."""

    def keep(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given = first_input(args, kwargs)
        if given is not None:
            entered.append(given.detach())

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
