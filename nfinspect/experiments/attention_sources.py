"""Where a model's attention comes from: its attention modules, or the hidden attention of its Mamba mixers."""

from collections.abc import Sequence
from typing import Protocol

from nfinspect.experiments.attention_maps import AttentionMaps
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.hidden_attention import HiddenAttention
from nfinspect.experiments.layer_attention import LayerAttention
from nfinspect.models import (
    LayerSite,
    LoadedModel,
    UnknownSite,
    attention_modules,
    blocks,
    find_sites,
    layer_ranges,
    mixing_layers,
)


class AttentionSource(Protocol):
    """Reads the attention of every layer that has some, one sequence per pass. layers: these layers, in order."""

    layers: tuple[int, ...]

    def read(self, token_ids: Sequence[int]) -> dict[int, LayerAttention]:
        """The attention by layer. Raises AttentionUnavailable."""


def attention_source(loaded: LoadedModel) -> AttentionSource:
    """What reads the attention of this model. Raises AttentionUnavailable if it cannot be read.

    Of a hybrid the layers with attention are read, and of a block with a mixer beside it the attention alone.
    """
    _, stack = blocks(loaded.model)
    attention = attention_modules(loaded.model)
    if attention:
        return AttentionMaps(loaded, attention)
    mixers = _mixers(loaded)
    if [site.layer for site in mixers] == list(range(len(stack))):
        return HiddenAttention(loaded, mixers)
    raise AttentionUnavailable(
        f"expected attention in some of the {len(stack)} blocks, or a Mamba mixer in every one, found a mixer in "
        f"{len(mixers)} of them ('{loaded.model_type}'); --method gradient_guided needs none"
    )


def notes_on_hybrids(loaded: LoadedModel, source: AttentionSource) -> list[str]:
    """What the user should know of a model that mixes positions in other ways, too."""
    if isinstance(source, HiddenAttention):
        return []
    every = range(len(blocks(loaded.model)[1]))
    without = [layer for layer in every if layer not in source.layers]
    beside = [layer for layer in mixing_layers(loaded.model) if layer in source.layers]
    notes = []
    if without:
        notes.append(
            f"layers {layer_ranges(without)} of '{loaded.model_type}' have no attention weights: they and their "
            "neurons are left out"
        )
    if beside:
        notes.append(
            f"a state-space mixer stands beside the attention of layers {layer_ranges(beside)}: what it takes from "
            "earlier positions is in no figure"
        )
    return notes


def check_rollout(loaded: LoadedModel, source: AttentionSource) -> None:
    """Raises AttentionUnavailable for a model with blocks that mix positions by anything but the attention read."""
    every = range(len(blocks(loaded.model)[1]))
    others = {layer for layer in every if layer not in source.layers}
    if not isinstance(source, HiddenAttention):
        others |= set(mixing_layers(loaded.model))
    if others:
        raise AttentionUnavailable(
            f"expected attention alone in every one of the {len(every)} blocks for a rollout, found other blocks in "
            f"layers {layer_ranges(sorted(others))} of '{loaded.model_type}': how much they pass from one position to "
            "another is not known; --method attention_weighted reads the layers with attention"
        )


def _mixers(loaded: LoadedModel) -> list[LayerSite]:
    try:
        return find_sites(loaded.model, ["mixer"])
    except UnknownSite:
        return []
