"""What a capture would cost, before it is begun: tokens, values, bytes, memory, time."""

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from nfinspect.capturing.plan import read_files
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import Capture, EditsIn, Listener, load
from nfinspect.capturing.sizes import most_beyond, run_bytes, state_bytes
from nfinspect_store.blocks import QUEUE_BYTES
from nfinspect_store.names import RUN_SUFFIX
from nfinspect_store.paths import nearest_folder


@dataclass(frozen=True)
class Estimate:
    """tokens: recorded, as if every new token were generated (an end of sequence may come earlier). values: on these
    tokens, whether or not they are kept. bytes: with --where beyond=pX as if 100 - X % of the values were kept; fewer
    are. seconds: on this machine, from one measured batch, without loading the model. memory_bytes: weights, two
    batches of values (three with compiled steps), statistics and the writer's queue. free_bytes: on the store's disk;
    fits: whether the run, up to its byte limit, has room there.
    """

    tokens: int
    values: int
    bytes: int
    seconds: float
    memory_bytes: int
    free_bytes: int
    fits: bool


def estimate(request: CaptureRequest, edits_in: EditsIn | None = None) -> Estimate:
    """Load the model and measure one batch in a temporary directory, not in the store. Raises as capture_run."""
    with tempfile.TemporaryDirectory(prefix="nfinspect-") as scratch:
        sample = replace(request, store=Path(scratch), run="sample", resume=False, limit_bytes=None)
        files = read_files(sample)
        return _estimate(Capture(sample, load(sample), Listener(), files, edits_in), request)


def _estimate(capture: Capture, asked: CaptureRequest) -> Estimate:
    """asked: the request as it was made, of which `capture` is a sample."""
    request = capture.request
    neurons = sum(layer.neurons for layer in capture.layers)
    held = sum(capture.held)
    values = capture.tokens * held
    beyond = None if request.where is None else request.where.beyond
    prompts = [capture.prompts[i] for i in capture.own]
    concepts = len({prompt.concept for prompt in prompts})
    size = run_bytes(
        capture.layers,
        request.keep,
        request.precision,
        tokens=capture.tokens,
        prompts=len(prompts),
        concepts=concepts,
        generates=request.generate > 0,
        beyond=most_beyond(beyond, values),
        held=capture.held,
    )
    sizes = [len(prompt.token_ids) + request.generate for prompt in capture.prompts]
    tokens_of = ((batch.stop - batch.start) * max(sizes[batch.start : batch.stop]) for batch in capture.batches)
    widest = max(tokens_of, default=0)
    weights = sum(p.numel() * p.element_size() for p in capture.loaded.model.parameters())
    batch_bytes = widest * held * 4
    state = state_bytes(neurons, concepts)
    free = shutil.disk_usage(nearest_folder(asked.store)).free
    return Estimate(
        tokens=capture.tokens,
        values=values,
        bytes=size,
        seconds=capture.read_tokens * _seconds_per_token(capture) if capture.batches else 0.0,
        memory_bytes=weights
        + (2 + request.compiled) * batch_bytes
        + state
        + (QUEUE_BYTES if request.keep == "all" else 0),
        free_bytes=free,
        fits=min(size, asked.limit_bytes or size) <= free + _written(asked),
    )


def _written(asked: CaptureRequest) -> int:
    """Bytes that a run which is to be resumed takes already."""
    path = asked.store / f"{asked.run}{RUN_SUFFIX}"
    return path.stat().st_size if asked.resume and asked.run and path.is_file() else 0


def _seconds_per_token(capture: Capture) -> float:
    """Of the tokens read in the first batch, also generated and recorded, when it is run for the second time: the first
    is a warm-up.
    """
    reader = capture.reader()
    batch = capture.batches[0]
    for _ in capture.read_with_less(reader, batch):
        pass
    with capture.recording() as recorder:
        start = time.perf_counter()
        tokens = 0
        for prompts, values in capture.read_with_less(reader, batch):
            recorder.add(prompts, values)
            tokens += sum(len(prompt.token_ids) for prompt in prompts)
        return (time.perf_counter() - start) / tokens
