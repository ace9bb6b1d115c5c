"""Whether a token's values depend on the tokens after it, or on padding: found by running the model.

A list of families would miss the next one, and a config can change any of them (`is_decoder`,
`use_bidirectional_attention`). So a few tokens are run through the model: with another last token, and padded on either
side next to a longer sequence. If the values of the unchanged tokens move, they depend on what was changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import structure
from .batch import body, embedding_device, padded, vocabulary
from .errors import UnsupportedModel
from .hub import one_line
from .load import max_context
from .quantised import is_quantised

LONG, SHORT = 12, 5
"""Lengths of the two sequences that are run, in tokens [own]."""

# How far a token's hidden state may move, relative to its norm, if it does not depend on what was changed. With another
# last token the shapes are the same, and only experts change the order of their sums; padding changes all shapes, and
# under TensorFloat-32 that shows. A state that does depend moves by 1e-2 or more.
_ALIKE = {torch.float64: 1e-9, torch.float32: 2e-5}
_PADDED = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF = 3e-2
# Quantised projections may round what they are given by what else is in the batch: then _HALF in every precision.
_QUANTISED: Mapping[torch.dtype, float] = {}

# Raised by a forward() that wants other inputs than token ids. Not RuntimeError: that may come from the device.
_MISFITS = (TypeError, ValueError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class Dependence:
    """causal: no token depends on a later one. right, left: padding on that side changes no token's values.

    A model that is not causal depends on padding as on any other token, so `right` and `left` are False.
    """

    causal: bool
    right: bool
    left: bool


_KNOWN: "WeakKeyDictionary[nn.Module, Dependence]" = WeakKeyDictionary()


def dependence(model: nn.Module) -> Dependence:
    """What a token's values depend on in `model`; the first call takes up to five passes over LONG tokens or fewer.

    Call it in eval mode and without hooks attached. Raises UnsupportedModel if the model does not run on token ids
    alone.
    """
    known = _KNOWN.get(model)
    if known is None:
        known = _KNOWN[model] = _found_out(model)
    return known


def require_causal(model: nn.Module, what: str) -> None:
    """Raises UnsupportedModel if `model` is not causal. what: what needs a causal model, such as 'generation'."""
    if not dependence(model).causal:
        raise UnsupportedModel(f"expected a causal language model for {what}, found {sees_ahead(model)}")


def sees_ahead(model: nn.Module) -> str:
    """A model that is not causal, in words."""
    return (
        f"'{structure.config_of(model).model_type}' in which a token's values depend on the tokens after it: "
        "it fills gaps and does not write on"
    )


def _found_out(model: nn.Module) -> Dependence:
    most = min(n for n in (LONG, rope_limit(model), max_context(structure.config_of(model))) if n is not None)
    ids = plain_ids(model, most + 1)
    long, short, other = ids[:most], ids[1 : 1 + min(SHORT, most - 1)], [*ids[: most - 1], ids[most]]
    try:
        alone = hidden_states(model, [long])
        rounding = _QUANTISED if is_quantised(model) else _ALIKE
        if not alike(alone[:, :-1], hidden_states(model, [other])[:, :-1], rounding):
            return Dependence(causal=False, right=False, left=False)
        wanted = alone[0], hidden_states(model, [short])[0]
    except _MISFITS as error:
        raise UnsupportedModel(
            f"expected a model that runs over token ids alone, found {one_line(error)} in {type(model).__name__}: one "
            "that needs more (a cache, images, an encoder's output) cannot be read here"
        ) from error
    return Dependence(
        True, _is_exact(model, long, short, "right", wanted), _is_exact(model, long, short, "left", wanted)
    )


def _is_exact(
    model: nn.Module, long: Sequence[int], short: Sequence[int], side: str, wanted: tuple[Tensor, Tensor]
) -> bool:
    batch = padded(model, [long, short], pad_id=long[0], side=side)
    try:
        hidden = hidden_states(model, batch.inputs())
    except _MISFITS:  # a model that takes no mask, or not of this form, cannot be padded this way
        return False
    rounding = _QUANTISED if is_quantised(model) else _PADDED
    return all(alike(hidden[row, batch.columns(row)], wanted[row], rounding) for row in (0, 1))


def plain_ids(model: nn.Module, count: int) -> list[int]:
    """`count` token ids spread over the vocabulary, without those that a config names (image, padding, end)."""
    named: set[int] = set()
    for config in (getattr(model, "config", None), structure.config_of(model)):
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index")):
                named |= {value} if isinstance(value, int) else set(value or ())
    size = vocabulary(model)
    step = max(1, size // (2 * count))
    ids = [i for i in range(size // 4, size, step) if i not in named]
    ids += [i for i in range(size) if i not in named and i not in ids]
    return (ids * count)[:count]  # repeated if the vocabulary has fewer


def hidden_states(model: nn.Module, given: Sequence[Sequence[int]] | Mapping[str, Any]) -> Tensor:
    """The last hidden states, [batch, tokens, hidden]."""
    if not isinstance(given, Mapping):
        given = {"input_ids": torch.tensor(given, device=embedding_device(model)), "use_cache": False}
    with torch.no_grad():  # not inference_mode: what a model caches in a pass may be used in one with gradients later
        output = body(model)(**given)
    hidden = output[0]  # the logits if the body includes the vocabulary projection: they will do as well
    assert isinstance(hidden, Tensor)
    return hidden


def alike(a: Tensor, b: Tensor, rounding: Mapping[torch.dtype, float], other: float = _HALF) -> bool:
    """Whether every token's hidden state is the same in both, up to rounding. NaN is left to the finite check."""
    tolerance = rounding.get(a.dtype, other)
    a, b = a.double().nan_to_num(), b.double().to(a.device).nan_to_num()
    return bool(((a - b).norm(dim=-1) <= tolerance * b.norm(dim=-1).clamp(min=1e-30)).all())


def rope_limit(model: nn.Module) -> int | None:
    """The length beyond which a sequence's values depend on the longest one in its batch; None if they never do.

    Rotary types 'dynamic' and 'longrope' (Phi-3 128k) choose their frequencies once per pass, by its largest position;
    'dynamic' only beyond max_position_embeddings.
    """
    config = structure.config_of(model)
    rope = getattr(config, "rope_parameters", None) or {}
    limits = []
    # Either one set of parameters, or one per kind of layer (Gemma 3).
    for one in [rope] if "rope_type" in rope else rope.values():
        kind = one.get("rope_type") if isinstance(one, dict) else None
        if kind == "longrope":
            limits.append(one.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif kind is not None and "dynamic" in kind:
            limits.append(config.max_position_embeddings)
    return min((int(limit) for limit in limits), default=None)
