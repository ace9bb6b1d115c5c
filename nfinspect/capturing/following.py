"""One text of a generation, token by token, for those who follow it while the model writes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from nfinspect.models import LayerSite, LoadedModel, SiteReader, TokenTexts, body
from nfinspect.models.checks import first_input

STRONGEST = 3
"""Neurons of each layer that a token is told with, if nothing else is asked for."""

PROMPT_READ = 512
"""Tokens of a prompt, its last ones, that are told with their strongest neurons."""

BEHIND = 8
"""Tokens before one that its text may depend on: some tokenizers decode a token differently after others."""


@dataclass(frozen=True)
class FollowedToken:
    """A token that the model has read or written.

    prompt: the prompt's number in the run; position: the token's place, from 0. surprisal: −ln p given the tokens
    before it, in nats; None where it was not computed. strongest: (layer, neuron, value) of the largest |value| of each
    layer at `site`, by layer; empty for a last token that the model has written and not read, and for the beginning of
    a long prompt (PROMPT_READ).
    """

    prompt: int
    position: int
    token_id: int
    text: str
    generated: bool
    surprisal: float | None
    site: str
    strongest: tuple[tuple[int, int, float], ...]


TellToken = Callable[[FollowedToken], None]


class Follower:
    """Tells the first text of a batch while it is generated. A context manager around `generate(…, follower=…)`.

    It reads with hooks of its own, which see the values as changed by hooks that were there before.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sites: Sequence[LayerSite],
        prompt: Sequence[int],
        tell: TellToken,
        *,
        number: int = 0,
        surprisal: Sequence[float] = (),
        top: int = STRONGEST,
        check: bool = True,
    ) -> None:
        """sites: the layers of one site, in order. number: the prompt's. surprisal: of its tokens from the second on.
        top: neurons of each layer. check: verify the sites in the first pass; not where other hooks change values.
        """
        self._prompt = list(prompt)
        self._ids = list(prompt)
        self._tell = tell
        self._number = number
        self._surprisal = [None, *surprisal] if surprisal else [None] * len(self._prompt)
        self._top = top
        self._site = sites[0].site if sites else ""
        self._body = body(loaded.model)
        self._texts = TokenTexts(loaded.tokenizer)
        reads = sites if top else ()
        self._reader = SiteReader(loaded.model, reads, self._take, check=check, check_finite=False)
        self._first = True
        self._picked: dict[
            int, Tensor
        ] = {}  # by layer: float32[(neuron, value), tokens, top] of this pass, where it is
        self._strongest: dict[int, list[list[tuple[int, float]]]] = {}  # by layer: of each token of the last pass
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._hooks.enter_context(self._reader)
        for handle in (
            self._body.register_forward_pre_hook(self._before, with_kwargs=True),
            self._body.register_forward_hook(self._after),
        ):
            self._hooks.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def prompt_read(self) -> None:
        """The first pass has been made: tell the prompt."""
        texts = self._texts(self._prompt)
        for position, (text, surprisal) in enumerate(zip(texts, self._surprisal, strict=True)):
            self._told(position, text, surprisal, self._of(position - len(self._prompt)))
        self._first = False

    def written(self, token_id: int, surprisal: float, *, read: bool) -> None:
        """The text's next token. read: the last pass has read it."""
        self._ids.append(token_id)
        text = self._texts(self._ids[-BEHIND:])[-1]
        self._told(len(self._ids) - 1, text, surprisal, self._of(-1) if read else ())

    def _told(
        self, position: int, text: str, surprisal: float | None, strongest: tuple[tuple[int, int, float], ...]
    ) -> None:
        known = surprisal if surprisal is not None and abs(surprisal) < float("inf") else None
        generated = position >= len(self._prompt)
        token = self._ids[position]
        self._tell(FollowedToken(self._number, position, token, text, generated, known, self._site, strongest))

    def _of(self, place: int) -> tuple[tuple[int, int, float], ...]:
        """The strongest neurons of a token of the last pass, by layer. place: counted from the end, -1 the last."""
        return tuple(
            (layer, *one)
            for layer, tokens in self._strongest.items()
            for one in (tokens[place] if -place <= len(tokens) else ())
        )

    def _before(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        names = ("input_ids", "inputs_embeds")  # a multimodal model passes embeddings to its text part
        given = first_input(args, {name: kwargs[name] for name in names if kwargs.get(name) is not None})
        assert given is not None
        self._reader.begin(*given.shape[:2])

    def _after(self, module: nn.Module, args: object, output: object) -> None:
        self._reader.end()
        picked, self._picked = self._picked, {}
        if not picked:
            return
        # All layers together: each would wait for the GPU.
        first = next(iter(picked.values())).device
        fetched = torch.cat([one.reshape(-1).to(first, non_blocking=True) for one in picked.values()]).cpu().numpy()
        parts = np.split(fetched, np.cumsum([one.numel() for one in picked.values()])[:-1])
        for (layer, one), part in zip(picked.items(), parts, strict=True):
            found, values = part.reshape(one.shape).tolist()
            self._strongest[layer] = [
                [(int(neuron), value) for neuron, value in zip(row, told, strict=True) if abs(value) < float("inf")]
                for row, told in zip(found, values, strict=True)
            ]

    def _take(self, site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        of_text = values[0, -min(len(self._prompt), PROMPT_READ) :] if self._first else values[0, -1:]
        found = of_text.abs().topk(min(self._top, of_text.shape[-1]), dim=-1).indices
        # float32 holds every whole number up to 2**24, more than a layer has neurons.
        self._picked[site.layer] = torch.stack((found.float(), of_text.gather(-1, found).float()))
