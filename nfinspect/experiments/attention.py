"""Attention neurons: how a neuron's values relate to what the model attends to, and to its loss (methods §8).

    attention_weighted   s_n = Σ_j r_j a_jn / Σ_j r_j − mean_j a_jn, r_j the mean attention that j receives [own]
    rollout              the same with the last token's rollout through the later layers (Abnar & Zuidema 2020)
    gradient_guided      s_n = Σ_t |a_tn · ∂NLL/∂a_tn| [own]

Position 0, the sink of idle heads, is left out of every score and reported separately. One prompt in a pass, so that
only the prompt's own tokens are attended to; a score is the mean over the prompts of two tokens or more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from nfinspect.analysis.attention_methods import METHODS, Method
from nfinspect.analysis.attention_scores import (
    AttentionLayer,
    AttentionScores,
    Floats,
    LayerScores,
    distribution_of,
    ranked,
)
from nfinspect.analysis.attention_weights import attended, rollout
from nfinspect.analysis.enough import few_prompts
from nfinspect.analysis.numbers import number
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.experiments.attention_maps import eager_attention
from nfinspect.experiments.attention_sources import (
    AttentionSource,
    attention_source,
    check_rollout,
    notes_on_hybrids,
)
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.layer_attention import LayerAttention
from nfinspect.experiments.value_gradients import read_gradients
from nfinspect.models import (
    LayerSite,
    LoadedModel,
    SiteReader,
    body,
    default_site,
    find_sites,
    forward_batch,
    layer_ranges,
    require_causal,
)
from nfinspect_store.errors import RequestError

MAP_TOKENS = 64
"""The most positions of the longest prompt whose attention is kept as a map."""

Texts = Callable[[Sequence[int]], Sequence[str]]


def attention(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    method: Method = "attention_weighted",
    site: str | None = None,
    layers: Sequence[int] | None = None,
    texts: Texts | None = None,
    tick: Tick = silent,
) -> AttentionScores:
    """Score every neuron of a site over prompts, given as token ids.

    site, layers: by default the model's default site and all layers. texts: from token ids to the labels of the map.
    tick: called with the prompts done, and of how many. To read attention, a transformer is switched to eager attention
    temporarily. Memory: 8 · layers · tokens² bytes for the maps of one prompt (attention_weighted, rollout), that of a
    backward pass for gradient_guided.
    Raises RequestError for an unknown method, prompts that do not fit the model, or if none has two tokens;
    AttentionUnavailable, GradientUnavailable; UnsupportedModel for a model that is not causal; what SiteReader raises.
    """
    if method not in METHODS:
        raise RequestError(f"expected one of the methods {', '.join(METHODS)}, found {method!r}")
    require_causal(loaded.model, "scores of what later tokens attend to")
    name = site or default_site(loaded.model)
    sites = find_sites(loaded.model, [name], layers)
    used = _usable(loaded, sequences)
    by_gradients = method == "gradient_guided"
    hybrid: list[str] = []
    with nullcontext() if by_gradients else eager_attention(loaded.model):
        source = None if by_gradients else attention_source(loaded)
        if source is not None:
            if method == "rollout":
                check_rollout(loaded, source)
            sites, instead = _with_attention(loaded, sites, source, () if site else layers or source.layers)
            hybrid = [*notes_on_hybrids(loaded, source), *instead]
        scoring = _Scoring(loaded, sites, method)
        longest = max(used, key=len)
        for done, ids in enumerate(used):
            if source is None:
                scoring.add_gradients(ids)
            else:
                scoring.add_attention(source, ids, longest=ids is longest)
            tick(done + 1, len(used))
    label = texts or (lambda ids: [str(loaded.tokenizer.decode([i])) for i in ids])
    left_out = len(sequences) - len(used)
    single = f"left out, as they have a single token: {left_out:,} of {len(sequences):,} prompts"
    return AttentionScores(
        method=method,
        site=sites[0].site,
        prompts=len(sequences),
        samples=len(used),
        tokens=sum(map(len, used)),
        layers=scoring.layers(),
        notes=tuple(filter(None, [*hybrid, single if left_out else "", few_prompts(len(used))])),
        scores=ranked(sites[0].site, scoring.means()),
        heads=scoring.head_table(),
        attention_map=scoring.map_table(),
        map_tokens=_token_table(label(longest[:MAP_TOKENS]) if source is not None else []),
    )


def _with_attention(
    loaded: LoadedModel, sites: Sequence[LayerSite], source: AttentionSource, others: Sequence[int]
) -> tuple[list[LayerSite], list[str]]:
    """The sites of layers with attention, and a note if they are not those given. others: the layers whose `attn` may
    be read instead, if the given sites are in no layer with attention. Raises AttentionUnavailable if there are none.
    """
    found = [one for one in sites if one.layer in source.layers]
    if found:
        return found, []
    name = sites[0].site
    allowed = {*others} & {*source.layers}
    found = [one for one in find_sites(loaded.model, ["attn"]) if one.layer in allowed] if allowed else []
    if not found:
        raise AttentionUnavailable(
            f"expected {name} neurons in a layer with attention ({layer_ranges(source.layers)}), found none in the "
            "layers asked for: choose others with --layers or --site; --method gradient_guided needs no attention"
        )
    return found, [f"no layer with attention has {name} neurons: read is attn, the input of its output projection"]


def _usable(loaded: LoadedModel, sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    limit = loaded.max_context
    for number_, ids in enumerate(sequences):
        if limit is not None and len(ids) > limit:
            raise RequestError(
                f"prompt {number_ + 1} has {len(ids):,} tokens, the model's context {limit:,}: cut it (--max-length)"
            )
    used = [ids for ids in sequences if len(ids) > 1]
    if not used:
        raise RequestError(
            f"expected a prompt of two tokens or more, found none among {len(sequences):,}: position 0 counts in no "
            "score"
        )
    return used


class _Scoring:
    """Adds up the scores of the prompts, in float64."""

    def __init__(self, loaded: LoadedModel, sites: Sequence[LayerSite], method: Method) -> None:
        self._loaded = loaded
        self._sites = sites
        self._method = method
        self._samples = 0
        # Rows: score, mean activation, activation at position 0, score at position 0.
        self._sums = {site.layer: np.zeros((4, site.neurons)) for site in sites}
        self._heads: dict[int, Floats] = {}  # layer: sums of entropy and sink, [2, heads]
        self._diversity: dict[int, float] = {}
        self._maps: dict[int, Floats] = {}

    def add_attention(self, source: AttentionSource, ids: Sequence[int], *, longest: bool) -> None:
        found = source.read(ids)
        weights = self._weights(found)
        loaded = self._loaded
        self._samples += 1
        for site in self._sites:
            layer = found[site.layer]
            self._heads[site.layer] = self._heads.get(site.layer, 0.0) + np.stack([layer.entropy, layer.sink])
            self._diversity[site.layer] = self._diversity.get(site.layer, 0.0) + layer.diversity
            if longest:
                self._maps[site.layer] = layer.weights[:MAP_TOKENS, :MAP_TOKENS].copy()

        # A separate pass, whose values are reduced layer by layer: all at once would take layers x tokens x neurons.
        def sink(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
            a = _exact(values[0])
            beyond = torch.from_numpy(weights[site.layer][1:] - 1 / (len(ids) - 1)).to(a)
            self._sums[site.layer][:3] += torch.stack([beyond @ a[1:], a[1:].mean(0), a[0]]).cpu().numpy()

        batch = forward_batch(loaded.model, [ids], pad_id=loaded.pad_id)
        with SiteReader(loaded.model, self._sites, sink) as reader, torch.inference_mode():
            reader.begin(1, len(ids), batch.valid)
            body(loaded.model)(**batch.inputs())
            reader.end()

    def add_gradients(self, ids: Sequence[int]) -> None:
        self._samples += 1

        def sink(site: LayerSite, values: Tensor, gradients: Tensor) -> None:
            a, effect = _exact(values), (_exact(values) * _exact(gradients)).abs()
            parts = [effect[1:].sum(0), a[1:].mean(0), a[0], effect[0]]
            self._sums[site.layer] += torch.stack(parts).cpu().numpy()

        read_gradients(self._loaded, self._sites, ids, sink)

    def means(self) -> list[LayerScores]:
        found = []
        for layer, sums in self._sums.items():
            score, activation, first, first_score = sums / self._samples
            if self._method != "gradient_guided":
                first_score = np.full(len(score), np.nan)
            found.append(LayerScores(layer, score, activation, first, first_score))
        return found

    def layers(self) -> tuple[AttentionLayer, ...]:
        found = []
        for site, means in zip(self._sites, self.means(), strict=True):
            heads = self._heads.get(site.layer)
            entropy, sink = (None, None) if heads is None else (heads / self._samples).mean(axis=1)
            diversity = self._diversity.get(site.layer)
            found.append(
                AttentionLayer(
                    site=site.site,
                    layer=site.layer,
                    neurons=site.neurons,
                    scores=distribution_of(means.score),
                    heads=None if heads is None else heads.shape[1],
                    sink=number(sink),
                    entropy=number(entropy),
                    diversity=None if diversity is None else number(diversity / self._samples),
                )
            )
        return tuple(found)

    def head_table(self) -> pa.Table:
        sizes = [heads.shape[1] for heads in self._heads.values()]
        means = np.concatenate([heads / self._samples for heads in self._heads.values()] or [np.zeros((2, 0))], axis=1)
        return pa.table(
            {
                "layer": np.repeat(np.array(list(self._heads), np.int32), sizes),
                "head": np.concatenate([np.arange(n, dtype=np.int32) for n in sizes] or [np.zeros(0, np.int32)]),
                "sink": means[1],
                "entropy": means[0],
            }
        )

    def map_table(self) -> pa.Table:
        size = len(next(iter(self._maps.values()))) if self._maps else 0
        query, key = np.tril_indices(size)
        count = len(self._maps)
        return pa.table(
            {
                "layer": np.repeat(np.array(list(self._maps), np.int32), len(query)),
                "query": np.tile(query.astype(np.int32), count),
                "key": np.tile(key.astype(np.int32), count),
                "weight": np.concatenate([m[query, key] for m in self._maps.values()] or [np.zeros(0)]),
            }
        )

    def _weights(self, found: Mapping[int, LayerAttention]) -> dict[int, Floats]:
        """The weight of each position in each layer, from the attention of all layers."""
        maps = [layer.weights for layer in found.values()]
        weights = rollout(maps) if self._method == "rollout" else [attended(attention) for attention in maps]
        return dict(zip(found, weights, strict=True))


def _exact(values: Tensor) -> Tensor:
    """As float64; on the CPU if the device has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _token_table(texts: Sequence[str]) -> pa.Table:
    return pa.table({"position": np.arange(len(texts), dtype=np.int32), "token": pa.array(list(texts), pa.string())})
