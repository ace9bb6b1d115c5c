"""Generation, greedy or sampled, with the same result for a prompt whatever else is in its batch.

Sampling uses the Gumbel-max trick: argmax(logits / temperature + Gumbel noise) is a draw from the softmax. The noise of
a prompt depends only on the seed and the prompt's index, so neither the batch nor resuming a capture changes it, and
torch's global generator is not used.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from nfinspect.capturing.compiled_steps import CompiledSteps
from nfinspect.models import UnsupportedModel, body, end_ids, forward_batch, to_device


class Follows(Protocol):
    """What is told of the first sequence while it is generated."""

    def prompt_read(self) -> None:
        """The model has read the prompt."""

    def written(self, token_id: int, surprisal: float, *, read: bool) -> None:
        """It has written a token, of this surprisal in nats; read: the last pass has read it."""


def generate(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    prompt_indices: Sequence[int],
    pad_id: int,
    seed: int,
    temperature: float,
    read_last: bool = False,
    follower: Follows | None = None,
    steps: CompiledSteps | None = None,
) -> list[list[int]]:
    """Each sequence followed by what the model generated: up to `new_tokens`, an end-of-sequence token included.

    Sequences of different lengths are padded on the left: only for models where that is exact. temperature 0 is greedy.
    read_last: take one more step and drop its token, so that the last token kept also passes through the model (live
    capture needs that). follower: is told the first sequence's tokens, each once the next pass has read it. steps:
    decode with these. Raises UnsupportedModel if the model's own generate() loses the padding mask (as GIT's does), or
    if it cannot be decoded with compiled steps.
    """
    batch = forward_batch(model, sequences, pad_id=pad_id, padding_side="left")
    ends = end_ids(model)
    processors = LogitsProcessorList()
    if follower is not None:
        followed = _Followed(follower, ends, new_tokens)
        processors.append(followed)
    if temperature > 0:
        processors.append(_GumbelNoise(seed, prompt_indices, temperature))
    width = batch.input_ids.shape[1]
    ragged = len(set(batch.lengths)) > 1
    more = {} if steps is None else steps.settings
    decoding = nullcontext() if steps is None else steps.decoding()
    mask_kept = _mask_kept(model) if ragged else nullcontext()
    with torch.no_grad(), _plain_generation_config(model), mask_kept, decoding:
        write: Any = model.generate
        output = write(
            batch.input_ids,
            attention_mask=batch.valid.long(),
            generation_config=_settings(
                max_new_tokens=new_tokens + read_last,
                do_sample=False,
                pad_token_id=pad_id,
                eos_token_id=None,
                **more,
            ),
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_AllEnded(ends, batch.input_ids.device, width, int(read_last))]),
        )
    written = output[:, width:].tolist()
    if follower is not None:
        followed.tell(written[0], read=False)
    return [list(s) + _until_end(w[:new_tokens], ends) for s, w in zip(sequences, written, strict=True)]


@contextmanager
def _mask_kept(model: PreTrainedModel) -> Iterator[None]:
    """Raises UnsupportedModel in the first pass if its attention mask gets lost between generate() and the blocks."""
    inner = body(model)
    names = list(inspect.signature(inner.forward).parameters)

    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        handle.remove()  # only the first pass reads padding: a Mamba's steps need no mask
        if {**dict(zip(names, args, strict=False)), **kwargs}.get("attention_mask") is None:
            raise UnsupportedModel(
                f"expected generate() of {type(model).__name__} to pass its attention mask on, found none: prompts of "
                "different lengths cannot be continued in one batch; use --batch-size 1"
            )

    handle = inner.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Followed(LogitsProcessor):
    """Tells a follower each token of the first sequence when the next one's logits are there."""

    def __init__(self, follower: Follows, ends: frozenset[int], new_tokens: int) -> None:
        self._follower = follower
        self._ends = ends
        self._most = new_tokens
        self._told = 0
        self._width: int | None = None
        self._log_probs: Tensor | None = None  # of the token that is written next

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._width is None:
            self._width = input_ids.shape[1]
            self._follower.prompt_read()
        self.tell(input_ids[0, self._width :].tolist(), read=True)
        self._log_probs = scores[0].float().log_softmax(-1)
        return scores

    def tell(self, written: Sequence[int], *, read: bool) -> None:
        """Tell the newest token. written: all so far."""
        if len(written) > self._told and self._told < self._most and self._log_probs is not None:
            token = written[self._told]
            self._told += 1
            if token in self._ends:
                self._most = self._told
            self._follower.written(token, -float(self._log_probs[token]), read=read)


class _GumbelNoise(LogitsProcessor):
    def __init__(self, seed: int, prompt_indices: Sequence[int], temperature: float) -> None:
        self._temperature = temperature
        # On the CPU, so that every device draws the same numbers.
        self._generators = [torch.Generator().manual_seed(_seed_of(seed, i)) for i in prompt_indices]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = [
            -torch.empty(scores.shape[-1], dtype=torch.float32).exponential_(generator=g).log()
            for g in self._generators
        ]
        return scores.float() / self._temperature + to_device(torch.stack(rows), scores.device)


class _AllEnded(StoppingCriteria):
    """Stop when every row has an end token, not counting its last `after` tokens. device: of the tokens."""

    def __init__(self, ends: frozenset[int], device: torch.device, width: int, after: int) -> None:
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._width = width
        self._after = after

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        written = input_ids[:, self._width : input_ids.shape[1] - self._after]
        ended: Tensor = (written[:, :, None] == self._ends).any(dim=2).any(dim=1)
        return ended.all().expand(len(input_ids))


def _seed_of(seed: int, prompt_idx: int) -> int:
    return (seed * 0x9E3779B97F4A7C15 + prompt_idx * 0xBF58476D1CE4E5B9 + 1) % 2**63


def _until_end(written: list[int], ends: frozenset[int]) -> list[int]:
    for i, token in enumerate(written):
        if token in ends:
            return written[: i + 1]
    return written


def _settings(**given: Any) -> GenerationConfig:
    return GenerationConfig(**given)  # type: ignore[no-untyped-call]


@contextmanager
def _plain_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Without the checkpoint's own defaults (top-k, penalties …): only seed and temperature decide."""
    saved = model.generation_config
    model.generation_config = _settings()
    try:
        yield
    finally:
        model.generation_config = saved
