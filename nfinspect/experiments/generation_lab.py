"""A text that a model writes, and what it writes with edits: side by side, from the same draws (methods §18)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis.ticks import Tick, silent
from nfinspect.capturing.following import BEHIND, STRONGEST, FollowedToken, Follower
from nfinspect.capturing.generation import generate
from nfinspect.experiments.controls import Controls, compare_with_controls, control_sets, crowded_layer
from nfinspect.experiments.logits import token_texts
from nfinspect.experiments.perplexity import mean_nll
from nfinspect.json_values import Document
from nfinspect.models import (
    Bos,
    LayerSite,
    LoadedModel,
    ModelError,
    Texts,
    UnsupportedModel,
    already_begun,
    default_site,
    find_sites,
    forward_batch,
    require_causal,
    vocabulary,
)
from nfinspect.models.editing import ChangedValues, DirectionEdit, Edit, NeuronEdit, edited
from nfinspect_store.errors import RequestError

Side = Literal["original", "edited"]

NEXT = 10
"""Likeliest next tokens of each side [own]."""

MOST_LOGITS = 4 * 2**30
"""Bytes of a prompt's logits beyond which it is refused: those of 21,000 tokens and a vocabulary of 50,257 [own]."""

NOT_FINITE = "expected finite logits, found NaN or infinite ones: an edit is too large, or try --dtype float32"


@dataclass(frozen=True)
class Sampling:
    """How a text is written. temperature 0 is greedy; both sides draw with the same noise, from the seed."""

    new_tokens: int = 40
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class NextToken(Document):
    """A candidate for the token after the prompt, and its probability on each side; edited None without edits."""

    token_id: int
    token: str | None
    original: float
    edited: float | None


@dataclass(frozen=True)
class WrittenSide:
    """One side. text: what was written after the prompt. nll: of the prompt's tokens from the second on, in nats per
    token; None for a prompt of one token.
    """

    text: str
    nll: float | None
    tokens: tuple[FollowedToken, ...]

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "nll": self.nll, "tokens": [_token_json(token) for token in self.tokens]}


@dataclass(frozen=True)
class Comparison(Document):
    """What edits change. first_difference: the first position at which the texts differ, None if they are the same.
    delta_nll: nll with the edits − without, nats per token of the prompt; control: of random edits of the same size.
    changed_values: values of neurons, on the tokens that the edited side read, that the edits made other ones.
    """

    first_difference: int | None
    delta_nll: float | None
    control: Controls
    changed_values: int


@dataclass(frozen=True)
class Generation:
    """A text written after a prompt, without edits and with them. edited, comparison: None without edits.

    start: the first position edited. site: where the strongest neurons are read. next: the likeliest next tokens of
    either side at the end of the prompt. notes: what the user should be told.
    """

    model: str
    prompt: str
    prompt_tokens: int
    sampling: Sampling
    start: int
    site: str
    edits: tuple[Edit, ...]
    next: tuple[NextToken, ...]
    original: WrittenSide
    edited: WrittenSide | None
    comparison: Comparison | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            **vars(self.sampling),
            "from": self.start,
            "site": self.site,
            "edits": [edit.to_json() for edit in self.edits],
            "next": [one.to_json() for one in self.next],
            "original": self.original.to_json(),
            "edited": None if self.edited is None else self.edited.to_json(),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "notes": list(self.notes),
        }


Tell = Callable[[Side, FollowedToken], None]
"""Takes each token of either side when the model has read it."""


