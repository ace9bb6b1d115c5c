"""What a model answers to a few fixed tokens: tells whether two models have the same weights.

A run keeps the fingerprint of the model it was captured from. A model loaded later is asked the same, and its answers
are compared: within the rounding of the coarser precision they are the same weights, whatever device or number format
they are in, and whether an adapter stands beside them or was merged into them. Names, files and digests of tensors
cannot say this. It costs one forward pass over sixteen tokens.
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
from .sites import blocks

TOKENS = 16
"""Token ids that are asked, spread over the vocabulary; none that a config names, an image's or an end's [own]."""

LOGITS = 64
"""Entries of the last token's logits that are kept, evenly spread over the vocabulary [own]."""

PATTERNS = 4
"""Sums of a block's output under patterns of signs that are kept: each moves when any coordinate does [own]."""

TOLERANCES = {"float32": 1e-4, "tf32": 0.03, "float16": 0.03, "bfloat16": 0.1}
"""Largest difference between the same weights in this precision, as a share of the logits' spread [own]. Rounding
a whole model to it moved the logits of 25 small families and of Llamas of 32 layers by 0.6 % at most in float16, by 4 %
in bfloat16; float32 gave the same digits on one machine. tf32: float32 on a GPU that may shorten the factors."""

QUANTISED = 0.35
"""The same where one of the two has quantised weights and the other has not [own]: rounding the rows of weights to 8
bits moved the same logits by up to 8 %, to 4 bits by 5 to 95 %; the formats in use round less."""

NOTICED = 0.1
"""The share of the tolerance from which on a difference is said, though it is accepted [own]."""


@dataclass(frozen=True)
class Fingerprint:
    """token_ids: what was asked. logits: those of the last token at `vocabulary`. layers: for each block, in order,
    the sums of its output at the last token under PATTERNS patterns of signs, then its length.
    """

    token_ids: tuple[int, ...]
    vocabulary: tuple[int, ...]
    logits: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]
    model_type: str
    dtype: str
    quantised: bool

    def to_json(self) -> dict[str, Any]:
        """As a run's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Self:
        """What a run's settings hold, as to_json gave it; further fields are left alone.

        Raises OtherWeights for anything else: a run file may be damaged, or have been changed by hand.
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
                "expected what the run's model has answered (its fingerprint) in the run's settings, found "
                f"{str(document)[:40]!r}: the run file is damaged or was changed; nfinspect verify says more",
                "the run no longer says what its weights were",
            )
        return cls(ids, vocabulary, logits, tuple(row for row in rows if row), str(words[0]), str(words[1]), quantised)


@dataclass(frozen=True)
class Difference:
    """How far two fingerprints are apart. logits: mean |difference| over the logits' spread (mean |logit − mean|).

    first_layer: the first block whose output differs by more than the tolerance; None where only what follows the
    blocks does, or nothing.
    """

    logits: float
    tolerance: float
    first_layer: int | None

    @property
    def same(self) -> bool:
        return self.logits <= self.tolerance and self.first_layer is None


def fingerprint(loaded: LoadedModel, like: Fingerprint | None = None) -> Fingerprint:
    """The model's fingerprint. like: ask the same tokens, and read the same entries, as this one.

    The model may be in training mode; every module is left as it was. Raises OtherWeights where it lacks what `like`
    asks for.
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
    # A padded vocabulary may end in −inf; JSON has no word for it.
    kept = [place for place in places if like is not None or bool(last[place].isfinite())]
    return Fingerprint(
        token_ids=tuple(ids),
        vocabulary=tuple(kept),
        logits=tuple(_short(float(last[place])) for place in kept),
        layers=tuple(_sums(values) for values in outputs),
        model_type=loaded.model_type,
        dtype="tf32" if loaded.dtype == "float32" and _shortens(loaded) else loaded.dtype,
        quantised=getattr(loaded.model.config, "quantization_config", None) is not None,
    )


def difference(then: Fingerprint, now: Fingerprint) -> Difference:
    """How far apart two fingerprints of the same tokens are. Raises OtherWeights where they have other layers."""
    if len(then.layers) != len(now.layers):
        raise OtherWeights(f"expected {len(then.layers)} layers, found {len(now.layers)}: it is another model")
    tolerance = max(TOLERANCES.get(one.dtype, TOLERANCES["bfloat16"]) for one in (then, now))
    if then.quantised != now.quantised:
        tolerance = max(tolerance, QUANTISED)
    pairs = zip(then.layers, now.layers, strict=True)
    differing = (i for i, pair in enumerate(pairs) if not _apart(*pair) <= tolerance)  # NaN is no agreement
    return Difference(_logits_apart(then.logits, now.logits), tolerance, next(differing, None))


def check_same_weights(then: Fingerprint, loaded: LoadedModel, run: str) -> str:
    """What should be said of the difference between a run's model and this one, '' for nothing.

    Raises OtherWeights, in one line with the size of the difference, where they are other weights.
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
    """Whether float32 products have the precision of TF32 here, which is that of float16."""
    return loaded.device.startswith("cuda") and torch.get_float32_matmul_precision() != "highest"


def _spread(wanted: int, of: int) -> tuple[int, ...]:
    """So many of 0 .. of - 1, evenly spread, neither end among them."""
    wanted = min(wanted, of)
    return tuple((2 * i + 1) * of // (2 * wanted) for i in range(wanted))


def _whole(values: object) -> tuple[int, ...] | None:
    """Places in a vocabulary, None for anything else."""
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        return None
    return tuple(values)


def _numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    try:
        return tuple(map(float, values))
    except OverflowError:  # a whole number beyond a float
        return None


def _sums(values: Tensor) -> tuple[float, ...]:
    """float32[coordinates] -> its sums under patterns of signs (+−+−…, ++−−…, …), and its length."""
    place = torch.arange(len(values))
    signs = [1.0 - 2.0 * ((place >> k) & 1).float() for k in range(PATTERNS)]
    found = [float((values * sign).double().sum()) for sign in signs]
    return tuple(map(_short, (*found, float(values.double().norm()))))


def _short(value: float) -> float:
    """Seven digits: more than float32 has."""
    return float(f"{value:.7g}")


def _apart(then: Sequence[float], now: Sequence[float]) -> float:
    """Mean difference of two blocks' sums over the length of the first: about |difference| / |output|."""
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
