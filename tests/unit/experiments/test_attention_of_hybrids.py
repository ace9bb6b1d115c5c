"""Hybrids: the layers with attention are read, the others left out and named; each layer has its own maps and heads."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_attention import IDS, SHORT, loaded_of, values_of
from torch import Tensor, nn

from nfinspect.analysis.attention_weights import attended
from nfinspect.experiments.attention import attention
from nfinspect.experiments.attention_sources import attention_source
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.models import LoadedModel, blocks

sys.path.insert(0, str(Path(__file__).parents[2] / "sweep"))
from tiny import families, tiny_model  # noqa: E402  (its folder has just been put on the path)

ATTENTION = {
    "jamba": [1],
    "bamba": [1],
    "zamba": [1, 3],
    "zamba2": [1, 3],
    "falcon_h1": [0, 1, 2, 3],
    "nemotron_h": [2],
    "qwen3_next": [3],
    "granitemoehybrid": [1, 3],
    "lfm2_moe": [1, 3],
    "recurrent_gemma": [2],
    "olmo_hybrid": [3],
    "minimax": [0, 2],
    "kimi_linear": [1, 3],
    "bailing_hybrid": [1, 3],
    "qwen3_5_text": [3],
}
"""By family which layers of the tiny model have softmax attention, as its config says."""

QUICK = ("jamba", "zamba2", "falcon_h1", "nemotron_h")
BESIDE = ("zamba", "zamba2", "falcon_h1")
"""Families whose blocks with attention have a state-space mixer, too."""

KNOWN = [family for family in ATTENTION if family in families()]
"""Those of this version of transformers."""

FAMILIES = [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in KNOWN]


def loaded(family: str) -> LoadedModel:
    return loaded_of(tiny_model(family))  # type: ignore[arg-type]


def by_hand(model: nn.Module, ids: list[int]) -> dict[int, Tensor]:
    """What the softmax of each block returned that has rows of attention weights: [heads, tokens, tokens]."""
    found: dict[int, Tensor] = {}
    whole, current = torch.nn.functional.softmax, -1

    def begins(layer: int) -> Any:
        def hook(*_: object) -> None:
            nonlocal current
            current = layer

        return hook

    def softmax(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = whole(values, *args, **kwargs)
        if result.dim() == 4 and result.shape[2:] == (len(ids), len(ids)):
            found[current] = result[0].double()
        return result

    handles = [block.register_forward_pre_hook(begins(i)) for i, block in enumerate(blocks(model)[1])]
    torch.nn.functional.softmax = softmax
    try:
        with torch.no_grad():
            model(torch.tensor([ids]), use_cache=False)
    finally:
        torch.nn.functional.softmax = whole
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_are_those_of_the_layers_with_attention(family: str) -> None:
    model = loaded(family)
    source = attention_source(model)
    assert list(source.layers) == ATTENTION[family]
    found, expected = source.read(IDS), by_hand(model.model, IDS)
    assert list(found) == list(expected) == ATTENTION[family]
    for layer, weights in expected.items():
        assert found[layer].weights == pytest.approx(weights.mean(0).numpy(), abs=1e-6)
        assert found[layer].sink == pytest.approx(weights[:, 1:, 0].mean(1).numpy(), abs=1e-6)
        evenness = torch.special.entr(weights).sum(-1)[:, 1:] / torch.arange(2, len(IDS) + 1).log()
        assert found[layer].entropy == pytest.approx(evenness.mean(1).numpy(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_heads_are_told_of_these_layers_and_the_others_are_named(family: str) -> None:
    model = loaded(family)
    found = attention(model, [IDS, SHORT])
    assert [layer.layer for layer in found.layers] == ATTENTION[family]
    assert sorted(set(found.heads.column("layer").to_pylist())) == ATTENTION[family]
    assert set(found.scores.column("layer").to_pylist()) == set(found.attention_map.column("layer").to_pylist())
    said = " ".join(found.notes)
    for layer in set(range(4)) - {*ATTENTION[family]}:
        assert "have no attention weights" in said and str(layer) not in map(str, ATTENTION[family])
    assert ("have no attention weights" in said) == (len(ATTENTION[family]) < 4)
    assert ("stands beside the attention" in said) == (family in BESIDE)


def test_a_score_is_its_formula() -> None:
    model = loaded("bamba")
    found = attention(model, [IDS])
    assert found.site == "mlp" and [layer.layer for layer in found.layers] == [1]
    weights, values = attended(by_hand(model.model, IDS)[1].mean(0).numpy()), values_of(model, IDS)[1]
    expected = (weights[1:, None] * values[1:]).sum(0) - values[1:].mean(0)
    table = found.scores.sort_by("neuron")
    assert np.array(table.column("score").to_pylist()) == pytest.approx(expected, abs=1e-6)


def test_where_no_layer_with_attention_has_neurons_its_attention_is_read() -> None:
    model = loaded("nemotron_h")
    found = attention(model, [IDS])
    assert found.site == "attn" and any("no layer with attention has mixer neurons" in note for note in found.notes)
    with pytest.raises(AttentionUnavailable, match=r"mixer neurons in a layer with attention \(2\), found none"):
        attention(model, [IDS], site="mixer")
    with pytest.raises(AttentionUnavailable, match="found none in the layers asked for"):
        attention(loaded("bamba"), [IDS], site="mlp", layers=[0, 2])


@pytest.mark.parametrize("family", ["jamba", "falcon_h1"])
def test_a_rollout_through_blocks_that_mix_otherwise_is_refused(family: str) -> None:
    with pytest.raises(
        AttentionUnavailable, match="found other blocks in layers 0.*attention_weighted reads the layers"
    ):
        attention(loaded(family), [IDS], "rollout", site="resid")