def generation(
    loaded: LoadedModel,
    prompt: str,
    edits: Sequence[Edit] = (),
    *,
    sampling: Sampling | None = None,
    start: int = 0,
    controls: int = 0,
    top: int = STRONGEST,
    bos: Bos = "auto",
    chat: bool = False,
    tell: Tell = lambda side, token: None,
    tick: Tick = silent,
) -> Generation:
    """What the model writes after `prompt`; with edits also what it writes with them.

    start: the first position that edits change, 0 the prompt's first token. controls: random edits to compare ΔNLL
    with. top: strongest neurons of each layer told with a token, 0 for none. tick: control passes done, of how many.

    Raises RequestError for a prompt without a token or too long for the model, CannotTokenize as Texts does,
    UnsupportedModel for a model that is not causal or writes no text, SilentHook, and ModelError for logits that are
    not finite.
    """
    sampling = sampling or Sampling()
    if not loaded.model.can_generate():
        raise UnsupportedModel(
            f"expected a model with a vocabulary head, which writes text, found {type(loaded.model).__name__}"
        )
    require_causal(loaded.model, "generation")
    texts = Texts(loaded.tokenizer, bos, chat=chat)
    read = texts.text(prompt, answer=True)
    ids = _fitting(loaded, read.token_ids, sampling.new_tokens)
    notes = [already_begun(texts.begin_text, ["this one"], 1)] if read.begins else []
    sites = find_sites(loaded.model)

    def written(side: Side, changes: Sequence[Edit]) -> tuple[WrittenSide, NDArray[np.float64]]:
        with edited(loaded, changes, start):
            nats, after = _read(loaded, ids)
        tokens: list[FollowedToken] = []

        def told(token: FollowedToken) -> None:
            if token.generated and token.surprisal is None:
                raise ModelError(NOT_FINITE)
            tokens.append(token)
            tell(side, token)

        with (
            edited(loaded, changes, start, counts),
            Follower(loaded, sites, ids, told, surprisal=nats.tolist(), top=top, check=not changes) as follower,
        ):
            (sequence,) = generate(
                loaded.model,
                [ids],
                new_tokens=sampling.new_tokens,
                prompt_indices=[0],
                pad_id=loaded.pad_id,
                seed=sampling.seed,
                temperature=sampling.temperature,
                read_last=True,
                follower=follower,
            )
        nll = mean_nll(nats) if len(nats) else None
        return WrittenSide(continuation(loaded, ids, sequence), nll, tuple(tokens)), after

    counts = ChangedValues()
    original, before = written("original", ())
    other: WrittenSide | None = None
    after: NDArray[np.float64] | None = None
    comparison = None
    if edits:
        other, after = written("edited", edits)
        delta = None
        if original.nll is not None and other.nll is not None:
            delta = other.nll - original.nll
        drawn: list[Sequence[Edit]] = []
        if controls and delta is not None:
            drawn, said = control_edits(edits, controls, sampling.seed)
            notes += said
        costs = []
        if drawn:
            tick(0, len(drawn))
        for done, changes in enumerate(drawn, start=1):
            with edited(loaded, changes, start):
                costs.append(mean_nll(_read(loaded, ids)[0]) - (original.nll or 0.0))
            tick(done, len(drawn))
        control = compare_with_controls(delta or 0.0, costs)
        comparison = Comparison(_first_difference(original, other), delta, control, counts.count)
    return Generation(
        model=loaded.name,
        prompt=prompt,
        prompt_tokens=len(ids),
        sampling=sampling,
        start=start,
        site=sites[0].site if sites else default_site(loaded.model),
        edits=tuple(edits),
        next=_likeliest(loaded, before, after),
        original=original,
        edited=other,
        comparison=comparison,
        notes=tuple(notes),
    )


def control_edits(edits: Sequence[Edit], count: int, seed: int) -> tuple[list[Sequence[Edit]], list[str]]:
    """`count` random edits of the same size, and notes if there can be none.

    Neurons are drawn from the others of their layers, each of which takes over the edits of one; a direction becomes
    one of the same length, drawn evenly from all directions [own].
    """
    places: dict[LayerSite, list[int]] = {}
    for edit in edits:
        if isinstance(edit, NeuronEdit):
            known = places.setdefault(edit.site, [])
            known += [int(n) for n in edit.neurons if int(n) not in known]
    crowded = crowded_layer(places)
    if crowded is not None:
        return [], [
            f"no controls: {len(places[crowded]):,} of the {crowded.neurons:,} neurons of layer {crowded.layer} are "
            f"edited, and fewer are left{' in an expert' if crowded.experts else ''}"
        ]
    rng = np.random.default_rng([seed, 16])

    def drawn(edit: Edit, sets: dict[LayerSite, NDArray[np.int64]]) -> Edit:
        if isinstance(edit, NeuronEdit):
            place = {neuron: i for i, neuron in enumerate(places[edit.site])}
            instead = sets[edit.site][[place[int(neuron)] for neuron in edit.neurons]]
            return NeuronEdit(edit.kind, edit.site, instead, edit.amount)
        random = rng.standard_normal(len(edit.vector))
        scaled = random * (np.linalg.norm(edit.vector) / np.linalg.norm(random))
        return DirectionEdit(edit.name, edit.site, scaled.astype(np.float32), edit.factor)

    return [[drawn(edit, sets) for edit in edits] for sets in control_sets(places, count, seed)], []


