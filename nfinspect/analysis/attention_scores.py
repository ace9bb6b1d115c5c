"""The result of the attention analysis: a score for every neuron, and figures of every layer's attention (methods §8).

Computed by nfinspect.experiments.attention, which needs the model; read from a saved result without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analysis.attention_methods import TOP, Method
from nfinspect.analysis.distribution import PERCENTILES, Distribution
from nfinspect.analysis.numbers import nullable, number
from nfinspect.json_values import Document

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NeuronScore(Document):
    """A neuron and its score, means over the prompts; None where undefined. rank counts from 1, by |score|.

    mean_activation: its value at the positions >= 1. first_activation: its value at position 0; first_score: |a ·
    ∂NLL/∂a| there, with gradient_guided only.
    """

    rank: int
    site: str
    layer: int
    neuron: int
    score: float | None
    mean_activation: float
    first_activation: float
    first_score: float | None

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"


@dataclass(frozen=True)
class AttentionLayer(Document):
    """One layer: the distribution of its neurons' scores, and its attention, as means over prompts and heads.

    sink: the weight that queries i >= 1 put on position 0; entropy: how evenly they spread their weights, 0-1;
    diversity: how differently the heads attend, 0-1 (definitions: nfinspect.experiments.layer_attention). heads: how
    many; in Mamba channels. These four are None with gradient_guided, which reads no attention.
    """

    site: str
    layer: int
    neurons: int
    scores: Distribution
    heads: int | None
    sink: float | None
    entropy: float | None
    diversity: float | None


@dataclass(frozen=True)
class AttentionScores:
    """Every neuron of a site, scored over prompts.

    prompts: how many were given; samples: those of two tokens or more, which count; tokens: of the samples. Tables:
    scores, one row for each neuron, best first, with the fields of NeuronScore; heads, one row for each head: layer,
    head, sink, entropy; attention_map, layer, query, key, weight (mean over the heads) for the first positions of the
    longest prompt, key <= query; map_tokens, position and token of these. The last three are empty with
    gradient_guided. notes: for the user.
    """

    method: Method
    site: str
    prompts: int
    samples: int
    tokens: int
    layers: tuple[AttentionLayer, ...]
    notes: tuple[str, ...]
    scores: pa.Table
    heads: pa.Table
    attention_map: pa.Table
    map_tokens: pa.Table

    def neurons(self, top: int = TOP) -> tuple[NeuronScore, ...]:
        """The `top` neurons with the largest |score|, ties in order of layer and neuron."""
        return tuple(NeuronScore(**row) for row in self.scores.slice(0, top).to_pylist())

    def to_json(self, top: int = TOP) -> dict[str, object]:
        """The document, with `top` neurons; all of them are in the table `scores`."""
        return {
            "method": self.method,
            "site": self.site,
            "prompts": self.prompts,
            "samples": self.samples,
            "tokens": self.tokens,
            "layers": [layer.to_json() for layer in self.layers],
            "neurons": [neuron.to_json() for neuron in self.neurons(top)],
            "notes": list(self.notes),
        }

    def tables(self) -> dict[str, pa.Table]:
        """What is saved next to the document, by name."""
        return {
            "scores": self.scores,
            "heads": self.heads,
            "attention_map": self.attention_map,
            "map_tokens": self.map_tokens,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], table: Callable[[str], pa.Table]) -> Self:
        """From the document of a saved result and a function that returns its tables by name."""
        layers = tuple(
            AttentionLayer(**{**layer, "scores": Distribution(**layer["scores"])}) for layer in document["layers"]
        )
        names = ("scores", "heads", "attention_map", "map_tokens")
        counts = {name: document[name] for name in ("method", "site", "prompts", "samples", "tokens")}
        return cls(**counts, layers=layers, notes=tuple(document["notes"]), **{name: table(name) for name in names})


@dataclass(frozen=True)
class LayerScores:
    """The means over the prompts of one layer's neurons, float64[neurons] each; NaN where undefined."""

    layer: int
    score: Floats
    mean_activation: Floats
    first_activation: Floats
    first_score: Floats


def ranked(site: str, layers: list[LayerScores]) -> pa.Table:
    """One row for each neuron of all layers, by |score|, undefined ones last; ties in order of layer and neuron."""
    score = np.concatenate([layer.score for layer in layers])
    number_of = np.concatenate([np.arange(len(layer.score), dtype=np.int32) for layer in layers])
    layer_of = np.concatenate([np.full(len(layer.score), layer.layer, np.int32) for layer in layers])
    size = np.where(np.isnan(score), -1.0, np.abs(score))
    order = np.argsort(-size, kind="stable")  # the rows are in order of layer and neuron
    columns = {
        name: nullable(np.concatenate([getattr(layer, name) for layer in layers])[order])
        for name in ("score", "mean_activation", "first_activation", "first_score")
    }
    return pa.table(
        {
            "rank": np.arange(1, len(order) + 1, dtype=np.int32),
            "site": pa.array([site] * len(order), pa.string()),
            "layer": layer_of[order],
            "neuron": number_of[order],
            **columns,
        }
    )


def distribution_of(values: Floats) -> Distribution:
    """The distribution of the values that are defined; percentiles by linear interpolation."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Distribution(None, None, None, None, {str(p): None for p in PERCENTILES})
    points = np.percentile(values, PERCENTILES)
    return Distribution(
        mean=number(values.mean()),
        std=number(values.std(ddof=1)) if len(values) > 1 else None,
        min=number(values.min()),
        max=number(values.max()),
        percentiles={str(p): number(value) for p, value in zip(PERCENTILES, points, strict=True)},
    )
