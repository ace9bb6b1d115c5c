"""A model's outputs for a few fixed tokens, which show whether two models have the same weights.

A run keeps the fingerprint of the model it was captured from. A model loaded later is run on the same tokens, and the
outputs are compared: if they agree within the rounding of the coarser precision, the weights are the same, whatever
their device or number format, and whether an adapter is attached or merged. Names, files and digests of tensors cannot
show this. It costs one forward pass over sixteen tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from nfinspect.modes import eval_mode

from .batch import vocabulary
from .checks import first_tensor
from .dependence import plain_ids
from .errors import OtherWeights
from .forward import forward_batch
from .loaded import LoadedModel
from .quantised import is_quantised
from .sites import blocks

TOKENS = 16
"""Token ids that are run, spread over the vocabulary, without those that a config names (image, end, …) [own]."""

LOGITS = 64
"""Entries of the last token's logits that are kept, evenly spread over the vocabulary [own]."""

PATTERNS = 4
"""Signed sums of a block's output that are kept, each with its own sign pattern: any coordinate changes all [own]."""

TOLERANCES = {"float32": 1e-4, "tf32": 0.03, "float16": 0.03, "bfloat16": 0.1}
"""Largest difference accepted as rounding in this precision, as a share of the logits' spread [own]. Rounding a whole
model moved the logits of 25 small families and of 32-layer Llamas by at most 0.6 % in float16 and 4 % in bfloat16;
float32 gave the same digits on one machine. tf32: float32 on a GPU that may round factors to TensorFloat-32."""

QUANTISED = 0.35
"""The same if only one of the two has quantised weights [own]: rounding the rows of weights to 8 bits moved the same
logits by up to 8 %, to 4 bits by 5 to 95 %; the formats in use round less."""

NOTICED = 0.1
"""The share of the tolerance above which a difference is reported although it is accepted [own]."""


