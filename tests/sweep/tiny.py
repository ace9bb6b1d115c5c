"""Tiny random models of every decoder family that the installed transformers has, made from the families' own configs.

Every size in a config is cut down by its name; the few families where that does not fit together have a line of their
own in OVERRIDES. Nothing here is read from nfinspect.
"""

import dataclasses
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 101
LAYERS = 4

# By name; what is not named stays as the family has it. Heads x head size = hidden size, halves for keys and values.
SIZES: dict[str, int] = {}
for size, names in {
    VOCABULARY: "vocab_size text_vocab_size decoder_vocab_size src_vocab_size",
    32: (
        "hidden_size d_model n_embd dim_model emb_dim embedding_size word_embed_proj_dim embedding_dim "
        "attention_hidden_size lru_width embed_dim input_embedding_size"
    ),
    48: (
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner dim_ff d_inner ffn_hidden_size "
        "moe_intermediate_size shared_expert_intermediate_size dense_intermediate_size shared_intermediate_size "
        "moe_shared_expert_intermediate_size feed_forward_size dff"
    ),
    LAYERS: (
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
        "num_encoder_layers depth "
        # As many as layers, though no layers.
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads num_attention_heads_swa "
        "num_experts num_local_experts n_routed_experts moe_num_experts sliding_window attention_window_size "
        "window_size attention_chunk_size local_window_size chunk_size mamba_chunk_size mamba_n_heads "
        "n_mamba_heads mamba_num_heads linear_num_key_heads linear_num_value_heads"
    ),
    2: (
        "num_key_value_heads num_kv_heads kv_n_heads num_experts_per_tok num_experts_per_token moe_k moe_top_k "
        "top_k_experts"
    ),
    8: (
        "head_dim dim_head attention_head_dim d_kv kv_channels qk_rope_head_dim qk_nope_head_dim v_head_dim "
        "state_size mamba_d_state ssm_state_size mamba_state_size linear_key_head_dim linear_value_head_dim "
        "patch_size"
    ),
    16: "q_lora_rank kv_lora_rank mamba_d_head mamba_head_dim mamba_headdim image_size",
    1: (
        "n_group topk_group num_expert_group num_limited_groups n_shared_experts first_k_dense_replace "
        "num_dense_layers moe_layer_start_index"
    ),
    64: (
        "max_position_embeddings n_positions n_ctx max_seq_len context_length max_source_positions "
        "max_target_positions original_max_position_embeddings"
    ),
}.items():
    SIZES.update(dict.fromkeys(names.split(), size))

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_ALTERNATING = ["linear_attention", "full_attention"] * (LAYERS // 2)
_SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GEMMA_4 = {
    "layer_types": _SLIDING, "global_head_dim": 8, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}  # fmt: skip
_QWEN_4 = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16, "hc_lowrank": 8,
    "indexer_compress_ratio": 4, "layer_types": ["linear_attention", "indexed_attention"] * (LAYERS // 2),
}  # fmt: skip

OVERRIDES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "blt": {"encoder_hash_byte_group_vocab": 50, "use_cache": False},
    "bamba": {"attn_layer_indices": [1]},
    "blenderbot": {"encoder_layers": LAYERS},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v2": {"num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "gemma3n_text": {
        "layer_types": _SLIDING, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    },
    "gemma4": _GEMMA_4,
    "gemma4_assistant": _GEMMA_4 | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
    "gemma4_text": _GEMMA_4,
    "gemma4_unified": _GEMMA_4,
    "gemma4_unified_text": _GEMMA_4,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": _ALTERNATING},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _ALTERNATING, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "longcat_flash": {
        "expert_ffn_hidden_size": 48, "zero_expert_num": 2, "moe_topk": 2, "qk_head_dim": 16, "num_key_value_heads": 4,
    },
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 2},
    "qwen4_exp": _QWEN_4,
    "qwen4_exp_text": _QWEN_4,
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local"] * 4,
        "local_attn_chunk_length": 4, "num_hidden_layers": 4, "attention_head_size": 8, "feed_forward_size": 48,
    },
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64,
        "attention_head_dim": 16, "n_mamba_heads": 2,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 4},
}  # fmt: skip


def families() -> list[str]:
    """Every model type that AutoModelForCausalLM takes."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str) -> Any:
    """The family's config with every size cut down."""
    return _shrunk(CONFIG_MAPPING[family], family, OVERRIDES.get(family, {}))


def _shrunk(kind: Any, family: str, overrides: dict[str, Any]) -> Any:
    whole = kind()
    fields = {f.name: whole.__dict__.get(f.name, f.default) for f in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for name, value in fields.items():
        mapped = SIZES.get(kind.attribute_map.get(name, name), SIZES.get(name))
        if name in overrides:
            given[name] = overrides[name]
        elif isinstance(value, transformers.PreTrainedConfig):
            given[name] = _shrunk(type(value), family, overrides)
        elif name in IDS:
            given[name] = IDS[name] if value is not None else None
        elif mapped is not None and isinstance(value, int) and not isinstance(value, bool):
            given[name] = min(value, mapped) if value > 0 else value
            if name in KEY_HEADS and value == next((fields[n] for n in HEADS if n in fields), None):
                given[name] = 4
        elif name == "head_dim" and value is None:
            given[name] = 8
        elif name.endswith("token_id") and isinstance(value, int) and value >= VOCABULARY:
            given[name] = VOCABULARY - 1
    for name in overrides.keys() - fields.keys():
        if name in getattr(kind, "attribute_map", {}):
            given[name] = overrides[name]
    return kind(**given)


def tiny_model(family: str, seed: int = 7) -> nn.Module:
    """A random model of the family in eval mode, float32, with biases and norms away from 0 and 1."""
    torch.manual_seed(seed)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.float().eval()
