"""How well a model predicts a text: the sliding-window protocol of the transformers documentation.

Windows of `context` tokens start every `stride` tokens; in each, the tokens that no earlier window has predicted are
predicted from everything before them in the window. What the tokenizer puts before a text (BOS) begins every window and
is never predicted: it takes its tokens from the window's `context`. Without it the first token of the text is never
predicted, nor, if windows do not overlap, the first of each window.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis.ticks import Tick, silent
from nfinspect.models import LoadedModel, check_ids, embedding_device, require_causal, vocabulary
from nfinspect_store.errors import RequestError

DEFAULT_CONTEXT = 1024
"""Tokens in a window if --context is not given and the model allows as many [own]."""

LOGIT_BYTES = 256 * 2**20
"""The most bytes of logits of one pass in memory, as float32 [own]."""

PASS_TOKENS = 8192
"""The most tokens of one pass [own]."""


@dataclass(frozen=True)
class Window:
    """Tokens start <= i < stop of a text, of which those from `first` on are predicted."""

    start: int
    stop: int
    first: int

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, predicted): windows of the same shape are batched."""
        return self.stop - self.start, self.stop - self.first


def sliding_windows(tokens: int, context: int, stride: int, *, begun: bool = False) -> list[Window]:
    """The windows over a text of that many tokens. begun: each follows a BOS, which predicts its first token."""
    windows: list[Window] = []
    alone = 0 if begun else 1  # without BOS there is nothing to predict a window's first token from
    done = alone
    for start in range(0, tokens, stride):
        stop = min(start + context, tokens)
        windows.append(Window(start, stop, max(done, start + alone)))
        done = stop
        if stop == tokens:
            break
    return [window for window in windows if window.first < window.stop]


def chosen_context(
    loaded: LoadedModel, context: int | None, stride: int | None, begin: Sequence[int] = ()
) -> tuple[int, int]:
    """(context, stride) with defaults: what the model allows up to 1,024, and half of it. Raises RequestError.

    begin: what begins every window, within its context. The stride returned is at most the context minus `begin`, so
    that no token is skipped: then windows do not overlap.
    """
    limit = loaded.max_context
    if context is None:
        context = DEFAULT_CONTEXT if limit is None else min(DEFAULT_CONTEXT, limit)
    fewest = max(2, len(begin) + 1)
    if context < fewest or (limit is not None and context > limit):
        most = "" if limit is None else f" to {limit:,}, the model's own"
        raise RequestError(f"expected --context from {fewest}{most}, found {context:,}")
    if stride is None:
        stride = context // 2
    if not 1 <= stride <= context:
        raise RequestError(
            f"expected --stride from 1 to the context, {context:,}, found {stride:,}: tokens would be skipped"
        )
    return context, min(stride, context - len(begin))


class Scorer:
    """A text cut into windows and batches, which are the same every time it is scored.

    target: int64[predicted], the indices of the predicted tokens in the text, ascending. window: int64[predicted], the
    window that predicts each. passes: forward passes per scoring.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        token_ids: NDArray[np.int64],
        context: int,
        stride: int,
        batch_size: int | None = None,
        begin: Sequence[int] = (),
    ) -> None:
        """batch_size: windows in a pass; None: as many as LOGIT_BYTES and PASS_TOKENS allow. begin: token ids before
        every window, within `context`.

        Raises UnknownToken for a token that the model does not have, UnsupportedModel for a model that is not causal.
        """
        require_causal(loaded.model, "a perplexity")
        self._loaded = loaded
        device = embedding_device(loaded.model)
        self._ids = torch.as_tensor(token_ids, dtype=torch.long, device=device)
        self._begin = torch.as_tensor(list(begin), dtype=torch.long, device=device)
        windows = sliding_windows(len(token_ids), context - len(begin), stride, begun=bool(begin))
        self.target = np.concatenate([np.arange(w.first, w.stop) for w in windows])
        self.window = np.repeat(np.arange(len(windows)), [w.stop - w.first for w in windows])
        self._vocabulary = vocabulary(loaded.model)
        check_ids(loaded.model, [*begin, int(token_ids.min()), int(token_ids.max())], "the text")
        # A model that does not take this argument computes all logits.
        self._keeps = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
        self._batches = self._batched(windows, batch_size)

    @property
    def passes(self) -> int:
        return len(self._batches)

    def nll(self, tick: Tick = silent, done: int = 0, total: int | None = None) -> NDArray[np.float64]:
        """The negative log-likelihood of each predicted token, in nats: float64[predicted], in the order of `target`.

        tick: called with the passes done, and of how many; `done` and `total` if this scoring is one of several.
        """
        total = self.passes if total is None else total
        nll = torch.empty(len(self._ids), dtype=torch.float64)
        for batch in self._batches:
            part = self._pass(batch)
            for row, window in enumerate(batch):
                nll[window.first : window.stop] = part[row]
            done += 1
            tick(done, total)
        return np.asarray(nll.numpy()[self.target])

    def _pass(self, batch: Sequence[Window]) -> Tensor:
        """float64[windows, predicted] on the CPU, of windows of one shape."""
        _, predicted = batch[0].shape
        ids = torch.stack([torch.cat([self._begin, self._ids[w.start : w.stop]]) for w in batch])
        options = {"logits_to_keep": predicted + 1} if self._keeps else {}
        with torch.inference_mode():
            logits = self._loaded.model(input_ids=ids, use_cache=False, **options).logits
            # The last position predicts the token after the window.
            logits = logits[:, -predicted - 1 : -1].float()
            targets = ids[:, -predicted:].to(logits.device)
            nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nll.view(len(batch), predicted).double().cpu()

    def _batched(self, windows: Sequence[Window], batch_size: int | None) -> list[list[Window]]:
        batches: list[list[Window]] = []
        for window in windows:
            length, predicted = window.shape
            length += len(self._begin)
            logits = 4 * self._vocabulary * (predicted + 1 if self._keeps else length)
            most = batch_size or max(1, min(LOGIT_BYTES // logits, PASS_TOKENS // length))
            if batches and batches[-1][0].shape == window.shape and len(batches[-1]) < most:
                batches[-1].append(window)
            else:
                batches.append([window])
        return batches


def mean_nll(nll: NDArray[np.float64]) -> float:
    """Nats per token, summed exactly: the order of the tokens does not matter."""
    return math.fsum(nll) / len(nll)


def perplexity(nll: float) -> float | None:
    """exp of nats per token; None if that is too large for a float."""
    return math.exp(nll) if nll < 709 else None
