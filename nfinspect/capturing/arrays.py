"""A run from arrays instead of a model: for simulated networks, for tests, for activations from elsewhere."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect_store.errors import RequestError
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.processors import Writers, writer_threads
from nfinspect_store.types import Keep, Layer, Precision, RunInfo, utc_now
from nfinspect_store.writer import RunWriter


@dataclass(frozen=True)
class ArrayPrompt:
    """A prompt whose values are given. Tokens from index `prompt_tokens` on count as generated."""

    concept: str
    text: str
    token_ids: list[int]
    tokens: list[str]
    prompt_tokens: int


def write_run(
    path: str | Path,
    *,
    layers: Sequence[Layer],
    prompts: Sequence[ArrayPrompt],
    values: Callable[[int, Layer], NDArray[np.float32]],
    fired: Callable[[int, Layer], NDArray[np.bool_]] | None = None,
    info: RunInfo | None = None,
    keep: Keep = "all",
    precision: Precision = "float32",
    seed: int = 0,
    batch: int = 8,
    writers: Writers = "auto",
    tables: Mapping[str, pa.Table] | None = None,
) -> None:
    """Write a complete run file, with the same recorder as a capture.

    values(prompt_idx, layer) -> float32[tokens, neurons]; fired: bool of the same shape, for layers that fire by a
    gate. tables: optional tables of the run (schema.OPTIONAL_TABLES). writers: threads that record and write. Raises
    StoreError, RunExists, and RequestError if `fired` is needed and not given; then no file is left.
    """
    path = Path(path)
    gated = [f"{layer.site} L{layer.layer}" for layer in layers if layer.fires == "gate"]
    if gated and fired is None:
        raise RequestError(
            f"expected `fired` for layers that fire by a gate ({', '.join(gated)}), found none: "
            "the values alone do not say when they fire"
        )
    settings = {**(info.settings if info else {}), "keep": keep, "precision": precision}
    info = replace(info or array_info(path.stem, seed), settings=settings)
    threads = writer_threads(writers)
    writer = RunWriter.create(path, info, layers, writers=threads)
    with Heartbeat(path) as heartbeat:
        try:
            heartbeat.beat(tokens_total=sum(len(prompt.token_ids) for prompt in prompts))
            for name, rows in (tables or {}).items():
                writer.add_table(name, rows)
            recorder = Recorder(writer, seed, torch.device("cpu"), writers=threads)
            for start in range(0, len(prompts), batch):
                indices = range(start, min(start + batch, len(prompts)))
                recorder.add(
                    [RecordedPrompt(**vars(prompts[i])) for i in indices],
                    {layer.layer_id: _joined(layer, indices, values, fired) for layer in layers},
                )
            recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
        except BaseException:
            writer.discard()
            raise
        writer.close()


def array_info(name: str, seed: int) -> RunInfo:
    """The `run` row of a run without a model."""
    return RunInfo(
        run_id=uuid.uuid4().hex,
        name=name,
        kind="arrays",
        model="",
        model_type="",
        dtype="float32",
        device="cpu",
        seed=seed,
        created_at=utc_now(),
    )


def _joined(
    layer: Layer,
    indices: range,
    values: Callable[[int, Layer], NDArray[np.float32]],
    fired: Callable[[int, Layer], NDArray[np.bool_]] | None,
) -> LayerValues:
    joined = np.concatenate([np.asarray(values(i, layer), np.float32) for i in indices])
    gates = None
    if layer.fires == "gate":
        assert fired is not None
        gates = np.concatenate([np.asarray(fired(i, layer), np.bool_) for i in indices])
    return LayerValues(joined, gates)