def _fitting(loaded: LoadedModel, token_ids: Sequence[int], new_tokens: int) -> list[int]:
    """The prompt's tokens. Raises RequestError if there are none, or too many."""
    limit = loaded.max_context
    if not token_ids:
        raise RequestError("expected a prompt of one token or more, found none")
    if limit is not None and len(token_ids) + new_tokens > limit:
        raise RequestError(
            f"expected a prompt and its continuation to fit the model's context of {limit:,} tokens, found "
            f"{len(token_ids):,} and --new-tokens {new_tokens}"
        )
    if 4 * vocabulary(loaded.model) * len(token_ids) > MOST_LOGITS:
        most = MOST_LOGITS // (4 * vocabulary(loaded.model))
        raise RequestError(f"expected a prompt of at most {most:,} tokens, found {len(token_ids):,}: logits of more "
                           f"take over {MOST_LOGITS // 2**30} GiB")  # fmt: skip
    return list(token_ids)


def _read(loaded: LoadedModel, ids: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """−ln p of each token but the first, in nats, float64[tokens - 1], and the probabilities of the next token,
    float64[vocabulary].
    """
    inputs = forward_batch(loaded.model, [ids], pad_id=loaded.pad_id).inputs()
    with torch.inference_mode():
        logits: Tensor = loaded.model(**inputs).logits[0]
        targets = torch.as_tensor(list(ids[1:]), dtype=torch.long, device=logits.device)
        parts = [
            torch.nn.functional.cross_entropy(some.float(), of, reduction="none").cpu().double()
            for some, of in zip(torch.split(logits[:-1], 256), torch.split(targets, 256), strict=True)
        ]
        after = logits[-1].float().cpu().double().softmax(-1).numpy()
    nats = torch.cat(parts).numpy() if parts else np.empty(0)
    if not (np.isfinite(nats).all() and np.isfinite(after).all()):
        raise ModelError(NOT_FINITE)
    return nats, after


def continuation(loaded: LoadedModel, ids: Sequence[int], sequence: Sequence[int]) -> str:
    """What was written after the prompt, as the tokenizer decodes it there: after the prompt's last tokens."""

    def decoded(some: Sequence[int]) -> str:
        return str(loaded.tokenizer.decode(list(some), clean_up_tokenization_spaces=False))

    before, written = [*ids[-BEHIND:]], [*sequence[len(ids) :]]
    prompt, whole = decoded(before), decoded(before + written)
    return whole[len(prompt) :] if whole.startswith(prompt) else decoded(written)


def _first_difference(one: WrittenSide, other: WrittenSide) -> int | None:
    a, b = ([token.token_id for token in side.tokens] for side in (one, other))
    differs = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, None if len(a) == len(b) else min(len(a), len(b)))


def _likeliest(
    loaded: LoadedModel, before: NDArray[np.float64], after: NDArray[np.float64] | None
) -> tuple[NextToken, ...]:
    """The NEXT likeliest of either side, in the order of the original's probabilities; ties go to the smaller id."""
    sides = [before] if after is None else [before, after]
    chosen = {int(i) for side in sides for i in np.argsort(-side, kind="stable")[:NEXT]}
    ids = sorted(chosen, key=lambda i: (-before[i], i))
    return tuple(
        NextToken(i, text, float(before[i]), None if after is None else float(after[i]))
        for i, text in zip(ids, token_texts(loaded.tokenizer, ids), strict=True)
    )


def _token_json(token: FollowedToken) -> dict[str, Any]:
    return {
        "position": token.position,
        "token_id": token.token_id,
        "token": token.text,
        "generated": token.generated,
        "surprisal": token.surprisal,
        "strongest": [{"layer": layer, "neuron": n, "value": value} for layer, n, value in token.strongest],
    }
