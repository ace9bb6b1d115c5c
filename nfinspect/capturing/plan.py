"""Which prompts are batched together, and whether they fit the model's context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nfinspect.capturing.errors import BadPrompts
from nfinspect.capturing.prompt_files import PROMPTS, Columns, PromptText, read_prompts
from nfinspect.capturing.prompts import PromptIds, corpus_windows, prompt_ids
from nfinspect.capturing.request import DEFAULT_CONTEXT, CaptureRequest
from nfinspect.capturing.writing import writing
from nfinspect.models import (
    LoadedModel,
    Texts,
    UnknownToken,
    already_begun,
    check_ids,
    dependence,
    end_ids,
    rope_limit,
)
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import read_text

BATCH_BYTES = 128 * 2**20
"""Bytes of one batch's values in memory, if --batch-size does not say how many prompts [own]."""


@dataclass(frozen=True)
class Batch:
    """Prompts start … stop - 1 of a capture."""

    start: int
    stop: int


@dataclass(frozen=True)
class Files:
    """The content of a request's files: the prompts of each prompts file, the text of each corpus."""

    prompts: tuple[list[PromptText], ...]
    text: tuple[str, ...]


def read_files(request: CaptureRequest) -> Files:
    """Read every file of a request, once: a pipe cannot be read again. Raises BadPrompts."""
    columns = Columns(request.text_column, request.concept_column)
    prompts = tuple(read_prompts(file.path, file.concept, columns) for file in request.prompts)
    return Files(prompts, tuple(read_text(path, *PROMPTS) for path in request.text))


def load_prompts(request: CaptureRequest, loaded: LoadedModel, files: Files) -> list[PromptIds]:
    """All prompts of a request in order: prompts files, then corpora. They may be too long.

    files: their content. Raises BadPrompts, CannotTokenize.
    """
    if request.chat and request.text and not request.prompts:
        raise BadPrompts("expected --prompts with --chat, found only --text: windows of a corpus are not chats")
    texts = Texts(loaded.tokenizer, request.bos, chat=request.chat)
    prompts: list[PromptIds] = []
    for given in files.prompts:
        prompts += prompt_ids(given, texts, answer=request.generate > 0)
    limit = loaded.max_context
    context = request.context or (DEFAULT_CONTEXT if limit is None else min(DEFAULT_CONTEXT, limit - request.generate))
    if request.text and (context < 1 or (limit is not None and context + request.generate > limit)):
        most = "1 or more" if limit is None else f"between 1 and {limit:,} minus {request.generate:,} new tokens"
        raise BadPrompts(f"expected --context {most}, found {context:,}")
    remaining = request.max_tokens
    for path, content in zip(request.text, files.text, strict=True):
        windows = corpus_windows(Path(path), content, texts, context, remaining)
        prompts += windows
        if remaining is not None:
            remaining -= sum(len(window.token_ids) - len(texts.begin) for window in windows)
            if remaining <= 0:
                break
    return prompts


def fitting(prompts: Sequence[PromptIds], request: CaptureRequest, loaded: LoadedModel) -> list[PromptIds]:
    """The prompts, truncated if --truncate says so, such that the model can read them and generate after them.

    Raises BadPrompts naming one that it cannot read, RequestError if edits begin after the end of every prompt.
    """
    if not prompts:
        raise BadPrompts("expected prompts, found none: give --prompts FILE or --text FILE")
    for prompt in prompts:
        try:
            check_ids(loaded.model, prompt.token_ids, prompt.origin)
        except UnknownToken as error:
            raise BadPrompts(str(error)) from error
    found = [_fitting(prompt, request, loaded.max_context) for prompt in prompts]
    longest = max(len(prompt.token_ids) for prompt in found) + request.generate
    if request.edits_from >= longest:
        raise RequestError(
            f"expected --from below {longest:,}, the tokens of the longest prompt and its new ones, found "
            f"{request.edits_from}: the edits would change nothing"
        )
    return found


def notes_on(prompts: Sequence[PromptIds], request: CaptureRequest, loaded: LoadedModel) -> list[str]:
    """What the user should know about how the prompts begin and end."""
    notes = []
    begun = [prompt.origin for prompt in prompts if prompt.begins]
    if begun:
        begin = Texts(loaded.tokenizer, request.bos).begin_text
        notes.append(already_begun(begin, begun, len(prompts)))
    ended = [prompt.origin for prompt in prompts if prompt.token_ids[-1] in end_ids(loaded.model)]
    if request.generate and ended:
        notes.append(
            f"{len(ended):,} of {len(prompts):,} prompts already end with an end-of-sequence token, such as "
            f"{ended[0]}: the model continues after it"
        )
    return notes


def plan_batches(
    prompts: Sequence[PromptIds], request: CaptureRequest, loaded: LoadedModel, held: Sequence[int]
) -> list[Batch]:
    """Consecutive prompts, as many as fit; always the same for a request, so that a resumed capture batches alike.

    held: values of a token in each layer.
    """
    bytes_per_token = 4 * sum(held)
    most_tokens = max(1, BATCH_BYTES // bytes_per_token)
    limit = rope_limit(loaded.model)
    reads = dependence(loaded.model)
    padded = reads.left or reads.right
    alike_only = not writing(loaded.model).together if request.generate > 0 else not padded
    # Generation may end anywhere, so that a replay of several sequences would have to be padded.
    alone = request.generate > 0 and not padded
    batches: list[Batch] = []
    start = 0
    while start < len(prompts):
        stop, longest = start, 0
        while stop < len(prompts):
            size = len(prompts[stop].token_ids)
            width = max(longest, size) + request.generate
            count = stop - start + 1
            too_many = count > request.batch_size if request.batch_size else width * count > most_tokens
            unlike = size != len(prompts[start].token_ids)
            mixed = alike_only and unlike
            # Beyond the limit a batch must have one length, and an end of sequence may make any of its rows shorter.
            beyond = limit is not None and width > limit and (unlike or request.generate > 0)
            if stop > start and (too_many or mixed or beyond or alone):
                break
            longest = max(longest, size)
            stop += 1
        batches.append(Batch(start, stop))
        start = stop
    return batches


def _fitting(prompt: PromptIds, request: CaptureRequest, limit: int | None) -> PromptIds:
    room = None if limit is None else limit - request.generate
    if room is None or len(prompt.token_ids) <= room:
        return prompt
    if request.truncate and room > 0:
        return replace(prompt, token_ids=prompt.token_ids[:room], roles=prompt.roles and prompt.roles[:room])
    raise BadPrompts(
        f"{prompt.origin} has {len(prompt.token_ids):,} tokens, which with {request.generate:,} new ones do not fit "
        f"the model's context of {limit:,}: shorten it, generate fewer, or pass --truncate"
    )
