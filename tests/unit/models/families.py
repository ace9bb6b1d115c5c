"""Tiny random models of every family, seeded, in eval mode: 3 layers, 101 tokens, float32 on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from transformers import PreTrainedConfig, PreTrainedModel

VOCAB = 101


def _build(config: Any) -> PreTrainedModel:
    torch.manual_seed(7)
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The libraries start with biases of 0 and weights of 0.02: too tame to tell one tensor from
            # another.
            if name.endswith(("A_log", "dt_bias")) or "dt_proj" in name:
                continue
            parameter.add_(torch.randn_like(parameter) * 0.1)
            # Norms that end a sublayer blow it up to size 1, and float32 rounding with it: keep them small.
            if "gemma" in config.model_type and "layernorm" in name and name.split(".")[-2].startswith("post_"):
                parameter.sub_(0.8)  # Gemma's norms multiply by 1 + weight
            if name.endswith("mixer.norm.weight"):
                parameter.mul_(0.2)
    assert isinstance(model, PreTrainedModel)
    return model.float().eval()


_IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ROPE = {
    **_IDS,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


def gpt2(activation: str = "gelu_new") -> PreTrainedModel:
    return _build(tf.GPT2Config(**_IDS, n_embd=16, n_layer=3, n_head=4, n_positions=64, activation_function=activation))


def opt() -> PreTrainedModel:
    return _build(
        tf.OPTConfig(
            **_IDS,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=24,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
        )
    )


def opt_350m() -> PreTrainedModel:
    """OPT-350m's oddities: norms after the sublayers, embeddings narrower than the blocks."""
    return _build(
        tf.OPTConfig(
            **_IDS,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=24,
            max_position_embeddings=64,
            word_embed_proj_dim=8,
            do_layer_norm_before=False,
        )
    )


def gpt_neox() -> PreTrainedModel:
    settings = {k: v for k, v in _ROPE.items() if k != "num_key_value_heads"}
    return _build(tf.GPTNeoXConfig(**settings))


def llama() -> PreTrainedModel:
    return _build(tf.LlamaConfig(**_ROPE))


def tiny_llama(tokens: int) -> PreTrainedModel:
    """With so many token ids."""
    return _build(tf.LlamaConfig(**{**_ROPE, "vocab_size": tokens}))


def mistral() -> PreTrainedModel:
    return _build(tf.MistralConfig(**_ROPE, head_dim=4, sliding_window=4))


def qwen2() -> PreTrainedModel:
    return _build(tf.Qwen2Config(**_ROPE))


def qwen3() -> PreTrainedModel:
    return _build(tf.Qwen3Config(**_ROPE, head_dim=8))


def gemma() -> PreTrainedModel:
    return _build(tf.GemmaConfig(**_ROPE, head_dim=8))


def gemma2() -> PreTrainedModel:
    return _build(tf.Gemma2Config(**_ROPE, head_dim=8, sliding_window=4))


def gemma3_text() -> PreTrainedModel:
    return _build(tf.Gemma3TextConfig(**_ROPE, head_dim=8, sliding_window=4))


def phi() -> PreTrainedModel:
    return _build(tf.PhiConfig(**_ROPE))


def phi3(**settings: Any) -> PreTrainedModel:
    return _build(tf.Phi3Config(**_ROPE, **settings))


def bloom() -> PreTrainedModel:
    return _build(tf.BloomConfig(**_IDS, hidden_size=16, n_layer=3, n_head=4))


def _falcon(**settings: Any) -> PreTrainedModel:
    return _build(
        tf.FalconConfig(
            **_IDS,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            **settings,
        )
    )


def falcon_old() -> PreTrainedModel:
    """Falcon-7B's shape: multi-query, parallel attention, rotary."""
    return _falcon(multi_query=True, parallel_attn=True, new_decoder_architecture=False, alibi=False, bias=False)


def falcon_alibi() -> PreTrainedModel:
    """Falcon-RW's shape: ALiBi, sequential, biases."""
    return _falcon(multi_query=False, parallel_attn=False, new_decoder_architecture=False, alibi=True, bias=True)


