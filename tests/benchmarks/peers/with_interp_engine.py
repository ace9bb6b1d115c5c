"""interp-engine: `capture` of its point mlp_act. Its generation reads one prompt at a time, by a second pass."""

import torch
from interp_engine import Address, EagerModel, capture, capture_generation

from tests.benchmarks.peers import models
from tests.benchmarks.peers.tool import Reader


def reader(model: models.Model) -> Reader:
    engine = EagerModel(model.shape, hf_model=model.hf, tokenizer=model.tokenizer)
    points = [Address("mlp_act", layer) for layer in range(model.layers)]

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        cache = capture(engine, ids, points)
        return [cache[point] for point in points]

    def generate(ids: torch.Tensor, new_tokens: int) -> list[torch.Tensor]:
        caches = [capture_generation(engine, row, points, max_tokens=new_tokens)[1] for row in ids]
        return [torch.cat([cache[point] for cache in caches]) for point in points]

    return Reader(read, generate)
