"""TransformerLens: mlp.hook_post from `run_with_cache`, without the vocabulary projection, and from `generate`."""

import torch
from transformer_lens.model_bridge import TransformerBridge

from tests.benchmarks.peers import models
from tests.benchmarks.peers.tool import Reader


def reader(model: models.Model) -> Reader:
    bridge = TransformerBridge.boot_transformers(
        model.shape, hf_model=model.hf, tokenizer=model.tokenizer, device="cpu", dtype=torch.float32
    )
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.layers)]

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, names_filter=names, stop_at_layer=model.layers)
        return [cache[name] for name in names]

    def generate(ids: torch.Tensor, new_tokens: int) -> list[torch.Tensor]:
        read: list[list[torch.Tensor]] = [[] for _ in names]
        hooks = [
            (name, lambda values, hook, kept=kept: kept.append(values)) for name, kept in zip(names, read, strict=True)
        ]
        with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks):
            bridge.generate(
                ids,
                max_new_tokens=new_tokens,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        return [torch.cat(steps, dim=1) for steps in read]

    return Reader(read, generate)
