"""What each analysis is drawn as: a line that says what the figure means, then its lines. All of it runs in workers.

Every function takes the analysis, the row under the cursor, width, height and whether only ASCII may be used.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.tui.cells import fit, foreign, number
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs, bar
from nfinspect.tui.widgets.plots import curve, key_line, layer_bars

if TYPE_CHECKING:
    from nfinspect.analysis.attention_scores import AttentionScores, NeuronScore
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect.analysis.positions import PositionalNeuron, PositionAnalysis

Lines = tuple[str, ...]
BINS = 60
WORDS = {1: "token", 2: "bigram", 3: "trigram"}


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
    what = f"% of firing neurons by k, the fewest {WORDS[found.n]}s with 95 % of their activations"
    return (what, *layer_bars(_names(found.layers), parts, width, height - 2, plain), "k: " + key_line(names, plain))


def ngram_detectors(found: NgramAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    counts = tuple(float(layer.detectors) for layer in found.layers)
    what = f"{WORDS[found.n]} detectors in each layer"
    return (what, *layer_bars(_names(found.layers), (counts,), width, height - 1, plain))


def ngram_covered(found: NgramAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    new = tuple(float(layer.new_overall) for layer in found.layers)
    known = tuple(float(layer.covered - layer.new_overall) for layer in found.layers)
    names = ("covered by no earlier layer", "by an earlier one, too")
    what = f"{WORDS[found.n]}s that each layer's detectors cover together"
    return (what, *layer_bars(_names(found.layers), (new, known), width, height - 2, plain), key_line(names, plain))


# positions


def position_profile(
    found: PositionAnalysis, row: PositionalNeuron | None, width: int, height: int, plain: bool
) -> Lines:
    if row is None:
        return ("no positional neuron: nothing to draw",)
    rates = tuple(found.profiles[found.neurons.index(row)].tolist())
    what = f"{row.address}: share of {found.sequences:,} sequences in which it fires, by position"
    return (what, *curve(rates, 0.0, 1.0, width, height - 1, plain))


def position_layers(found: PositionAnalysis, row: object, width: int, height: int, plain: bool) -> Lines:
    strong = tuple(float(layer.strong) for layer in found.layers)
    weak = tuple(float(layer.positional - layer.strong) for layer in found.layers)
    drawn = layer_bars(_names(found.layers), (strong, weak), width, height - 2, plain)
    return ("positional neurons in each layer", *drawn, key_line(("strong", "weak"), plain))


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
    return (what, *layer_bars(_names(found.layers), (shares,), width, height - 1, plain))


def attention_diversity(found: AttentionScores, row: object, width: int, height: int, plain: bool) -> Lines:
    shares = tuple(None if layer.diversity is None else 100 * layer.diversity for layer in found.layers)
    what = "how differently a layer's heads attend, % (0: alike, 100: as much as they can)"
    return (what, *layer_bars(_names(found.layers), (shares,), width, height - 1, plain))


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
    tokens = [foreign(token, glyphs) for token in found.map_tokens.column("token").to_pylist()]
    drawn, darkest = matrix_map(weights, tokens, width, height - 1, glyphs)
    what = f"L{layer}, mean of heads: rows attend to columns, tokens 0-{size - 1}; full from {darkest:.2g}"
    return (what, *drawn)


# ablation


def ablation_bars(found: Any, row: object, width: int, height: int, plain: bool) -> Lines:
    """Two bars for each set: without it, and without random sets of its size."""
    glyphs = _glyphs(plain)
    sets = found.document["sets"]
    drawn = [one["delta_nll"] for one in sets] + [one["control"]["mean_delta_nll"] or 0.0 for one in sets]
    most = max((abs(value) for value in drawn if math.isfinite(value)), default=0.0)
    name, room = 14, max(10, width - 14 - 24)
    lines = []
    for one in sets:
        control = one["control"]
        for label, value, spread in (
            (foreign(one["name"], glyphs), one["delta_nll"], None),
            (f"  {control['count']} controls", control["mean_delta_nll"], control["sd"]),
        ):
            if value is None:
                lines.append(f"{fit(label, name, glyphs)} none")
                continue
            sign = "-" if value < 0 else "+"
            beside = f" sd {number(spread, glyphs, 3)}" if spread is not None else ""
            drawn_bar = bar(abs(value) / most if most else 0.0, room, glyphs)
            lines.append(f"{fit(label, name, glyphs)} {sign}{drawn_bar} {number(abs(value), glyphs, 3)}{beside}")
    shown = lines[: height - 1]
    more = f" ({len(sets) - len(shown) // 2} sets below)" if len(shown) < len(lines) else ""
    return (f"change of NLL without the neurons, nats per token; + is a loss{more}", *shown)
