"""What a capture would cost, told before it is begun: tokens, values, bytes, memory, time."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from nfinspect.capturing.examples import KEPT
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import STORED_PER_BYTE, Capture, Listener, load
from nfinspect_store.blocks import QUEUE_BYTES
from nfinspect_store.histogram import BINS

STATISTICS_BYTES = 9 * 8
"""Of one neuron, for each concept, at position 0 and past it."""

EXAMPLE_BYTES = 3 * KEPT * 12


@dataclass(frozen=True)
class Estimate:
    """tokens counts every new token as written (an end of sequence may come earlier). seconds: this machine, now, from
    one measured batch, without loading the model. memory_bytes: the weights, one batch and the writer's queue."""

    tokens: int
    values: int
    bytes: int
    seconds: float
    memory_bytes: int


def estimate(request: CaptureRequest) -> Estimate:
    """Load the model and measure one batch in a temporary place; the store is left alone. Raises as capture_run."""
    with tempfile.TemporaryDirectory(prefix="nfinspect-") as scratch:
        sample = replace(request, store=Path(scratch), run="sample", resume=False, limit_bytes=None)
        return _estimate(Capture(sample, load(sample), Listener()))


def _estimate(capture: Capture) -> Estimate:
    request = capture.request
    neurons = sum(layer.neurons for layer in capture.layers)
    values = capture.tokens * neurons
    groups = 2 * len({prompt.concept for prompt in capture.prompts})
    selections = 3 if request.generate else 2
    kept = neurons * (groups * STATISTICS_BYTES + 2 * BINS + EXAMPLE_BYTES)
    means = len(capture.prompts) * selections * neurons * 4
    stored = int(4 * values * STORED_PER_BYTE) if request.keep == "all" else 0
    widest = max(
        (batch.stop - batch.start) * (len(capture.prompts[batch.start].token_ids) + request.generate)
        for batch in capture.batches
    )
    weights = sum(p.numel() * p.element_size() for p in capture.loaded.model.parameters())
    batch_bytes = widest * neurons * 4
    state = neurons * (groups * STATISTICS_BYTES + 2 * BINS * 8 + EXAMPLE_BYTES)
    return Estimate(
        tokens=capture.tokens,
        values=values,
        bytes=stored + kept + means,
        seconds=capture.tokens * _seconds_per_token(capture),
        memory_bytes=weights + 2 * batch_bytes + state + (QUEUE_BYTES if request.keep == "all" else 0),
    )


def _seconds_per_token(capture: Capture) -> float:
    """Of the first batch, generated, read and recorded. It is taken twice: the first pass pays for warming up."""
    reader = capture.reader()
    batch = capture.batches[0]
    prompts, _ = capture.read_batch(reader, batch)
    with capture.recording() as recorder:
        start = time.perf_counter()
        again, values = capture.read_batch(reader, batch)
        recorder.add(again, values)
        seconds = time.perf_counter() - start
    return seconds / sum(len(prompt.token_ids) for prompt in prompts)
