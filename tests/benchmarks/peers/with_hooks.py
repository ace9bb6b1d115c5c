"""Plain forward hooks, as in any script without a library."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.benchmarks.peers import models
from tests.benchmarks.peers.saving import Save, save_npy
from tests.benchmarks.peers.tool import Reader


def reader(model: models.Model, save: Save = save_npy) -> Reader:
    @contextmanager
    def hooked() -> Iterator[list[list[torch.Tensor]]]:
        read: list[list[torch.Tensor]] = [[] for _ in range(model.layers)]
        handles = [
            module.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
            for module, kept in zip(model.modules(), read, strict=True)
        ]
        yield read
        for handle in handles:
            handle.remove()

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        with hooked() as kept:
            models.block_passes(model, [ids])
        return [values for (values,) in kept]

    def generate(ids: torch.Tensor, new_tokens: int) -> list[torch.Tensor]:
        with hooked() as kept:
            models.generation(model, ids, new_tokens)
        return [torch.cat(steps, dim=1) for steps in kept]

    return Reader(read, generate, save)
