"""Where a model's attention comes from: its attention modules, or the hidden attention of its Mamba mixers."""

from collections.abc import Sequence
from typing import Protocol

from nfinspect.experiments.attention_maps import AttentionMaps
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.hidden_attention import HiddenAttention
from nfinspect.experiments.layer_attention import LayerAttention
from nfinspect.models import LayerSite, LoadedModel, UnknownSite, blocks, find_sites


class AttentionSource(Protocol):
    """Reads the attention of every layer, one sequence per pass."""

    def read(self, token_ids: Sequence[int]) -> list[LayerAttention]:
        """The attention of the blocks in order. Raises AttentionUnavailable."""


def attention_source(loaded: LoadedModel) -> AttentionSource:
    """What reads the attention of this model. Raises AttentionUnavailable if it cannot be read.

    All blocks must mix positions the same way: models with both attention and mixers are refused, as a rollout through
    a block whose mixing is unknown would be invented.
    """
    _, stack = blocks(loaded.model)
    every = list(range(len(stack)))
    attention, mixers = _sites(loaded, "attn"), _sites(loaded, "mixer")
    if [site.layer for site in attention] == every and not mixers:
        return AttentionMaps(loaded, attention)
    if [site.layer for site in mixers] == every and not attention:
        return HiddenAttention(loaded, mixers)
    raise AttentionUnavailable(
        f"expected attention, or a Mamba mixer, in every one of the {len(stack)} blocks, found attention in "
        f"{len(attention)} and a mixer in {len(mixers)} of them ('{loaded.model_type}'): attention and mixers cannot "
        "be combined; --method gradient_guided needs none"
    )


def _sites(loaded: LoadedModel, name: str) -> list[LayerSite]:
    try:
        return find_sites(loaded.model, [name])
    except UnknownSite:
        return []
