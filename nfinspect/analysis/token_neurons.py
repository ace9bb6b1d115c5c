"""The strongest neurons at one token of a run, and how unusual its layers are there (methods §15)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.numbers import number
from nfinspect_store.errors import RequestError
from nfinspect_store.histogram import BINS, EDGES, bin_of
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

TokenRank = Literal["value", "z", "percentile", "contribution"]
TOKEN_RANKS: tuple[TokenRank, ...] = ("value", "z", "percentile", "contribution")

READ_FIGURES = """
SELECT n, mean, coalesce(std, 'nan') AS std, min, max FROM neurons WHERE site = $site ORDER BY layer, neuron
"""

READ_EXAMPLES = """
SELECT layer_id, neuron, any_value("values"[list_position(token_idx, $token)]) AS value FROM examples
WHERE layer_id BETWEEN $low AND $high AND list_contains(token_idx, $token)
GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True)
class SiteFigures:
    """What values are compared with: the neurons of a site in layer order, [neurons] each.

    below: float32[neurons, BINS], how many values of a neuron lie in lower bins of its histogram; norms: float32, the
    length of its output weights, NaN where that is not known. None until they are read.
    """

    layers: tuple[Layer, ...]
    starts: NDArray[np.int64]  # of the layers, and the number of all neurons: [layers + 1]
    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]  # n - 1; NaN where undefined
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    below: NDArray[np.float32] | None = None
    norms: NDArray[np.float32] | None = None

    def span(self, layer: int | None) -> slice:
        """The neurons of a layer; all if None."""
        if layer is None:
            return slice(0, int(self.starts[-1]))
        at = [one.layer for one in self.layers].index(layer)
        return slice(int(self.starts[at]), int(self.starts[at + 1]))

    def address(self, place: int) -> tuple[int, int]:
        """Layer and number of the neuron at this place."""
        at = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.layers[at].layer, place - int(self.starts[at])

    def z(self, values: NDArray[np.float32], of: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """How many standard deviations values [neurons, ...] are above the neurons' means over the run; NaN where a
        neuron never varies.
        """
        std = np.where(self.std[of] > 0, self.std[of], np.nan)
        shape = (-1, *(1,) * (values.ndim - 1))
        found: NDArray[np.float64] = (values - self.mean[of].reshape(shape)) / std.reshape(shape)
        return found

    def percentile(self, values: NDArray[np.float32], of: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of a neuron's values over the run that lie below values [neurons], in percent: from its histogram,
        linear within a bin, and never nearer to 0 or 100 than half a token.
        """
        assert self.below is not None, "the histograms have not been read"
        below, n = self.below[of], self.n[of].astype(np.float64)
        rows, bins = np.arange(len(values)), bin_of(np.ascontiguousarray(values, np.float32))
        under = below[rows, bins].astype(np.float64)
        upto = np.where(bins + 1 < BINS, below[rows, np.minimum(bins + 1, BINS - 1)], n)
        low = np.maximum(EDGES[bins], self.minimum[of])
        high = np.minimum(EDGES[bins + 1], self.maximum[of])
        wide = high > low
        inside = np.where(wide, (values - low) / np.where(wide, high - low, 1.0), 0.5)
        ranks = under + np.clip(inside, 0.0, 1.0) * (upto - under)
        share: NDArray[np.float64] = np.clip(ranks, 0.5, np.maximum(n - 0.5, 0.5)) / np.maximum(n, 1)
        return 100 * share


@dataclass(frozen=True)
class TokenNeuron:
    """A neuron at a token. z: in standard deviations from its mean over the run; percentile: of its own values over the
    run; contribution: |a| times the length of its output weights. None where undefined or not known.
    """

    site: str
    layer: int
    neuron: int
    value: float
    z: float | None
    percentile: float | None
    contribution: float | None


@dataclass(frozen=True)
class LayerAtToken:
    """unusual: the root mean square of its neurons' z at the token, about 1 on average; None where undefined."""

    layer: int
    unusual: float | None


@dataclass(frozen=True)
class AtToken:
    """The strongest neurons at a token, the strongest first, among `ranked`; the layers of the site.

    examples: whether only the neurons that have the token among their examples are known (--keep stats): then layers is
    empty.
    """

    token_idx: int
    rank: TokenRank
    neurons: tuple[TokenNeuron, ...]
    layers: tuple[LayerAtToken, ...]
    ranked: int
    examples: bool


def site_figures(run: RunTables, site: str | None = None) -> SiteFigures:
    """The figures that values of a site are compared with, but for histograms and norms."""
    layers = run.site_layers(site)
    table = run.cursor().execute(READ_FIGURES, {"site": layers[0].site}).fetchnumpy()

    def column(name: str, kind: type[np.generic]) -> NDArray[np.generic]:
        return np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan).astype(kind)

    return SiteFigures(
        layers=layers,
        starts=np.cumsum([0, *(layer.neurons for layer in layers)]),
        n=np.asarray(table["n"], np.int64),
        mean=column("mean", np.float64),  # type: ignore[arg-type]
        std=column("std", np.float64),  # type: ignore[arg-type]
        minimum=column("min", np.float32),  # type: ignore[arg-type]
        maximum=column("max", np.float32),  # type: ignore[arg-type]
    )


def read_below(run: RunTables, layers: Sequence[Layer]) -> NDArray[np.float32]:
    """For SiteFigures.below: 400 bytes a neuron, whatever the number of tokens."""
    below = np.zeros((sum(layer.neurons for layer in layers), BINS), np.float32)
    start = 0
    for layer in layers:
        counts = run.histograms(layer.site, layer.layer)
        below[start : start + layer.neurons, 1:] = np.cumsum(counts, axis=1)[:, :-1]
        start += layer.neurons
    return below


def at_token(
    run: RunTables,
    figures: SiteFigures,
    token_idx: int,
    rank: TokenRank = "value",
    top: int = 100,
    layer: int | None = None,
) -> AtToken:
    """The `top` strongest neurons of a layer, or of all, at a token; of a run that kept only statistics those that have
    it among their examples. Ranked by size (|value|, |z|), by how far the percentile is from 50, or by contribution.

    Raises RequestError for a token that the run does not have, and for contributions where norms are not known.
    """
    if rank == "contribution" and figures.norms is None:
        raise RequestError("the lengths of the output weights are not known")
    chosen = figures.span(layer)
    layers: tuple[LayerAtToken, ...] = ()
    if run.has_values:
        values = run.token_values(token_idx, figures.layers[0].site)
        layers = _unusual_layers(figures, values)
        places = np.arange(chosen.start, chosen.stop)
        values = values[chosen]
        if any(one.experts for one in figures.layers):
            routed = ~np.isnan(values)
            places, values = places[routed], values[routed]
    else:
        places, values = _examples_at(run, figures, token_idx)
        here = (places >= chosen.start) & (places < chosen.stop)
        places, values = places[here], values[here]
    strongest = _strongest(_measure(figures, rank, values, places), top)
    rows = _rows(figures, values[strongest], places[strongest])
    return AtToken(token_idx, rank, rows, layers, len(places), not run.has_values)


def _measure(
    figures: SiteFigures, rank: TokenRank, values: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.floating]:
    match rank:
        case "value":
            return np.abs(values)
        case "z":
            return np.abs(figures.z(values, places))
        case "percentile":
            return np.abs(figures.percentile(values, places) - 50)
        case "contribution":
            assert figures.norms is not None
            return np.abs(values) * figures.norms[places]


def _strongest(measure: NDArray[np.floating], top: int) -> NDArray[np.int64]:
    """The places of the `top` largest, the largest first, equal ones in order; undefined ones never."""
    sizes = np.where(np.isnan(measure), -np.inf, measure)
    some = np.arange(len(sizes))
    if top < len(sizes):
        least = np.partition(sizes, len(sizes) - top)[len(sizes) - top]
        some = np.flatnonzero(sizes >= least)
    order = some[np.argsort(-sizes[some], kind="stable")][:top]
    return order[np.isfinite(sizes[order])]


def _rows(figures: SiteFigures, values: NDArray[np.float32], places: NDArray[np.int64]) -> tuple[TokenNeuron, ...]:
    z = figures.z(values, places)
    percentile = figures.percentile(values, places) if figures.below is not None else np.full(len(values), np.nan)
    norms = figures.norms[places] if figures.norms is not None else np.full(len(values), np.nan)
    return tuple(
        TokenNeuron(
            figures.layers[0].site,
            *figures.address(int(place)),
            float(value),
            number(z[i]),
            number(percentile[i]),
            number(abs(value) * norms[i]),
        )
        for i, (place, value) in enumerate(zip(places, values, strict=True))
    )


def _unusual_layers(figures: SiteFigures, values: NDArray[np.float32]) -> tuple[LayerAtToken, ...]:
    squares = np.square(figures.z(values, slice(None)))
    return tuple(
        LayerAtToken(layer.layer, number(_root_mean(squares[figures.span(layer.layer)]))) for layer in figures.layers
    )


def _root_mean(squares: NDArray[np.float64]) -> float:
    known = squares[~np.isnan(squares)]
    return float(np.sqrt(known.mean())) if len(known) else np.nan


def unusual_tokens(run: RunTables, figures: SiteFigures, layer: int, start: int, stop: int) -> NDArray[np.float64]:
    """How unusual a layer is at the tokens start <= token_idx < stop: the root mean square of its neurons' z, of a
    mixture of experts those of the experts that the token was routed to: float64[stop - start]; NaN where none of these
    neurons varies. Raises StoreError for a run without values.
    """
    one = run.resolve_layer(layer, figures.layers[0].site)
    of = figures.span(layer)
    varies = figures.std[of] > 0
    squares, counted = np.zeros(stop - start), np.zeros(stop - start)
    for rows in run.blocks(one, tokens=(start, stop), routed=True):
        token_idx = np.arange(rows.tokens.start, rows.tokens.stop) if rows.routed is None else rows.routed
        here = (token_idx >= start) & (token_idx < stop)
        z = figures.z(rows.values[:, here], of.start + rows.neuron.astype(np.int64))[varies[rows.neuron]]
        squares[token_idx[here] - start] += np.square(z).sum(axis=0)
        counted[token_idx[here] - start] += len(z)
    means: NDArray[np.float64] = np.divide(squares, counted, out=np.full(stop - start, np.nan), where=counted > 0)
    return np.asarray(np.sqrt(means), np.float64)


def _examples_at(run: RunTables, figures: SiteFigures, token_idx: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The neurons that have the token among their stored examples, and their values there: [neurons] each."""
    if not 0 <= token_idx < run.tokens:
        raise RequestError(f"no token {token_idx} in this run: it holds tokens 0-{run.tokens - 1}")
    asked = {"token": token_idx, "low": figures.layers[0].layer_id, "high": figures.layers[-1].layer_id}
    table = run.cursor().execute(READ_EXAMPLES, asked).fetchnumpy()
    starts = {layer.layer_id: int(start) for layer, start in zip(figures.layers, figures.starts, strict=False)}
    begins = np.array([starts[int(i)] for i in table["layer_id"]], np.int64)
    return begins + np.asarray(table["neuron"], np.int64), np.asarray(table["value"], np.float32)
