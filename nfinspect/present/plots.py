"""The drawings of analyses, as data: the app draws them in characters, a report with matplotlib.

The geometry is computed here once, so that both show the same.
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
    """A bar for each layer, stacked from parts. parts: values of each layer, by the name of the part, >= 0 if there are
    several. whole: they are counts or percentages. key: in front of the parts' names.
    """

    title: str
    layers: tuple[int, ...]
    parts: Mapping[str, Values]
    whole: bool = False
    key: str = ""


@dataclass(frozen=True)
class Histogram:
    """A histogram of the finite values. empty: what is said if there is none."""

    title: str
    values: NDArray[np.float64]
    empty: str


@dataclass(frozen=True)
class Matrix:
    """Weights from rows to columns, each of which has a label: float64[labels, labels], NaN where there is none."""

    title: str
    weights: NDArray[np.float64]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Points of one kind. sign: its letter; kind: its number among the kinds; filled: whether its markers are."""

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
    """A horizontal bar, in the direction of its sign. note: the text after its figure."""

    label: str
    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Groups of bars on one scale. here: the group that is always shown."""

    title: str
    groups: tuple[tuple[Bar, ...], ...]
    here: int = 0


@dataclass(frozen=True)
class TwoSided:
    """Pairs of bars on one scale, one on the left and one on the right, None where one is missing. here: the first pair
    that is shown.
    """

    title: str
    pairs: tuple[tuple[Bar | None, Bar | None], ...]
    here: int = 0


@dataclass(frozen=True)
class Grid:
    """Sets against sets. names: each set's size; cells: how much two sets share, 0 to 1, and how many members, by their
    names in either order.
    """

    title: str
    names: Mapping[str, int]
    cells: Mapping[tuple[str, str], tuple[float, int]]


@dataclass(frozen=True)
class Shading:
    """Shares from 0 to 1, [rows, columns], the first row at the top. here: the row that is marked."""

    title: str
    rows: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    here: int | None = None


Plot = Nothing | Curve | LayerBars | LayerPoints | Histogram | Matrix | Bars | TwoSided | Grid | Shading


def across(layer: int, neuron: int, sizes: Mapping[int, int]) -> float:
    """A neuron's place on the axis of layers. sizes: neurons of each layer, in the order of the axis."""
    return list(sizes).index(layer) + 0.8 * ((neuron + 0.5) / sizes[layer] - 0.5)


def sizes_of(layers: Sequence[object]) -> dict[int, int]:
    """Neurons by layer, of rows that have `layer` and `neurons`."""
    return {layer.layer: layer.neurons for layer in layers}  # type: ignore[attr-defined]
