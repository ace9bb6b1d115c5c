"""The models, prompts and bare passes that every tool is measured with: random weights, float32, the CPU.

A neuron's value is the input of its MLP's output projection, in every tool.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BATCH_TOKENS = 1024
"""Tokens of one forward pass at most, the same for every tool."""

LAYERS = {"gpt2": 12, "gated": 8}
NEURONS = {"gpt2": 3072, "gated": 1408}
TITLES = {"gpt2": "GPT-2-small's shape, 12 x 3,072 neurons", "gated": "Llama shape, 8 x 1,408 gated neurons, width 512"}


@dataclass(frozen=True)
class Model:
    """A model and the names that the tools know its parts by."""

    shape: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    projections: tuple[str, ...]
    """Names of the output projections, layer by layer, below `hf.base_model`."""

    @property
    def layers(self) -> int:
        return len(self.projections)

    @property
    def values_per_token(self) -> int:
        return self.layers * NEURONS[self.shape]

    def modules(self) -> list[nn.Module]:
        return [self.hf.base_model.get_submodule(name) for name in self.projections]


def build(shape: str) -> Model:
    """shape: 'gpt2' or 'gated'. The same weights every time."""
    torch.manual_seed(0)
    hf: PreTrainedModel
    if shape == "gpt2":
        hf = GPT2LMHeadModel(GPT2Config())
        path = "h.{}.mlp.c_proj"
    else:
        config = LlamaConfig(
            vocab_size=32000,
            hidden_size=512,
            intermediate_size=NEURONS["gated"],
            num_hidden_layers=LAYERS["gated"],
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=1024,
        )
        hf = LlamaForCausalLM(config)
        path = "layers.{}.mlp.down_proj"
    hf.eval()
    return Model(shape, hf, tokenizer(hf.config.vocab_size), tuple(path.format(i) for i in range(LAYERS[shape])))


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Each token's text is its number: some tools do not start without a tokenizer."""
    vocabulary = Tokenizer(WordLevel({str(i): i for i in range(words)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="0", pad_token="0", eos_token="0")


def batches(model: Model, tokens: int, length: int) -> list[torch.Tensor]:
    """About `tokens` tokens in prompts of `length`, int64[prompts, length] for each forward pass."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, model.hf.config.vocab_size, (max(1, tokens // length), length), generator=generator)
    return list(ids.split(max(1, BATCH_TOKENS // length)))


def whole_passes(model: Model, given: list[torch.Tensor]) -> None:
    """The bare passes, vocabulary projection included."""
    with torch.inference_mode():
        for ids in given:
            model.hf(ids, use_cache=False)


def block_passes(model: Model, given: list[torch.Tensor]) -> None:
    """The bare passes without the vocabulary projection: all that the neurons need."""
    with torch.inference_mode():
        for ids in given:
            model.hf.base_model(ids, use_cache=False)


def greedy(new_tokens: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None)


def generation(model: Model, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """The bare generation: int64[prompts, length + new_tokens]."""
    with torch.inference_mode():
        return model.hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy(new_tokens))


def reference(model: Model, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """Every value by plain hooks on the whole model, float32[tokens, neurons] for each layer."""
    read: list[list[Any]] = [[] for _ in range(model.layers)]
    handles = [
        module.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0].flatten(0, -2).clone()))
        for module, kept in zip(model.modules(), read, strict=True)
    ]
    whole_passes(model, given)
    for handle in handles:
        handle.remove()
    return [torch.cat(kept) for kept in read]
