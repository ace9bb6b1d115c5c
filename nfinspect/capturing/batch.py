"""Where the prompts of a batch are among the rows of its values, and which means are kept of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.types import Prompt, Selection

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PromptRows:
    """The prompts of a batch that have recorded tokens: one entry per prompt in every field."""

    start: Rows  # the first row
    rest: Rows  # the first past position 0
    stop: Rows  # the one after the last
    generated: Rows  # the first that is generated and past position 0; `stop` if there is none
    token: Rows  # token_idx of the first
    prompt_idx: Rows
    concept: list[str]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], at_start: Sequence[bool], offset: int) -> "PromptRows":
        """at_start: whether a prompt's token at position 0 is recorded; offset: token_idx of the batch's first row."""
        there = [(prompt, at) for prompt, at in zip(prompts, at_start, strict=True) if prompt.tokens]
        token = np.array([prompt.first_token for prompt, _ in there], np.int64)
        start = token - offset
        stop = start + np.array([prompt.tokens for prompt, _ in there], np.int64)
        rest = start + np.array([at for _, at in there], np.int64)
        # Position 0 may be generated, too.
        own = start + np.array([prompt.prompt_tokens for prompt, _ in there], np.int64)
        return cls(
            start,
            rest,
            stop,
            np.maximum(rest, own),
            token,
            np.array([prompt.prompt_idx for prompt, _ in there], np.int64),
            [prompt.concept for prompt, _ in there],
        )

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Of each prompt: start, rest, stop, generated, token."""
        columns = (self.start, self.rest, self.stop, self.generated, self.token)
        return zip(*(column.tolist() for column in columns), strict=True)

    @property
    def written(self) -> Rows:
        """How many means each prompt has: none of position 0, else of all, the last, and those generated if any."""
        return np.where(self.rest == self.stop, 0, np.where(self.generated == self.stop, 2, 3))

    def means(self) -> tuple[Rows, list[Selection], Rows]:
        """Of each mean, prompt by prompt: prompt_idx, selection, and over how many tokens."""
        selections: list[Selection] = []
        n: list[int] = []
        for _, rest, stop, generated, _ in self:
            if rest < stop:
                selections += ("all", "last", "generated") if generated < stop else ("all", "last")
                n += (stop - rest, 1, stop - generated) if generated < stop else (stop - rest, 1)
        return np.repeat(self.prompt_idx, self.written), selections, np.array(n, np.int64)