def falcon_new() -> PreTrainedModel:
    """Falcon-40B's shape."""
    return _falcon(new_decoder_architecture=True, num_kv_heads=2, alibi=False, bias=False)


def gpt_neo() -> PreTrainedModel:
    return _build(
        tf.GPTNeoConfig(
            **_IDS,
            hidden_size=16,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            max_position_embeddings=64,
        )
    )


def gptj() -> PreTrainedModel:
    return _build(tf.GPTJConfig(**_IDS, n_embd=16, n_layer=3, n_head=2, rotary_dim=4, n_positions=64))


def mamba(**settings: Any) -> PreTrainedModel:
    return _build(tf.MambaConfig(**_IDS, hidden_size=16, num_hidden_layers=3, state_size=4, **settings))


def mamba_bias() -> PreTrainedModel:
    """A Mamba whose projections have biases: the one that left padding cannot serve."""
    return mamba(use_bias=True)


def mamba2(**settings: Any) -> PreTrainedModel:
    return _build(
        tf.Mamba2Config(
            **_IDS,
            hidden_size=16,
            num_hidden_layers=3,
            state_size=4,
            expand=2,
            num_heads=4,
            head_dim=8,
            n_groups=2,
            chunk_size=4,
            **settings,
        )
    )


def mamba2_clamped() -> PreTrainedModel:
    """A Mamba-2 that cuts a third of its step sizes at either limit: in a pass, not in transformers' decoding steps."""
    return mamba2(time_step_limit=(0.02, 0.06))


def falcon_mamba() -> PreTrainedModel:
    return _build(tf.FalconMambaConfig(**_IDS, hidden_size=16, num_hidden_layers=3, state_size=4))


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": gpt2,
    "opt": opt,
    "opt_350m": opt_350m,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "phi": phi,
    "phi3": phi3,
    "bloom": bloom,
    "falcon_old": falcon_old,
    "falcon_alibi": falcon_alibi,
    "falcon_new": falcon_new,
    "gpt_neo": gpt_neo,
    "gptj": gptj,
    "mamba": mamba,
    "mamba_bias": mamba_bias,
    "mamba2": mamba2,
    "mamba2_clamped": mamba2_clamped,
    "falcon_mamba": falcon_mamba,
}

_PLAIN = {k: v for k, v in _ROPE.items() if k not in ("bos_token_id", "eos_token_id")} | {"num_hidden_layers": 2}
_GPT = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}

# Types outside the table of sites, which are found by structure.
UNKNOWN: list[PreTrainedConfig] = [
    tf.StableLmConfig(**_PLAIN),
    tf.Olmo2Config(**_PLAIN),
    tf.GlmConfig(**_PLAIN, head_dim=4),
    tf.CohereConfig(**_PLAIN),
    tf.Starcoder2Config(**_PLAIN),
    tf.NemotronConfig(**_PLAIN),
    tf.GraniteConfig(**_PLAIN),
    tf.Lfm2Config(**_PLAIN),
    tf.GPTBigCodeConfig(**_GPT),
    tf.CodeGenConfig(**_GPT, rotary_dim=4),
    tf.MptConfig(vocab_size=VOCAB, d_model=16, n_layers=2, n_heads=4),
    tf.XGLMConfig(vocab_size=VOCAB, d_model=16, num_layers=2, attention_heads=4, ffn_dim=24),
]


def compiled_ways() -> dict[str, Callable[[PreTrainedModel], Callable[..., Any]]]:
    """How a model may be compiled: (model) -> what is called afterwards."""

    def in_place(model: Any) -> Any:
        model.compile(backend="eager")
        return model

    def blocks(model: Any) -> Any:
        for block in model.transformer.h:
            block.compile(backend="eager")
        return model

    def part(model: Any) -> Any:
        model.transformer.h[0].mlp = torch.compile(model.transformer.h[0].mlp, backend="eager")
        return model

    return {
        "torch.compile": lambda model: torch.compile(model, backend="eager"),
        "in place": in_place,
        "blocks": blocks,
        "a wrapped part": part,
    }
