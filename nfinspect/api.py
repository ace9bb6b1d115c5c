"""What `import nfinspect as nf` offers: capture a model in memory, record one's own forward passes, open a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nfinspect.capturing.arrays import utc_now
from nfinspect.capturing.errors import BadPrompts, CaptureError
from nfinspect.capturing.passes import recorded_passes
from nfinspect.capturing.prompts import PromptIds, PromptText, prompt_ids
from nfinspect.capturing.recorder import Recorder
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import (
    Capture,
    Listener,
    default_name,
    give_up,
    new_run_info,
    statistics_device,
    store_layers,
)
from nfinspect.models import LoadedModel, TokenTexts, by_site, find_sites, in_memory
from nfinspect.run import Run
from nfinspect_store.catalog import new_run_path, store_path
from nfinspect_store.types import Keep
from nfinspect_store.writer import RunWriter


def capture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Sequence[str]] | Sequence[str],
    *,
    store: str | Path | None = None,
    **options: Any,
) -> Run:
    """Capture a model that is in memory over prompts, and open the run.

    prompts: texts by concept, or texts alone (their concept is "prompts"). options: generate, sites, layers, keep,
    run, batch_size, seed, temperature, mode, truncate, limit_bytes, resume, as in CaptureRequest. A model in training
    mode is captured in eval mode and put back. Raises what `nfinspect capture` reports: ModelError, BadPrompts,
    StoreError.
    """
    by_concept = prompts if isinstance(prompts, Mapping) else {"prompts": prompts}
    for group in by_concept.values():
        if isinstance(group, str):  # a string is a sequence, too: of its letters
            raise BadPrompts(f"expected a list of prompts, found the text {group[:40]!r}: put it into a list")
    texts = [
        PromptText(concept, text, f"{concept} prompt {i + 1}")
        for concept, group in by_concept.items()
        for i, text in enumerate(group)
    ]
    loaded = in_memory(model, tokenizer)
    was_training = model.training
    model.train(False)
    try:
        path = _GivenTexts(CaptureRequest(loaded.name, store_path(store), **options), loaded, texts).run()
    finally:
        model.train(was_training)
    return Run.open(path)


class _GivenTexts(Capture):
    """A capture of texts that are in memory."""

    def __init__(self, request: CaptureRequest, loaded: LoadedModel, texts: Sequence[PromptText]) -> None:
        self._given = texts
        super().__init__(request, loaded, Listener())

    def read_prompts(self) -> list[PromptIds]:
        return prompt_ids(self._given, self.loaded.tokenizer)


class Recording:
    """What `record` yields: `path` at once, `run` when the block has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Run:
        """The finished run. Raises RunBusy inside the block."""
        return Run.open(self.path)


@contextmanager
def record(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    store: str | Path | None = None,
    run: str | None = None,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    concept: str = "recorded",
    keep: Keep = "all",
    seed: int = 0,
) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the block: each row of input_ids becomes a prompt of `concept`.

    attention_mask says which tokens are real, on either side. A pass that goes on from a cache (a decoding step) is
    refused: `capture` records generations. An exception in the block leaves no run. Raises ModelError, RunExists,
    StorageFull, CaptureError.
    """
    loaded = in_memory(model, tokenizer)
    found = by_site(find_sites(model, sites, layers))
    name = run or default_name(loaded.name)
    path = new_run_path(store_path(store), name)
    info = new_run_info("record", name, loaded, loaded.name, seed, {"keep": keep})
    writer = RunWriter.create(path, info, store_layers(found))
    try:
        recorder = Recorder(writer, seed, statistics_device(loaded))
        with recorded_passes(model, found, recorder, TokenTexts(tokenizer), concept):
            yield Recording(path)
        if not recorder.tokens:
            raise CaptureError("expected forward passes inside the block, found no forward pass over a token")
        recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
        writer.close()
    except BaseException:
        give_up(writer, "failed")
        raise
