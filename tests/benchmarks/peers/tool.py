"""What a tool under measurement does: read values, of given tokens or while it generates, onto durable disk."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.peers.saving import Save, make_durable, save_npy, saved_values


class Tool(Protocol):
    """`folder` is empty; on return everything is durable in it."""

    def corpus(self, batches: Sequence[torch.Tensor], folder: Path) -> None: ...

    def generation(self, ids: torch.Tensor, new_tokens: int, folder: Path) -> None: ...

    def values(self, folder: Path, layer: int) -> NDArray[np.float32]:
        """What was written, float32[tokens, neurons], prompt after prompt."""
        ...


@dataclass(frozen=True)
class Reader:
    """A tool that hands out tensors and leaves saving them to its user."""

    read: Callable[[torch.Tensor], Sequence[torch.Tensor]]
    """Token ids [prompts, tokens] -> float32[prompts, tokens, neurons] for each layer."""
    generate: Callable[[torch.Tensor, int], Sequence[torch.Tensor]]
    """The same, of the tokens given and of those that are generated, but for the last: it is never read."""
    save: Save = save_npy

    def corpus(self, batches: Sequence[torch.Tensor], folder: Path) -> None:
        for batch, ids in enumerate(batches):
            self.save(folder, batch, self.read(ids))
        make_durable(folder)

    def generation(self, ids: torch.Tensor, new_tokens: int, folder: Path) -> None:
        self.save(folder, 0, self.generate(ids, new_tokens))
        make_durable(folder)

    def values(self, folder: Path, layer: int) -> NDArray[np.float32]:
        return saved_values(folder, layer)


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
