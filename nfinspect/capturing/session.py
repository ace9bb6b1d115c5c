"""A capture from beginning to end: load, plan, read batch by batch, commit in segments, always end cleanly."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfinspect.capturing.compiled_steps import CompiledSteps, check_compilable
from nfinspect.capturing.errors import BadPrompts, CaptureInterrupted, LimitReached, OutOfMemory
from nfinspect.capturing.following import Follower, TellToken
from nfinspect.capturing.generation import generate
from nfinspect.capturing.interrupts import StopRequest
from nfinspect.capturing.memory import free_after_failure, is_out_of_memory
from nfinspect.capturing.new_run import default_name, new_run_info, store_layers
from nfinspect.capturing.plan import Batch, Files, fitting, load_prompts, notes_on, plan_batches, read_files
from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.reading import BatchReader, Values
from nfinspect.capturing.recorder import RecordedPrompt, Recorder
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.resume import (
    check_same_capture,
    check_same_layers,
    check_same_model,
    run_to_resume,
    settings_of,
    was_not_begun,
)
from nfinspect.capturing.shard import batches_of, part_name, settings_of_part
from nfinspect.capturing.sizes import most_beyond, run_bytes
from nfinspect.capturing.where import chosen_tokens, nothing_recorded
from nfinspect.capturing.writing import writing
from nfinspect.model_files import full_name, lasting_name, split_revision, weights_stamp
from nfinspect.models import (
    LayerSite,
    LoadedModel,
    TokenTexts,
    by_site,
    dependence,
    find_sites,
    load_model,
    require_causal,
    rope_limit,
    sees_ahead,
    steps_clamp_as_a_pass,
    why_no_mlp,
)
from nfinspect.models.editing import Edit, edited
from nfinspect_store.atomic import remove
from nfinspect_store.byte_limits import NEEDED, limit_text, resume_advice
from nfinspect_store.catalog import new_run_path, store_path
from nfinspect_store.edits import edits_text
from nfinspect_store.errors import NfinspectError, RequestError
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.processors import writer_threads
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Progress, Status, utc_now
from nfinspect_store.writer import RunWriter

CHECKED = 64
"""Tokens of the first prompt that are read once without edits, to check the sites."""

COPY_TOLD = 100 * 10**6
"""Bytes of a finished file from which copying it is announced: it takes seconds or more."""


@dataclass(frozen=True)
class Listener:
    """Where a capture reports to: progress after each batch, and one-line messages.

    sharing: inside this context others may read the run while it is written; None: nobody does. follows: asked before
    each batch is written, for what takes the tokens of its first prompt; None: nobody follows them. watched: whether
    somebody reads the run now: commits come often then.
    """

    progress: Callable[[Progress], None] = lambda progress: None
    message: Callable[[str], None] = lambda text: None
    sharing: Callable[[RunWriter], contextlib.AbstractContextManager[None]] | None = None
    follows: Callable[[], TellToken | None] = lambda: None
    watched: Callable[[], bool] = lambda: False


EditsIn = Callable[[LoadedModel], Sequence[Edit]]
"""What the edits of a request are in its model."""


def capture_run(request: CaptureRequest, listener: Listener | None = None, edits_in: EditsIn | None = None) -> Path:
    """Capture the run that `request` asks for; returns its path. edits_in: for a request with edits.

    Raises ModelError, BadPrompts, RunExists, StorageFull, CaptureInterrupted (what was recorded is kept) and the other
    NfinspectErrors. A run that fails before its first segment leaves no file.
    """
    files = read_files(request)  # before loading, which takes minutes: a file may be unreadable
    return Capture(request, load(request), listener or Listener(), files, edits_in).run()


def load(request: CaptureRequest) -> LoadedModel:
    """The model of a request, after checking the store and the run's name."""
    store = store_path(request.store)
    if request.run is not None:
        path = new_run_path(store, _named(request, request.run))
        if path.exists() and not request.resume:
            RunWriter.refuse_existing(path)
    return load_model(
        request.model,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        allow_pickle=request.allow_pickle,
    )


