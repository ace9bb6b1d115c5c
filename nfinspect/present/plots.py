"""What an analysis is drawn as, as data: the app draws it in characters, a report with matplotlib.

The geometry is worked out here once, so that both show the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Nothing:
    """There is nothing to draw. why: one line."""

    why: str


@dataclass(frozen=True)
class Curve:
    """A line through values at 0, 1, 2, …, which lie between low and high."""

    title: str
    values: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True)
class LayerBars:
    """A bar for each layer, stacked of parts. parts: values of each layer, by the name of the part, >= 0 where there
    are several. whole: they are counts or percentages. key: in front of the parts' names.
    """

    title: str
    layers: tuple[int, ...]
    parts: Mapping[str, Values]
    whole: bool = False
    key: str = ""


@dataclass(frozen=True)
class Histogram:
    """How often values are how large. empty: said where none is defined."""

    title: str
    values: Values
    empty: str


@dataclass(frozen=True)
class Matrix:
    """Weights of rows to columns, both of the labels: float64[labels, labels], NaN where there is none."""

    title: str
    weights: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Points of one kind. sign: a letter for it; kind: its place among the kinds; filled: as points of it are drawn."""

    name: str
    sign: str
    kind: int
    filled: bool
    across: tuple[float, ...]
    up: tuple[float, ...]


@dataclass(frozen=True)
class LayerPoints:
    """A point for each listed neuron. across: layers, from 0 in their order, and within a layer farther to the right
    the higher the neuron's number; up: from 0 on. here: the point that is marked. key: what the signs mean.
    """

    title: str
    layers: tuple[int, ...]
    series: tuple[Series, ...]
    key: str
    here: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bar:
    """A bar across, in the direction of its sign. note: what stands behind its figure."""

    label: str
    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Groups of bars on one scale. here: the group that is shown in any case."""

    title: str
    groups: tuple[tuple[Bar, ...], ...]
    here: int = 0


@dataclass(frozen=True)
class TwoSided:
    """Pairs of bars on one scale, one at the left and one at the right, None where it has no other. here: the first
    pair that is shown.
    """

    title: str
    pairs: tuple[tuple[Bar | None, Bar | None], ...]
    here: int = 0


@dataclass(frozen=True)
class Grid:
    """Things against things. names: with how many there are of each; cells: how much and how many two of them share,
    the share 0 to 1, by their names in either order.
    """

    title: str
    names: Mapping[str, int]
    cells: Mapping[tuple[str, str], tuple[float, int]]


@dataclass(frozen=True)
class Shading:
    """Shares of 0 to 1: in every row, the first above, as many as there are columns. here: the row that is marked."""

    title: str
    rows: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    here: int | None = None


Plot = Nothing | Curve | LayerBars | LayerPoints | Histogram | Matrix | Bars | TwoSided | Grid | Shading


def across(layer: int, neuron: int, sizes: Mapping[int, int]) -> float:
    """Where a neuron stands over its layer. sizes: neurons of each layer, in the order of the axis."""
    return list(sizes).index(layer) + 0.8 * ((neuron + 0.5) / sizes[layer] - 0.5)


def sizes_of(layers: Sequence[object]) -> dict[int, int]:
    """Neurons by layer, of rows that have `layer` and `neurons`."""
    return {layer.layer: layer.neurons for layer in layers}  # type: ignore[attr-defined]
