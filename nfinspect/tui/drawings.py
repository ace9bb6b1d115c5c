"""What each analysis is drawn as: a line that says what the figure means, then its lines. All of it runs in workers.

Every function takes the analysis, the row under the cursor, width, height and whether only ASCII may be used.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.present.numbers import number
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs
from nfinspect.tui.widgets.plots import key_line, layer_bars

if TYPE_CHECKING:
    from nfinspect.analysis.attention_scores import AttentionScores, NeuronScore
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.ngrams import NgramAnalysis

Lines = tuple[str, ...]
BINS = 60


def _names(layers: Sequence[Any]) -> tuple[str, ...]:
    return tuple(f"L{layer.layer}" for layer in layers)


def _glyphs(plain: bool) -> Glyphs:
    return ASCII if plain else UNICODE


# n-grams


def ngram_buckets(found: NgramAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    names = list(found.layers[0].buckets) if found.layers else []
    parts = tuple(
        tuple(100 * layer.buckets[name] / layer.active if layer.active else None for layer in found.layers)
        for name in names
    )
    what = f"% of firing neurons by k, the fewest {NGRAM_WORDS[found.n]}s with 95 % of their activations"
    drawn = layer_bars(_names(found.layers), parts, width, height - 2, plain, whole=True)
    return (what, *drawn, "k: " + key_line(names, plain))


def ngram_detectors(found: NgramAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    counts = tuple(float(layer.detectors) for layer in found.layers)
    if not any(counts):
        return (f"no layer has a {NGRAM_WORDS[found.n]} detector: nothing to draw",)
    what = f"{NGRAM_WORDS[found.n]} detectors in each layer"
    return (what, *layer_bars(_names(found.layers), (counts,), width, height - 1, plain, whole=True))


def ngram_covered(found: NgramAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    new = tuple(float(layer.new_overall) for layer in found.layers)
    known = tuple(float(layer.covered - layer.new_overall) for layer in found.layers)
    names = ("covered by no earlier layer", "by an earlier one, too")
    if not any((*new, *known)):
        return (f"no {NGRAM_WORDS[found.n]} is covered by a detector: nothing to draw",)
    what = f"{NGRAM_WORDS[found.n]}s that each layer's detectors cover together"
    drawn = layer_bars(_names(found.layers), (new, known), width, height - 2, plain, whole=True)
    return (what, *drawn, key_line(names, plain))


# delta


def delta_ratio(found: Delta, row: object, width: int, height: int, plain: bool) -> Lines:
    what = "neurons by von Neumann ratio (0: frozen, 2: white noise, 4: flips each token)"
    return (what, *_histogram([r.von_neumann_ratio for r in found.neurons], width, height - 1, plain))


def delta_step(found: Delta, row: object, width: int, height: int, plain: bool) -> Lines:
    what = "neurons by step sensitivity: mean |change from token to token| / std"
    return (what, *_histogram([r.step_sensitivity for r in found.neurons], width, height - 1, plain))


def delta_layers(found: Delta, row: object, width: int, height: int, plain: bool) -> Lines:
    medians = tuple(layer.median_von_neumann_ratio for layer in found.layers)
    what = "median von Neumann ratio of each layer's neurons (2: white noise)"
    return (what, *layer_bars(_names(found.layers), (medians,), width, height - 1, plain))


def delta_mamba(found: Delta, row: object, width: int, height: int, plain: bool) -> Lines:
    layers = sorted({channel.layer for channel in found.mamba_delta})
    means = tuple(
        statistics.median([c.mean for c in found.mamba_delta if c.layer == layer and c.mean is not None] or [0.0])
        for layer in layers
    )
    what = f"step size by layer: median over channels of the mean over {found.mamba_delta[0].n:,} tokens"
    return (what, *layer_bars(tuple(f"L{layer}" for layer in layers), (means,), width, height - 1, plain))


def _histogram(values: Sequence[float | None], width: int, height: int, plain: bool) -> Lines:
    import numpy as np

    from nfinspect.tui.widgets.chart import histogram, wants_log

    defined = [value for value in values if value is not None]
    if not defined:
        return ("no neuron varied",)
    counts, edges = np.histogram(defined, bins=BINS)
    held = tuple(counts.tolist())
    return histogram(tuple(edges.tolist()), held, True, width, height, wants_log(held), plain)


# attention


def attention_scores(found: AttentionScores, row: object, width: int, height: int, plain: bool) -> Lines:
    def largest(values: tuple[float | None, ...]) -> float | None:
        return max((abs(value) for value in values if value is not None), default=None)

    heights = tuple(largest((layer.scores.min, layer.scores.max)) for layer in found.layers)
    return (
        "largest |score| in each layer",
        *layer_bars(_names(found.layers), (heights,), width, height - 1, plain),
    )


def attention_sink(found: AttentionScores, row: object, width: int, height: int, plain: bool) -> Lines:
    shares = tuple(None if layer.sink is None else 100 * layer.sink for layer in found.layers)
    what = "% of each layer's attention that goes to position 0, the sink"
    return (what, *layer_bars(_names(found.layers), (shares,), width, height - 1, plain, whole=True))


def attention_diversity(found: AttentionScores, row: object, width: int, height: int, plain: bool) -> Lines:
    shares = tuple(None if layer.diversity is None else 100 * layer.diversity for layer in found.layers)
    what = "how differently a layer's heads attend, % (0: alike, 100: as much as they can)"
    return (what, *layer_bars(_names(found.layers), (shares,), width, height - 1, plain, whole=True))


def attention_map(found: AttentionScores, row: NeuronScore | None, width: int, height: int, plain: bool) -> Lines:
    """The kept mean map of the layer of the neuron under the cursor."""
    import numpy as np

    from nfinspect.tui.widgets.heat_map import matrix_map

    layer = row.layer if row is not None else found.layers[0].layer
    table = found.attention_map.to_pydict()
    here = [i for i, of in enumerate(table["layer"]) if of == layer]
    if not here:
        return (f"no attention map of L{layer} is kept",)
    size = max(table["query"][i] for i in here) + 1
    weights = np.full((size, size), np.nan)
    for i in here:
        weights[table["query"][i], table["key"][i]] = table["weight"][i]
    glyphs = _glyphs(plain)
    tokens = found.map_tokens.column("token").to_pylist()
    drawn, darkest = matrix_map(weights, tokens, width, height - 1, glyphs)
    what = (
        f"L{layer}, mean of heads: rows attend to columns, tokens 0-{size - 1}; full from {number(darkest, digits=2)}"
    )
    return (what, *drawn)
