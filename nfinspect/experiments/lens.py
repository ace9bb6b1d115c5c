"""The logit lens: what the model would answer if it stopped after each block (nostalgebraist 2020).

The model's own code applies the final norm and the head to every block's output at the prompt's last token (or at every
token, if asked for), so the last block's row is the model's output.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nfinspect.experiments.direct_path import find_tail
from nfinspect.experiments.logits import token_texts
from nfinspect.json_values import Document
from nfinspect.models import (
    Bos,
    LoadedModel,
    Texts,
    TokenTexts,
    already_begun,
    find_sites,
    forward_batch,
    require_causal,
    vocabulary,
)
from nfinspect.models.checks import first_input, first_tensor
from nfinspect_store.errors import RequestError

LOGIT_BYTES = 64 * 2**20
"""Bytes of logits of one pass through the head, as float32: as many layers go through it together as fit [own]."""

TOKENS_AT_ONCE = 64
"""Tokens whose logits are converted to float64 at a time."""


@dataclass(frozen=True)
class LensToken(Document):
    """A token with its probability, 0-1."""

    token_id: int
    token: str | None
    probability: float


@dataclass(frozen=True)
class LensLayer:
    """The next token as predicted from one block's output. entropy in nats.

    top: the most likely tokens. answer_rank (from 1) and answer_log_prob (nats): of the token that is most likely in
    the whole model. positions: the most likely token after each token of the prompt; empty if not asked for.
    """

    layer: int
    entropy: float
    answer_rank: int
    answer_log_prob: float
    top: tuple[LensToken, ...]
    positions: tuple[LensToken, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As JSON; with `positions` only if they were asked for."""
        found = {**vars(self), "top": [token.to_json() for token in self.top]}
        if self.positions:
            return {**found, "positions": [token.to_json() for token in self.positions]}
        del found["positions"]
        return found


