"""nnsight: its cache of module inputs, in a trace and in a generation."""

import torch
from nnsight import TransformersModel

from tests.benchmarks.peers import models
from tests.benchmarks.peers.tool import Reader


def reader(model: models.Model) -> Reader:
    wrapped = TransformersModel(model.hf, tokenizer=model.tokenizer)
    prefix = model.hf.base_model_prefix
    base = getattr(wrapped, prefix)
    envoys = [base.get(name) for name in model.projections]

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode(), wrapped.trace(ids, use_cache=False, logits_to_keep=1) as tracer:
            cache = tracer.cache(modules=envoys, include_inputs=True, include_output=False)
        return [cache[envoy.path].input for envoy in envoys]

    def generate(ids: torch.Tensor, new_tokens: int) -> list[torch.Tensor]:
        config = models.greedy(new_tokens)
        mask = torch.ones_like(ids)
        with torch.inference_mode(), wrapped.generate(ids, attention_mask=mask, generation_config=config) as tracer:
            cache = tracer.cache(modules=envoys, include_inputs=True, include_output=False)
        return [torch.cat(cache[envoy.path].input, dim=1) for envoy in envoys]

    return Reader(read, generate)
