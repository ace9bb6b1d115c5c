"""`nf.capture`, `nf.merge` and `nf.record`: capture a model in memory, whole or in parts, record your own passes."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nfinspect.capturing.errors import BadPrompts, CaptureError
from nfinspect.capturing.foreign_passes import recorded_passes
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.new_run import default_name, new_run_info, store_layers
from nfinspect.capturing.plan import Files
from nfinspect.capturing.prompt_files import PromptText, chat_of
from nfinspect.capturing.prompts import PromptIds, check_concept, prompt_ids
from nfinspect.capturing.recorder import Recorder
from nfinspect.capturing.request import CaptureRequest, Mode
from nfinspect.capturing.session import Capture, Listener, notes_on_experts, statistics_device
from nfinspect.capturing.shard import parse_shard
from nfinspect.capturing.where import parse_where
from nfinspect.edits import typed_edits
from nfinspect.experiments.resolved_edits import resolved_edits
from nfinspect.models import (
    Bos,
    LoadedModel,
    Texts,
    TokenTexts,
    by_site,
    find_sites,
    in_memory,
    is_compiled,
    run_as_python,
    uncompiled,
    why_no_mlp,
)
from nfinspect.modes import eval_mode
from nfinspect.run import Run
from nfinspect_store.catalog import merged_path, new_run_path, run_path, store_path
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.processors import Writers, writer_threads
from nfinspect_store.types import Keep, Precision, utc_now
from nfinspect_store.writer import RunWriter

Prompt = str | Sequence[int] | Tensor | Sequence[Mapping[str, str]]
"""A text, token ids, or the messages of a chat."""


COMPILED = (
    "the model is compiled, or its generation config asks for a static cache: it is read as plain Python with a cache "
    "that grows; compiled=True decodes with compiled steps"
)
"""What is said of a compiled model that is captured uncompiled while it writes."""


def capture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Sequence[Prompt]] | Sequence[Prompt],
    *,
    store: str | Path | None = None,
    run: str | None = None,
    generate: int = 0,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    keep: Keep = "all",
    precision: Precision = "float32",
    where: str | None = None,
    bos: Bos = "auto",
    chat: bool = False,
    truncate: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    mode: Mode = "auto",
    compiled: bool = False,
    edits: Sequence[str] = (),
    edits_from: int = 0,
    limit_bytes: int | None = None,
    resume: bool = False,
    writers: Writers = "auto",
    shard: str | None = None,
) -> Run:
    """Capture a model that is in memory over prompts, and open the run.

    prompts: prompts by concept, or only prompts (their concept is "prompts"). A prompt is a text; a chat, as messages
    {"role", "content"}, which go through the tokenizer's template; or token ids, int[tokens], which are read as they
    are. store: the directory of runs, else $NFINSPECT_STORE, else ./nfinspect-store; run: the run's name, made of the
    model's name and the time if not given.

    generate: tokens to generate for each prompt, greedily, or sampled from `seed` at a `temperature` above 0. sites:
    mlp, shared, mixer, attn, resid; mlp (mixer for Mamba) if not given. layers: all if not given. keep: "all" values,
    or only "stats". precision: store values as "float32", or in fewer bytes as "float16" or "int8"; statistics are
    exact either way. where: record only some tokens, such as "answers" or "role=user and tokens=4-", or only large
    values, "beyond=p99.9" (docs/commands.md). bos: whether BOS goes before a text, "auto" as the tokenizer does; chat:
    each text is a user's message. truncate: cut prompts that do not fit the model's context. batch_size: prompts in a
    forward pass, as many as fit if not given. mode: how generated tokens are read, "replay" in one pass afterwards,
    "live" while generating. compiled: decode new tokens with compiled steps over a static cache; the generation
    config's `compile_config` says how. A model that torch.compile has compiled is else read as plain Python. edits: of
    the model, in force while it reads and writes, each as its kind and what the option of that name takes: ["zero
    L3/N17,L1/N5", "clamp @hot=8", "direction RUN:CONCEPT-BASELINE@resid:L5=4"]; sets and runs are those of the store,
    and values are recorded as the model goes on with them. edits_from: the first position of each prompt that edits
    change. limit_bytes: stop before the run exceeds this. resume: continue an unfinished run of the same call. writers:
    threads that record and write, "auto" one fewer than there are processors. shard: only a part of the prompts, such
    as "1/4", into a run of its own; `merge` puts the parts together.

    The model is captured in eval mode; afterwards each module is back in its own mode. What `nfinspect capture` would
    print on stderr is issued as a warning. Raises ModelError, BadPrompts, CaptureError, StoreError, RequestError.
    """
    by_concept = prompts if isinstance(prompts, Mapping) else {"prompts": prompts}
    for concept in by_concept:
        check_concept(concept)
    given = [
        _given(concept, prompt, f"{concept} prompt {i + 1}")
        for concept, group in by_concept.items()
        for i, prompt in enumerate(_prompts_of(group))
    ]
    said = [COMPILED] if generate and not compiled and is_compiled(model) else []
    model = uncompiled(model)
    loaded = in_memory(model, tokenizer)
    request = CaptureRequest(
        loaded.name,
        store_path(store),
        run=run,
        generate=generate,
        sites=None if sites is None else tuple(sites),
        layers=None if layers is None else tuple(layers),
        keep=keep,
        precision=precision,
        where=None if where is None else parse_where(where),
        bos=bos,
        chat=chat,
        truncate=truncate,
        batch_size=batch_size,
        seed=seed,
        temperature=temperature,
        mode=mode,
        compiled=compiled,
        edits=tuple(typed_edits([edits] if isinstance(edits, str) else edits)),
        edits_from=edits_from,
        limit_bytes=limit_bytes,
        resume=resume,
        writers=writers,
        shard=None if shard is None else parse_shard(shard),
    )
    with eval_mode(model), run_as_python():
        making = _GivenPrompts(request, loaded, given, said)
        _warn(said)  # only before anything is recorded and when all of it is: a warning may be an error
        path = making.run()
    _warn(said)
    return Run.open(path)


def merge(
    out: str | Path,
    parts: Sequence[str | Path],
    *,
    store: str | Path | None = None,
    partial: bool = False,
    attach: bool = False,
) -> Run:
    """Merge the parts of a capture, in any order, into the run that one process would have made, and open it.

    out, parts: names in the store, or paths. partial: merge the parts that are there. attach: leave the values in the
    parts, where the run reads them; merged from that run without it, they are in a file of their own. What `nfinspect
    merge` would print on stderr is issued as a warning. Raises CannotMerge naming what is missing or differs,
    RunExists, StoreError.
    """
    directory = store_path(store)
    said: list[str] = []
    path = merged_path(directory, str(out))
    merge_runs(path, [run_path(directory, part) for part in parts], partial=partial, attach=attach, note=said.append)
    _warn(said)
    return Run.open(path)


def _prompts_of(group: Sequence[Prompt]) -> Sequence[Prompt]:
    """A concept's prompts. Raises BadPrompts for a single one, which is also a sequence: of letters, or of ids."""
    alone = isinstance(group, str) or (isinstance(group, Tensor) and group.ndim == 1)
    first = group[0] if not alone and len(group) else None
    if alone or isinstance(first, Integral | Mapping):
        raise BadPrompts(f"expected a list of prompts, found a single one, {str(group)[:40]!r}: put it into a list")
    return group


def _given(concept: str, prompt: Prompt, origin: str) -> PromptText:
    """A prompt in memory as a capture takes it. Raises BadPrompts."""
    if isinstance(prompt, str):
        return PromptText(concept, prompt, origin)
    values: Any = prompt.tolist() if hasattr(prompt, "tolist") else prompt  # a tensor or an array
    if not isinstance(values, Sequence) or isinstance(values, bytes):
        raise BadPrompts(f"expected a text, messages or token ids as {origin}, found {type(prompt).__name__}")
    if any(isinstance(value, Mapping) for value in values):
        return PromptText(concept, chat_of(values, origin), origin)
    wrong = next((v for v in values if not isinstance(v, Integral) or isinstance(v, bool)), None)
    if wrong is not None:
        raise BadPrompts(
            f"expected token ids, a flat list of whole numbers, as {origin}, found {str(wrong)[:40]} among them"
        )
    return PromptText(concept, tuple(int(value) for value in values), origin)


class _GivenPrompts(Capture):
    """A capture of prompts that are in memory."""

    def __init__(
        self, request: CaptureRequest, loaded: LoadedModel, prompts: Sequence[PromptText], said: list[str]
    ) -> None:
        self._given = prompts
        edits_in = partial(resolved_edits, asked=request.edits, store=request.store, note=said.append)
        super().__init__(request, loaded, Listener(message=said.append), edits_in=edits_in)

    def weights(self) -> str:
        return ""

    def read_prompts(self, files: Files | None) -> list[PromptIds]:
        texts = Texts(self.loaded.tokenizer, self.request.bos, chat=self.request.chat)
        return prompt_ids(self._given, texts, answer=self.request.generate > 0)


def _warn(said: list[str]) -> None:
    while said:
        warnings.warn(said.pop(0), stacklevel=3)  # where nfinspect.capture was called


def _tell(heartbeat: Heartbeat, recorder: Recorder) -> None:
    heartbeat.beat(tokens_done=recorder.tokens)


class Recording:
    """What `record` yields: `path` at once, `run` after the block."""

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
    precision: Precision = "float32",
    seed: int = 0,
    writers: Writers = "auto",
) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the block: each row of input_ids becomes a prompt of `concept`.

    attention_mask says which tokens are real, with padding on either side. A pass that continues from a cache (a
    decoding step) is refused: `capture` records generations. Modules compiled by torch.compile run uncompiled inside
    the block: compiled code calls no hooks. Left-padded rows that the model reads differently from single prompts are
    recorded as it read them, with a warning and a note in the run's settings. Before the block one pass takes the
    model's fingerprint; your own hooks see it. An exception in the block leaves no run. The options are those of
    `capture`. Raises ModelError, RunExists, StorageFull, CaptureError, BadPrompts for a concept that is not text.
    """
    check_concept(concept)
    model = uncompiled(model)
    loaded = in_memory(model, tokenizer)
    found = by_site(find_sites(model, sites, layers, experts=True))
    notes = [note] if sites is None and (note := why_no_mlp(model)) else []
    notes += notes_on_experts(found)
    for note in notes:
        warnings.warn(note, stacklevel=3)  # where nfinspect.record was entered
    name = run or default_name(loaded.name)
    path = new_run_path(store_path(store), name)
    settings = {"keep": keep, "precision": precision, "weights": "", **({"notes": notes} if notes else {})}
    info = new_run_info("record", name, loaded, loaded.name, seed, settings)
    threads = writer_threads(writers)
    writer = RunWriter.create(path, info, store_layers(found), writers=threads)
    with Heartbeat(path, model=loaded.name) as heartbeat:
        try:
            heartbeat.beat()
            recorder = Recorder(writer, seed, statistics_device(loaded), writers=threads)
            tell = partial(_tell, heartbeat, recorder)
            with recorded_passes(model, found, recorder, TokenTexts(tokenizer), concept, tell) as passes:
                yield Recording(path)
            if not recorder.tokens:
                raise CaptureError(
                    "expected forward passes inside the block, found no forward pass over a token: the block has to "
                    "call this very model; a copy, or code made from it by torch.jit or torch.export, does not "
                    "call its hooks"
                )
            end: dict[str, object] = {"status": "complete", "finished_at": utc_now()}
            if passes.note is not None:
                end["settings"] = json.dumps({**info.settings, "notes": [*notes, passes.note]})
            recorder.commit(end, final=True)
        except BaseException:
            writer.discard()
            raise
        writer.close()
    if passes.note is not None:  # when the run is whole: a warning may be an error
        warnings.warn(passes.note, stacklevel=3)  # where the block ends
