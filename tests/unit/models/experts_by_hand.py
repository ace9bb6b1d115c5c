"""Tiny mixtures of experts, and their neurons computed by hand: a loop over tokens and the experts chosen for them.

Nothing here is read from nfinspect. What a module of experts is given, and the router's weights, are plain Python.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from families import _ROPE, _build
from torch import Tensor

EXPERTS = 5
CHOSEN = 2
WIDTH = 8  # rows of 16 bytes, which the grouped product needs
_MIXTRAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN, **_ROPE, "intermediate_size": WIDTH}
_QWEN = {"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": WIDTH, **_ROPE}

CONFIGS: dict[str, Any] = {
    "mixtral": lambda: tf.MixtralConfig(**_MIXTRAL),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(**_QWEN, shared_expert_intermediate_size=8),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**_QWEN, mlp_only_layers=[1], norm_topk_prob=True, head_dim=4),
    "olmoe": lambda: tf.OlmoeConfig(
        **_ROPE | {"intermediate_size": WIDTH}, num_experts=EXPERTS, num_experts_per_tok=CHOSEN
    ),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **_ROPE | {"num_key_value_heads": 4},
        moe_intermediate_size=WIDTH,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
    ),
    "gpt_oss": lambda: tf.GptOssConfig(**_MIXTRAL, head_dim=4, swiglu_limit=0.05),
    "granitemoe": lambda: tf.GraniteMoeConfig(**_MIXTRAL),
}


def model_of(family: str, implementation: str = "grouped_mm") -> Any:
    """A tiny random model; the experts run as `implementation` says."""
    model = _build(CONFIGS[family]())
    model.set_experts_implementation(implementation)
    return model


@dataclass
class ByHand:
    """One layer over a prompt: [tokens, experts, width], NaN where the expert was not chosen; weights likewise."""

    values: Tensor
    gates: Tensor
    weights: Tensor  # [tokens, experts]

    @property
    def neurons(self) -> Tensor:
        """[tokens, experts * width]"""
        return self.values.flatten(1)


def by_hand(model: Any, ids: list[int]) -> dict[int, ByHand]:
    """The layers with experts, in a plain pass over one prompt without padding."""
    given: dict[int, tuple[Tensor, ...]] = {}

    def keep(layer: int) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            given[layer] = tuple(one.detach().clone() for one in args)

        return hook

    found = {
        layer: block.mlp.experts
        for layer, block in enumerate(model.model.layers)
        if hasattr(getattr(block, "mlp", None), "experts")
    } or {layer: block.block_sparse_moe.experts for layer, block in enumerate(model.model.layers)}
    handles = [experts.register_forward_pre_hook(keep(layer)) for layer, experts in found.items()]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {layer: _layer(model.config, found[layer], *args) for layer, args in given.items()}


def _layer(config: Any, experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> ByHand:
    values, gates = (torch.full((len(hidden), EXPERTS, WIDTH), float("nan")) for _ in range(2))
    router = torch.full((len(hidden), EXPERTS), float("nan"))
    with torch.no_grad():
        for token, (x, chosen, weight) in enumerate(zip(hidden, index.tolist(), weights, strict=True)):
            for place, expert in enumerate(chosen):
                value, gate = _neurons(config, experts, expert, x)
                values[token, expert], gates[token, expert] = value, gate
                router[token, expert] = weight[place]
    return ByHand(values, gates, router)


def _neurons(config: Any, experts: Any, expert: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of one expert on one token: the input of its down projection, and the gate before the activation."""
    if config.model_type == "gpt_oss":
        both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate, up = both[0::2], both[1::2]
        told = hasattr(config, "swiglu_alpha")  # older transformers have them in the module
        alpha, limit = (config.swiglu_alpha, config.swiglu_limit) if told else (experts.alpha, experts.limit)
        limited = torch.minimum(gate, torch.tensor(limit))
        up = torch.clip(up, -limit, limit)
        return (up + 1) * limited / (1 + torch.exp(-alpha * limited)), gate
    both = experts.gate_up_proj[expert] @ x
    gate, up = both[:WIDTH], both[WIDTH:]
    return gate / (1 + torch.exp(-gate)) * up, gate
