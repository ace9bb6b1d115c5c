"""Runs of any size recorded from arrays, by the recorder that captures use: what recording takes, without a model.

The values are slices of one matrix drawn beforehand, so that making them takes no time; a slice begins at another row
for each batch and layer, and no two blocks are equal before a million tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.types import Keep, Layer, Precision, utc_now
from nfinspect_store.writer import RunWriter

BATCH_TOKENS = 1024
STARTS = 1009
"""Rows at which a slice may begin; a prime, so that they are all used before one comes again."""

CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")
VOCABULARY = 50_257


def gated(layers: int = 8, neurons: int = 1408) -> list[Layer]:
    """The layers of a Llama: a neuron fires by its gate."""
    return [Layer(i, "mlp", i, f"layers.{i}.mlp", neurons, "silu", "gate") for i in range(layers)]


def gpt2(layers: int = 12, neurons: int = 3072) -> list[Layer]:
    """The layers of GPT-2-small: a neuron fires where it is above zero."""
    return [Layer(i, "mlp", i, f"h.{i}.mlp", neurons, "gelu_new", "positive") for i in range(layers)]


class Source:
    """Prompts of `length` tokens with the values of all layers, which have as many neurons each."""

    def __init__(self, layers: Sequence[Layer], length: int, batch_tokens: int = BATCH_TOKENS) -> None:
        self.layers = list(layers)
        self.length = length
        self._prompts = max(1, batch_tokens // length)
        rows, neurons = STARTS + self._prompts * length, layers[0].neurons
        rng = np.random.default_rng(0)
        self._values = rng.standard_normal((rows, neurons), np.float32)
        self._values -= np.linspace(-0.5, 3, neurons, dtype=np.float32)  # neurons fire on 70 % of the tokens to 0.1 %
        self._fired = self._values > 0
        held = np.cumsum(1 / (np.arange(VOCABULARY) + 3))
        self._ids = np.searchsorted(held / held[-1], rng.random(rows)).clip(max=VOCABULARY - 1)

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return sum(layer.neurons for layer in self.layers)

    def batches(self, tokens: int) -> Iterator[tuple[list[RecordedPrompt], dict[int, LayerValues]]]:
        """At least so many tokens, in whole batches of whole prompts; the last may hold fewer prompts."""
        prompts = -(-tokens // self.length)
        for number, first in enumerate(range(0, prompts, self._prompts)):
            count = min(self._prompts, prompts - first)
            yield (
                [self._prompt(first + i, number) for i in range(count)],
                {layer.layer_id: self._layer(layer, number, count * self.length) for layer in self.layers},
            )

    def _start(self, number: int, layer: int = 0) -> int:
        return (105 * number + 131 * layer) % STARTS

    def _layer(self, layer: Layer, number: int, tokens: int) -> LayerValues:
        start = self._start(number, layer.layer_id)
        rows = slice(start, start + tokens)
        return LayerValues(self._values[rows], self._fired[rows] if layer.fires == "gate" else None)

    def _prompt(self, index: int, number: int) -> RecordedPrompt:
        start = self._start(number) + index % self._prompts * self.length
        ids = self._ids[start : start + self.length].tolist()
        concept = CONCEPTS[index % len(CONCEPTS)]
        return RecordedPrompt(concept, f"prompt {index}", ids, [f" w{i}" for i in ids], self.length)


def record(
    path: Path,
    source: Source,
    tokens: int,
    *,
    keep: Keep = "all",
    precision: Precision = "float32",
    writers: int = 1,
    settings: Mapping[str, Any] = MappingProxyType({}),
    after: Callable[[Recorder], object] = lambda recorder: None,
) -> int:
    """Write a whole run, and return its tokens. after: called after each batch."""
    info = replace(array_info(path.stem, 0), settings={**settings, "keep": keep, "precision": precision})
    writer = RunWriter.create(path, info, source.layers, writers=writers)
    with Heartbeat(path):
        recorder = Recorder(writer, 0, torch.device("cpu"), writers=writers)
        for prompts, values in source.batches(tokens):
            recorder.add(prompts, values)
            after(recorder)
        recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
        writer.close()
    return recorder.tokens
