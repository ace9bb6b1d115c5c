"""Pieces of runs made from arrays, so that what is in them is known."""

from collections.abc import Callable

import numpy as np

from nfinspect.capturing.arrays import ArrayPrompt
from nfinspect_store.reader import RunFile
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.types import Layer

MakeRun = Callable[..., RunFile]


def array_prompt(concept: str, tokens: int, prompt_tokens: int | None = None, text: str = "") -> ArrayPrompt:
    """A prompt of `tokens` tokens w0, w1, …; all of them read unless `prompt_tokens` says fewer."""
    read = tokens if prompt_tokens is None else prompt_tokens
    words = [f" w{i}" for i in range(tokens)]
    return ArrayPrompt(concept, text or f"{concept} text", list(range(tokens)), words, read)


def mlp_layers(count: int, neurons: int, activation: str = "gelu") -> list[Layer]:
    return [Layer(i, "mlp", i, f"h.{i}.mlp", neurons, activation, "positive") for i in range(count)]


def statistics_of(values: np.ndarray) -> NeuronStatistics:
    """Of float32[tokens, neurons], in one piece."""
    wide = values.astype(np.float64)
    mean = wide.mean(axis=0)
    powers = [((wide - mean) ** k).sum(axis=0) for k in (2, 3, 4)]
    return NeuronStatistics(
        n=np.full(values.shape[1], len(values), np.int64),
        fired=(values > 0).sum(axis=0),
        mean=mean,
        m2=powers[0],
        m3=powers[1],
        m4=powers[2],
        minimum=values.min(axis=0),
        maximum=values.max(axis=0),
        sum_abs=np.abs(wide).sum(axis=0),
    )