@dataclass(frozen=True)
class Fingerprint:
    """token_ids: the input. logits: the last token's, for the ids in `vocabulary`. layers: for each block, in order,
    the PATTERNS signed sums of its output at the last token, then its norm.
    """

    token_ids: tuple[int, ...]
    vocabulary: tuple[int, ...]
    logits: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]
    model_type: str
    dtype: str
    quantised: bool

    def to_json(self) -> dict[str, Any]:
        """As stored in a run's settings."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Self:
        """From a run's settings, as to_json returned it; further fields are ignored.

        Raises OtherWeights for anything else: a run file may be damaged or changed by hand.
        """
        found = document if isinstance(document, dict) else {}
        ids, vocabulary = (_whole(found.get(name)) for name in ("token_ids", "vocabulary"))
        logits, layers = _numbers(found.get("logits")), found.get("layers")
        rows = [_numbers(row) for row in layers] if isinstance(layers, list) else [None]
        words = [found.get(name) for name in ("model_type", "dtype")]
        quantised = found.get("quantised")
        if (
            not ids
            or vocabulary is None
            or logits is None
            or len(logits) != len(vocabulary)
            or not all(row is not None and len(row) == PATTERNS + 1 for row in rows)
            or not all(isinstance(word, str) for word in words)
            or not isinstance(quantised, bool)
        ):
            raise OtherWeights(
                "expected the fingerprint of the run's model in the run's settings, found "
                f"{str(document)[:40]!r}: the run file is damaged or was changed; nfinspect verify says more",
                "the run no longer says what its weights were",
            )
        return cls(ids, vocabulary, logits, tuple(row for row in rows if row), str(words[0]), str(words[1]), quantised)


@dataclass(frozen=True)
class Difference:
    """How far apart two fingerprints are. logits: mean |difference| / the logits' spread (mean |logit − mean|).

    first_layer: the first block whose output differs by more than the tolerance; None if no block's does.
    """

    logits: float
    tolerance: float
    first_layer: int | None

    @property
    def same(self) -> bool:
        return self.logits <= self.tolerance and self.first_layer is None


def fingerprint(loaded: LoadedModel, like: Fingerprint | None = None) -> Fingerprint:
    """The model's fingerprint. like: use the token ids and logit entries of this one.

    The model may be in training mode; every module is left as it was. Raises OtherWeights if it lacks the tokens,
    context length or logits of `like`.
    """
    rows = vocabulary(loaded.model)
    ids = like.token_ids if like is not None else plain_ids(loaded.model, min(TOKENS, loaded.max_context or TOKENS))
    if max(ids) >= rows:
        raise OtherWeights(f"{loaded.name} has {rows} tokens, and the run's model had more: it is another model")
    if loaded.max_context is not None and len(ids) > loaded.max_context:
        most = loaded.max_context
        raise OtherWeights(f"{loaded.name} reads {most} tokens at most, and the run's model more: it is another model")
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        found = first_tensor(output)
        if found is not None:
            outputs.append(found.detach().reshape(-1, found.shape[-1])[-1].float().cpu())

    _, stack = blocks(loaded.model)
    handles = [block.register_forward_hook(keep) for block in stack]
    try:
        with eval_mode(loaded.model), torch.inference_mode():
            inputs = forward_batch(loaded.model, [list(ids)], pad_id=loaded.pad_id).inputs()
            output = loaded.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    logits = getattr(output, "logits", None)
    last = torch.empty(0) if logits is None else logits[0, -1].float().cpu()
    places = like.vocabulary if like is not None else _spread(LOGITS, len(last))
    if places and max(places) >= len(last):
        raise OtherWeights(f"{loaded.name} has {len(last)} logits, and the run's model had more: it is another model")
    # A padded vocabulary may end in −inf, which JSON cannot hold.
    kept = [place for place in places if like is not None or bool(last[place].isfinite())]
    return Fingerprint(
        token_ids=tuple(ids),
        vocabulary=tuple(kept),
        logits=tuple(_short(float(last[place])) for place in kept),
        layers=tuple(_sums(values) for values in outputs),
        model_type=loaded.model_type,
        dtype="tf32" if loaded.dtype == "float32" and _shortens(loaded) else loaded.dtype,
        quantised=is_quantised(loaded.model),
    )


def difference(then: Fingerprint, now: Fingerprint) -> Difference:
    """How far apart two fingerprints of the same tokens are. Raises OtherWeights if they differ in number of layers."""
    if len(then.layers) != len(now.layers):
        raise OtherWeights(f"expected {len(then.layers)} layers, found {len(now.layers)}: it is another model")
    tolerance = max(TOLERANCES.get(one.dtype, TOLERANCES["bfloat16"]) for one in (then, now))
    if then.quantised != now.quantised:
        tolerance = max(tolerance, QUANTISED)
    pairs = zip(then.layers, now.layers, strict=True)
    differing = (i for i, pair in enumerate(pairs) if not _apart(*pair) <= tolerance)  # NaN counts as different
    return Difference(_logits_apart(then.logits, now.logits), tolerance, next(differing, None))


def check_same_weights(then: Fingerprint, loaded: LoadedModel, run: str) -> str:
    """What should be reported about the difference between a run's model and this one, '' for nothing.

    Raises OtherWeights, with the size of the difference, if the weights are not the same.
    """
    if then.model_type != loaded.model_type:
        short = f"it is a {loaded.model_type}, the run's a {then.model_type}"
        raise OtherWeights(
            f"expected the {then.model_type} model that {run} was captured from, found a {loaded.model_type} in "
            f"{loaded.name}: it is another model",
            short,
        )
    now = fingerprint(loaded, then)
    found = difference(then, now)
    apart = f"its logits differ by {100 * found.logits:.2g} % of their spread"
    if not found.same:
        place = "the logits alone" if found.first_layer is None else f"layer {found.first_layer} on"
        raise OtherWeights(
            f"expected the weights that {run} was captured from, found others in {loaded.name}: from {place}, {apart} "
            f"({100 * found.tolerance:g} % could be rounding); the run's model was changed in memory (fine-tuned, an "
            "adapter), or this directory since: save the run's model and name its directory",
            f"from {place}, {apart}",
        )
    if then.quantised != now.quantised:
        return f"{loaded.name}: one of the run's model and this one has quantised weights; {apart}"
    if found.logits > NOTICED * found.tolerance:
        return f"{loaded.name}: {apart} from the run's: another precision, device or version, or a slight training"
    return ""


def _shortens(loaded: LoadedModel) -> bool:
    """Whether float32 products may be computed in TF32 here, which has the precision of float16."""
    return loaded.device.startswith("cuda") and torch.get_float32_matmul_precision() != "highest"


def _spread(wanted: int, of: int) -> tuple[int, ...]:
    """`wanted` of the numbers 0 .. of - 1, evenly spread, each from the middle of its share."""
    wanted = min(wanted, of)
    return tuple((2 * i + 1) * of // (2 * wanted) for i in range(wanted))


def _whole(values: object) -> tuple[int, ...] | None:
    """A list of non-negative integers as a tuple, None for anything else."""
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        return None
    return tuple(values)


def _numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    try:
        return tuple(map(float, values))
    except OverflowError:  # an integer too large for a float
        return None


def _sums(values: Tensor) -> tuple[float, ...]:
    """float32[coordinates] -> its sums with the sign patterns +−+−…, ++−−…, …, and its norm."""
    place = torch.arange(len(values))
    signs = [1.0 - 2.0 * ((place >> k) & 1).float() for k in range(PATTERNS)]
    found = [float((values * sign).double().sum()) for sign in signs]
    return tuple(map(_short, (*found, float(values.double().norm()))))


def _short(value: float) -> float:
    """Rounded to seven significant digits: about what float32 has."""
    return float(f"{value:.7g}")


def _apart(then: Sequence[float], now: Sequence[float]) -> float:
    """Mean |difference| of two blocks' signed sums / the norm of the first: about |difference| / |output|."""
    *sums, length = then
    differences = [abs(a - b) for a, b in zip(sums, now[:-1], strict=True)]
    return sum(differences) / len(differences) / length if length else float(any(now))


def _logits_apart(then: Sequence[float], now: Sequence[float]) -> float:
    if not then:
        return 0.0
    mean = sum(then) / len(then)
    spread = sum(abs(value - mean) for value in then) / len(then)
    apart = sum(abs(a - b) for a, b in zip(then, now, strict=True)) / len(then)
    return apart / spread if spread and math.isfinite(apart) else (0.0 if apart == 0 else math.inf)