class Capture:
    """One capture: what it will read, and the code that reads it."""

    def __init__(
        self,
        request: CaptureRequest,
        loaded: LoadedModel,
        listener: Listener,
        files: Files | None = None,
        edits_in: EditsIn | None = None,
    ) -> None:
        """files: the content of the request's files; None: read them now."""
        # `NAME@R` and `NAME --revision R` are the same request; the run's model includes R, to find the model again.
        _, revision = split_revision(request.model, request.revision)
        request = replace(request, model=full_name(request.model, revision), revision=revision)
        self.request = request
        self.loaded = loaded
        self._listener = listener
        self._store = store_path(request.store)
        self.sites = by_site(find_sites(loaded.model, request.sites, request.layers, experts=True))
        if request.generate:
            require_causal(loaded.model, "--generate")
        if request.compiled:
            check_compilable(loaded.model)
        self._steps: dict[bool, CompiledSteps] = {}
        self.notes = _notes(request, loaded, self.sites)
        self.layers = store_layers(self.sites)
        self.held = [site.held for site in self.sites]
        """Of each layer how many values a token has."""
        self.prompts = fitting(self.read_prompts(files), request, loaded)
        self.batches = plan_batches(self.prompts, request, loaded, self.held)
        self.own = range(len(self.prompts))
        """Which of the prompts are captured: all, or those of a part."""
        self._chosen = chosen_tokens(request.where, self.prompts, request.generate)
        self._edits = _edits(request, loaded, edits_in)
        settings = settings_of(request, self.prompts, self._edits)
        if request.shard is not None:
            every = len(self.prompts)
            sizes = [len(prompt.token_ids) + request.generate for prompt in self.prompts]
            chosen = batches_of(request.shard, [sum(sizes[one.start : one.stop]) for one in self.batches])
            ends = [0, *(one.stop for one in self.batches)]
            self.own = range(ends[chosen.start], ends[chosen.stop])
            self.batches = self.batches[chosen.start : chosen.stop]
            settings = settings_of_part(settings, request.shard, self.own, every, self.layers, loaded.dtype)
            self.request = request = replace(request, precision="float32")
        self.read_tokens = sum(len(self.prompts[i].token_ids) + request.generate for i in self.own)
        self.tokens = self.read_tokens if self._chosen is None else sum(int(self._chosen[i].sum()) for i in self.own)
        self._settings = {**settings, **({"notes": self.notes} if self.notes else {})}
        self._texts = TokenTexts(loaded.tokenizer)
        self._most_prompts = max((batch.stop - batch.start for batch in self.batches), default=0)
        self._started = time.monotonic()
        self._needed = ""  # what to give as --limit-bytes for all of it, once the limit is reached
        self._tokens_before = 0
        found = (site.note for site in self.sites if site.note and not site.experts)  # of experts: in self.notes
        for note in dict.fromkeys((*self.notes, *found)):
            listener.message(note)
        for note in (*loaded.notes, *notes_on(self.prompts, request, loaded)):
            listener.message(note)

    def read_prompts(self, files: Files | None) -> list[PromptIds]:
        """What to read, in order. Override to capture prompts that are not in files."""
        return load_prompts(self.request, self.loaded, files or read_files(self.request))

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the run's contents, as JSON values."""
        return self._settings

    def weights(self) -> str:
        """The state of the files that the weights are from; '' if they are in memory, where they may change."""
        return weights_stamp(full_name(self.request.model, self.request.revision))

    def run(self) -> Path:
        """Capture everything that is not recorded yet; see capture_run."""
        model, edits = lasting_name(self.request.model), edits_text(self._settings)
        writer = self._writer()
        self._tokens_before = writer.tokens
        self._started = time.monotonic()
        with contextlib.ExitStack() as beating:
            try:
                heartbeat = beating.enter_context(Heartbeat(writer.path, model=model, edits=edits))
                reader = self.reader()
                sharing = self._listener.sharing or contextlib.nullcontext
                with StopRequest() as stop, sharing(writer):
                    recorder = self._recorder(writer)
                    self._tell(recorder, heartbeat, "reading")
                    reason = self._record(recorder, reader, stop, heartbeat)
                    stopped = CaptureInterrupted if stop.reason else LimitReached
                    if reason and not recorder.tokens:
                        raise stopped(f"stopped ({reason}) before anything was recorded: no run is kept")
                    if not recorder.tokens and self.request.shard is None:
                        raise BadPrompts(nothing_recorded(self.request.where))
                    self._tell(recorder, heartbeat, "finishing")
                    status: Status = "interrupted" if reason else "complete"
                    end = {"status": status, "finished_at": utc_now(), **self._settings_at_end(writer)}
                    recorder.commit(end, final=True)
                writer.close(self._copied)
            except BaseException as error:
                give_up(writer, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise
        if reason:
            raise stopped(
                f"stopped ({reason}) after {recorder.tokens:,} of {self.tokens:,} tokens, kept in {writer.path.stem}: "
                f"repeat the command {resume_advice(self._needed)} to continue"
            )
        return writer.path

    @contextlib.contextmanager
    def recording(self) -> Iterator[Recorder]:
        """A recorder of a new run that is deleted at the end, for measuring."""
        writer = self._writer()
        try:
            yield self._recorder(writer, commits=False)
        finally:
            writer.discard()

    def reader(self) -> BatchReader:
        """Hooks for this capture's sites."""
        reader = BatchReader(self.loaded, self.sites, edits_text(self._settings))
        if self._edits:  # its first pass checks the sites against the plain model: a gated MLP's values are edited
            reader.replay([self.prompts[0].token_ids[:CHECKED]])
        return reader

    def _recorder(self, writer: RunWriter, *, commits: bool = True) -> Recorder:
        device, writers = statistics_device(self.loaded), writer_threads(self.request.writers)
        watched = self._listener.watched
        return Recorder(
            writer,
            self.request.seed,
            device,
            commits=commits,
            writers=writers,
            watched=watched,
            first_prompt=self.own.start,
        )

    def read_batch(self, reader: BatchReader, batch: Batch) -> tuple[list[RecordedPrompt], Values]:
        """Generate after the batch's prompts, and read every value."""
        prompts = self.prompts[batch.start : batch.stop]
        chosen = None if self._chosen is None else self._chosen[batch.start : batch.stop]
        read = [list(prompt.token_ids) for prompt in prompts]
        longest = max(len(prompt) for prompt in read) + self.request.generate
        limit = rope_limit(self.loaded.model)
        # On the CPU hooks cost less than a second pass; on a GPU they cost each short step (docs/decisions/0005).
        wanted = self.request.mode == "live" or (self.request.mode == "auto" and self.loaded.device == "cpu")
        # Only a replay gives the values of a single pass if decoding steps do not clamp as that does, or if the model
        # changes its rotary angles beyond the limit.
        steps_agree = (limit is None or longest <= limit) and steps_clamp_as_a_pass(self.loaded.model)
        live = wanted and self.request.generate > 0 and steps_agree and writing(self.loaded.model).stepwise
        if self.request.compiled:
            live = live and reader.reads_in_graphs
        steps = self._compiled(live)

        def write() -> list[list[int]]:
            with self._follower(batch.start) as follower:
                return generate(
                    self.loaded.model,
                    read,
                    new_tokens=self.request.generate,
                    prompt_indices=range(batch.start, batch.stop),
                    pad_id=self.loaded.pad_id,
                    seed=self.request.seed,
                    temperature=self.request.temperature,
                    read_last=live,
                    follower=follower,
                    steps=steps,
                )

        if live:
            with self._edited():  # before the reader's hooks, which see what the model goes on with
                sequences, values = reader.live(write, read, chosen, steps)
        else:
            sequences = read
            if self.request.generate:
                with self._edited():
                    sequences = write()
            with self._edited():
                values = reader.replay(sequences, self.request.padding_side, chosen)
        kept: Sequence[NDArray[np.bool_] | None] = chosen or [None] * len(prompts)
        return [self._recorded(*one) for one in zip(prompts, sequences, kept, strict=True)], values

    def _compiled(self, live: bool) -> CompiledSteps | None:
        """What a batch is decoded with if --compiled: the same for all live ones, another for those read afterwards."""
        if self.request.compiled and live not in self._steps:
            longest, new = max(len(prompt.token_ids) for prompt in self.prompts), self.request.generate
            sites = self.sites if live else ()
            self._steps[live] = CompiledSteps(self.loaded.model, sites, most=new, cache=longest + new + 1)
        return self._steps.get(live)

    def _edited(self) -> contextlib.AbstractContextManager[None]:
        """In which one batch is read or written with the edits."""
        return edited(self.loaded, self._edits, self.request.edits_from) if self._edits else contextlib.nullcontext()

    def _follower(self, number: int) -> contextlib.AbstractContextManager[Follower | None]:
        """What tells a prompt and its text while it is written; nothing if nobody follows."""
        tell = self._listener.follows()
        if tell is None or self.request.compiled:  # its hooks would be part of the graph
            return contextlib.nullcontext()
        sites = [site for site in self.sites if site.site == self.sites[0].site and not site.experts]
        prompt = self.prompts[number].token_ids
        return Follower(self.loaded, sites, prompt, tell, number=number, check=not self._edits)

    def _record(self, recorder: Recorder, reader: BatchReader, stop: StopRequest, heartbeat: Heartbeat) -> str | None:
        """Record what remains; returns why it stopped early, if it did."""
        for batch in self._remaining(self.own.start + recorder.prompts):
            if stop.reason:
                return stop.reason
            limit = self.request.limit_bytes
            if limit is not None and (expected := self._bytes_with(batch, recorder)) > limit:
                whole = self._bytes_with(Batch(batch.start, self.own.stop), recorder)
                self._needed = limit_text(whole)
                return f"--limit-bytes {limit}: about {expected:,} bytes with the next batch, {whole:,} in all"
            for prompts, values in self.read_with_less(reader, batch):
                recorder.add(prompts, values)
                values.clear()  # before the next batch is read: a GPU may not hold two
            self._tell(recorder, heartbeat, "reading")
        return None

    def _settings_at_end(self, writer: RunWriter) -> dict[str, str]:
        """The column of the run's settings, if they change at its end."""
        if not self._needed and not self.request.resume:
            return {}
        settings = {key: value for key, value in writer.tables().info.settings.items() if key != NEEDED}
        return {"settings": json.dumps(settings | ({NEEDED: self._needed} if self._needed else {}))}

    def _bytes_with(self, batch: Batch, recorder: Recorder) -> int:
        """About the size of the file with `batch` in it."""
        prompts = self.prompts[self.own.start : batch.stop]
        if self._chosen is None:
            coming = sum(len(p.token_ids) + self.request.generate for p in self.prompts[batch.start : batch.stop])
        else:
            coming = sum(int(one.sum()) for one in self._chosen[batch.start : batch.stop])
        return run_bytes(
            self.layers,
            self.request.keep,
            self.request.precision,
            tokens=recorder.tokens + coming,
            prompts=len(prompts),
            concepts=len({p.concept for p in prompts}),
            generates=self.request.generate > 0,
            beyond=recorder.writer.beyond_rows + most_beyond(recorder.writer.beyond, coming * sum(self.held)),
            held=self.held,
        )

    def _remaining(self, recorded: int) -> Iterator[Batch]:
        """The batches after the prompts already recorded; the first may be the rest of one split for lack of memory."""
        for batch in self.batches:
            if batch.stop > recorded:
                yield Batch(max(batch.start, recorded), batch.stop)

    def read_with_less(self, reader: BatchReader, batch: Batch) -> Iterator[tuple[list[RecordedPrompt], Values]]:
        """Read a batch; if memory runs out, in halves, halved again as often as necessary."""
        start = batch.start
        while start < batch.stop:
            part = Batch(start, min(start + self._most_prompts, batch.stop))
            try:
                read = self.read_batch(reader, part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                size = part.stop - part.start
                if size == 1:
                    longest = len(self.prompts[part.start].token_ids) + self.request.generate
                    raise OutOfMemory(
                        f"one prompt of {longest:,} tokens does not fit into the memory of {self.loaded.device}: "
                        "use a shorter --context, fewer --sites or --layers, or a smaller --dtype"
                    ) from error
                self._most_prompts = max(1, size // 2)
                self._listener.message(f"out of memory: continuing with batches of {self._most_prompts:,} prompts")
            else:
                yield read
                start = part.stop
                continue
            free_after_failure()

    def _recorded(self, prompt: PromptIds, sequence: Sequence[int], chosen: NDArray[np.bool_] | None) -> RecordedPrompt:
        roles = prompt.roles and (*prompt.roles, *("assistant",) * (len(sequence) - len(prompt.roles)))
        pieces = self._texts.pieces(sequence)
        return RecordedPrompt(
            prompt.concept,
            prompt.text,
            sequence,
            pieces.texts,
            prompt_tokens=len(prompt.token_ids),
            raw=pieces.raw,
            roles=roles or (),
            chosen=None if chosen is None else chosen[: len(sequence)],
        )

    def _tell(self, recorder: Recorder, heartbeat: Heartbeat, phase: str) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (recorder.tokens - self._tokens_before) / seconds
        path = recorder.writer.path
        size = sum(p.stat().st_size for p in (path, path.with_name(path.name + ".wal")) if p.exists())
        heartbeat.beat(
            tokens_done=recorder.tokens, tokens_total=self.tokens, tokens_per_second=rate, bytes=size, phase=phase
        )
        self._listener.progress(
            Progress(
                pid=0,
                host="",
                started_at=time.time() - seconds,
                updated_at=time.time(),
                tokens_done=recorder.tokens,
                tokens_total=self.tokens,
                tokens_per_second=rate,
                bytes=size,
                phase=phase,
                alive=True,
            )
        )

    def _copied(self, size: int) -> None:
        if size > COPY_TOLD:
            self._listener.message(
                f"finishing: much of the file's {size / 1e6:,.0f} MB is free space: its content is copied to a new one"
            )

    def _writer(self) -> RunWriter:
        writers, readers = writer_threads(self.request.writers), self._listener.sharing is not None
        if self.request.resume:
            named = self.request.run
            path = (
                new_run_path(self._store, _named(self.request, named))
                if named
                else run_to_resume(self._store, self._settings)
            )
            if not was_not_begun(path):
                with RunFile.open(path) as run:
                    check_same_capture(run, self._settings)
                    check_same_model(run, self.loaded)
                    check_same_layers(run, self.layers)
                return RunWriter.reopen(path, writers=writers, readers=readers)
            remove(path)
        name = _named(self.request, self.request.run or default_name(self.request.model))
        settings = {**self._settings, "weights": self.weights()}
        info = new_run_info("capture", name, self.loaded, self.request.model, self.request.seed, settings)
        return RunWriter.create(new_run_path(self._store, name), info, self.layers, writers=writers, readers=readers)


def _edits(request: CaptureRequest, loaded: LoadedModel, edits_in: EditsIn | None) -> tuple[Edit, ...]:
    """Raises RequestError if the request has edits that change nothing in the model."""
    if not request.edits:
        return ()
    if edits_in is None:
        raise TypeError("expected edits_in for a request with edits")
    edits = tuple(edits_in(loaded))
    if not edits:
        raise RequestError(f"expected edits of neurons that {loaded.name} has, found none of them")
    return edits


def _named(request: CaptureRequest, run: str) -> str:
    """The name of the run that is written. run: of the whole capture."""
    return run if request.shard is None else part_name(run, request.shard)


def _notes(request: CaptureRequest, loaded: LoadedModel, sites: Sequence[LayerSite]) -> list[str]:
    """What readers of the run's figures must know: stored in the run, and shown next to them."""
    notes = [why_no_mlp(loaded.model)] if request.sites is None else []
    if not dependence(loaded.model).causal:
        notes.append(
            f"{sees_ahead(loaded.model)}: read in batches of one length, without padding; what is said of the tokens "
            "before a neuron's (n-grams, deltas, traces of the last token) does not hold for it"
        )
    notes += notes_on_experts(sites)
    return [note for note in notes if note]


def notes_on_experts(sites: Sequence[LayerSite]) -> list[str]:
    """What of layers of experts is not in the run."""
    read = {site.layer for site in sites if site.site == "shared"}
    lacking = (site.note for site in sites if site.experts and site.layer not in read)
    return [note for note in dict.fromkeys(lacking) if note]


def statistics_device(loaded: LoadedModel) -> torch.device:
    """Where statistics are computed: on the model's CUDA GPU, else on the CPU, as other accelerators lack float64."""
    return torch.device(loaded.device if loaded.device.startswith("cuda") else "cpu")


def give_up(writer: RunWriter, status: Status) -> None:
    """Drop the open segment. A run with committed segments is marked and kept; one without is deleted."""
    if not writer.tokens:
        writer.discard()
        return
    with contextlib.suppress(NfinspectError):  # the original error says more
        writer.abandon()
        writer.mark(status)
        writer.close()
