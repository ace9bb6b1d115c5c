"""Runs made from arrays, batch by batch, with segments where a test wants them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect_store.types import Keep, Layer, Precision, utc_now
from nfinspect_store.writer import RunWriter

LAYERS = [
    Layer(0, "mlp", 0, "h.0.mlp", 5, "relu", "positive"),
    Layer(1, "mlp", 1, "h.1.mlp", 7, "silu", "gate"),
    Layer(2, "resid", 0, "h.0", 3, "", "scale"),
]
CONCEPTS = ("tulip", "baseline")


@dataclass(frozen=True)
class Arrays:
    """Prompts with all their values and gates, by layer_id: [tokens, neurons] each."""

    prompts: list[RecordedPrompt]
    values: list[dict[int, NDArray[np.float32]]]
    fired: list[dict[int, NDArray[np.bool_]]]

    def layer(self, layer_id: int) -> NDArray[np.float32]:
        """float32[tokens, neurons] of the whole run."""
        return np.concatenate([v[layer_id] for v in self.values])

    @property
    def first(self) -> NDArray[np.bool_]:
        """bool[tokens]: at position 0."""
        return np.concatenate([np.arange(len(p.token_ids)) == 0 for p in self.prompts])

    @property
    def concept(self) -> NDArray[np.str_]:
        """str[tokens]."""
        return np.concatenate([[p.concept] * len(p.token_ids) for p in self.prompts])


def make_arrays(sizes: Sequence[int], seed: int = 0) -> Arrays:
    """Prompts of these sizes, concepts in turn. Values are quarters, so that many tie.

    The last third of a prompt is generated, and the whole of the sixth.
    """
    rng = np.random.default_rng(seed)
    prompts, values, fired = [], [], []
    for i, size in enumerate(sizes):
        ids = rng.integers(0, 50, size).tolist()
        read = 0 if i == 5 else max(1, size - size // 3)
        prompts.append(RecordedPrompt(CONCEPTS[i % 2], f"prompt {i}", ids, [f" t{t}" for t in ids], read))
        values.append(
            {x.layer_id: (np.round(rng.normal(size=(size, x.neurons)) * 4) / 4).astype(np.float32) for x in LAYERS}
        )
        np.maximum(values[-1][0], 0, out=values[-1][0])
        fired.append({1: rng.random((size, 7)) < 0.3})
    return Arrays(prompts, values, fired)


def held(array: NDArray[Any], dtype: torch.dtype | None) -> Any:
    """The array itself, or a tensor of a precision."""
    return array if dtype is None else torch.from_numpy(array).to(dtype)


def record_arrays(
    path: Path,
    arrays: Arrays,
    *,
    batch: int = 8,
    segment: int | None = None,
    keep: Keep = "all",
    seed: int = 0,
    precision: Precision = "float32",
    writers: int = 1,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a run: `batch` prompts at a time, a segment after every `segment` batches. dtype: as on a GPU, from tensors
    of this precision.
    """
    info = array_info(path.stem, seed)
    settings = {"keep": keep, "precision": precision}
    writer = RunWriter.create(path, replace(info, settings=settings), LAYERS, writers=writers)
    recorder = Recorder(writer, seed, torch.device("cpu" if dtype is None else "cuda"), writers=writers)
    for number, start in enumerate(range(0, len(arrays.prompts), batch)):
        chosen = range(start, min(start + batch, len(arrays.prompts)))
        if segment and number and number % segment == 0:
            recorder.commit({"status": "capturing"}, final=False)
        recorder.add(
            [arrays.prompts[i] for i in chosen],
            {
                x.layer_id: LayerValues(
                    held(np.concatenate([arrays.values[i][x.layer_id] for i in chosen]), dtype),
                    held(np.concatenate([arrays.fired[i][1] for i in chosen]), torch.bool if dtype else None)
                    if x.fires == "gate"
                    else None,
                )
                for x in LAYERS
            },
        )
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()
    return path