@dataclass(frozen=True)
class LogitLens:
    """A prompt through the lens, layer by layer. answer: the next token that the whole model finds most likely.

    prompt_tokens: the prompt's own, if the layers have `positions`.
    """

    model: str
    prompt: str
    tokens: int
    answer: LensToken
    layers: tuple[LensLayer, ...]
    prompt_tokens: tuple[str | None, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        found = {
            **vars(self),
            "answer": self.answer.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "notes": list(self.notes),
        }
        if not self.prompt_tokens:
            del found["prompt_tokens"]
        return found


def logit_lens(
    loaded: LoadedModel,
    prompt: str,
    top: int = 5,
    *,
    positions: bool = False,
    bos: Bos = "auto",
    chat: bool = False,
) -> LogitLens:
    """The `top` most likely next tokens from each block's output, and the rank of the model's answer there.

    positions: also the most likely token after every token of the prompt. bos, chat: how the prompt is tokenised
    (Texts); a chat ends with what begins the model's answer.

    Ties of rank go to the smaller token_id. Raises RequestError for top < 1 and for a prompt without a token or longer
    than the model's context, CannotTokenize as Texts does, UnknownToken, UnsupportedModel if the path from the blocks
    to the logits is not known or the model is not causal.
    """
    if top < 1:
        raise RequestError(f"expected --top of 1 or more, found {top}")
    require_causal(loaded.model, "the next token by each layer")
    texts = Texts(loaded.tokenizer, bos, chat=chat)
    read = texts.text(prompt, answer=True)
    ids = list(read.token_ids)
    limit = loaded.max_context
    if not ids or (limit is not None and len(ids) > limit):
        most = "" if limit is None else f", {limit:,} at most, the model's context"
        raise RequestError(f"expected a prompt of one token or more{most}; found {len(ids):,}")
    log_probs = torch.log_softmax(lens_logits(loaded, ids).double(), dim=-1)  # [layers, vocabulary]
    answer = int(log_probs[-1].argmax())
    rows = log_probs.numpy()
    after = _after_each(loaded, ids) if positions else [()] * len(rows)
    layers = []
    for layer, row in enumerate(rows):
        probabilities = np.exp(row)
        layers.append(
            LensLayer(
                layer=layer,
                entropy=float(-(probabilities * np.where(probabilities > 0, row, 0.0)).sum()),
                answer_rank=1 + int((row > row[answer]).sum()) + int((row[:answer] == row[answer]).sum()),
                answer_log_prob=float(row[answer]),
                top=_likeliest(loaded, probabilities, top),
                positions=after[layer],
            )
        )
    answered = _likeliest(loaded, np.exp(rows[-1]), 1)[0]
    tokens = tuple(TokenTexts(loaded.tokenizer)(ids)) if positions else ()
    notes = (already_begun(texts.begin_text, ["this one"], 1),) if read.begins else ()
    return LogitLens(loaded.name, prompt, len(ids), answered, tuple(layers), tokens, notes)


def lens_logits(loaded: LoadedModel, token_ids: list[int]) -> Tensor:
    """The logits after the last token from each block's output: float32[layers, vocabulary], on the CPU.

    One pass keeps the blocks' outputs; then the model runs on copies of the prompt, a group of layers at a time, and
    just before the final norm each copy gets another block's output. The rest (a projection, a scale, a soft cap) is
    the model's own computation.
    """
    entry = find_tail(loaded).entry.module
    groups = _block_groups(loaded, token_ids)
    return torch.cat([_from_entry(loaded, entry, token_ids, group)[:, -1] for group in groups])


def _after_each(loaded: LoadedModel, token_ids: list[int]) -> list[tuple[LensToken, ...]]:
    """For each block, the most likely token after every token; ties go to the smallest token_id."""
    entry = find_tail(loaded).entry.module
    found = []
    for group in _block_groups(loaded, token_ids):
        for logits in _from_entry(loaded, entry, token_ids, group, every=True):  # [tokens, vocabulary]
            every = [one for part in torch.split(logits, TOKENS_AT_ONCE) for one in _best(part)]
            texts = token_texts(loaded.tokenizer, [i for i, _ in every])
            found.append(tuple(LensToken(i, text, share) for (i, share), text in zip(every, texts, strict=True)))
    return found


def _best(logits: Tensor) -> list[tuple[int, float]]:
    """The most likely token_id of each row and its probability."""
    best = logits.max(dim=-1).values
    shares = (best.double() - logits.double().logsumexp(dim=-1)).exp()
    ids = (logits == best[:, None]).int().argmax(dim=-1)  # the first in a tie; logits.max does not say which
    return list(zip(ids.tolist(), shares.tolist(), strict=True))


def _block_groups(loaded: LoadedModel, token_ids: list[int]) -> tuple[Tensor, ...]:
    """The outputs of the blocks, [layers, tokens, hidden], in groups whose logits fit LOGIT_BYTES."""
    model = loaded.model
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        hidden = first_tensor(output)
        assert hidden is not None  # every block returns hidden states
        outputs.append(hidden.detach())

    handles = [model.get_submodule(s.module).register_forward_hook(keep) for s in find_sites(model, ["resid"])]
    try:
        _run(loaded, [token_ids])
    finally:
        for handle in handles:
            handle.remove()
    rows = max(1, LOGIT_BYTES // (4 * len(token_ids) * vocabulary(loaded.model)))
    return torch.split(torch.cat(outputs), rows)


def _from_entry(
    loaded: LoadedModel, entry: nn.Module, token_ids: list[int], hidden: Tensor, *, every: bool = False
) -> Tensor:
    """float32[rows, tokens, vocabulary]: the logits if `hidden` [rows, tokens, hidden] is the input of `entry`.

    Only of the last token unless `every`.
    """

    def replace(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        given = first_input(args, kwargs)
        assert given is not None  # find_tail has seen it called with hidden states
        # If the entry is the head itself, it may get only the last token.
        values = hidden[:, -given.shape[1] :].to(given.device, given.dtype)
        return (values, *args[1:]), {} if args else {k: v for k, v in kwargs.items() if v is not given}

    handle = entry.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        return _run(loaded, [token_ids] * len(hidden), every=every)
    finally:
        handle.remove()


def _run(loaded: LoadedModel, sequences: list[list[int]], *, every: bool = False) -> Tensor:
    """The logits after each sequence's last token, or after every one: float32[sequences, tokens, vocabulary], CPU."""
    model = loaded.model
    inputs = forward_batch(model, sequences, pad_id=loaded.pad_id).inputs()
    if not every and "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = 1
    with torch.inference_mode():
        logits = model(**inputs).logits
        return (logits if every else logits[:, -1:]).float().cpu()  # type: ignore[no-any-return]


def _likeliest(loaded: LoadedModel, probabilities: "np.ndarray", top: int) -> tuple[LensToken, ...]:
    ids = [int(i) for i in np.argsort(-probabilities, kind="stable")[:top]]
    texts = token_texts(loaded.tokenizer, ids)
    return tuple(LensToken(i, text, float(probabilities[i])) for i, text in zip(ids, texts, strict=True))
