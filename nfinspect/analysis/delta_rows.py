"""The neurons of `delta` as columns: a run has tens of thousands, of which people look at a few."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.statistics import Floats


@dataclass(frozen=True)
class DeltaRow:
    """One neuron. A measure is None where it is undefined: the neuron never varied, or there is no pair.

    substitution_sensitivity: mean |Δa| / std at each lag of Delta.substitution; None if that was not asked for.
    """

    site: str
    layer: int
    neuron: int
    step_sensitivity: float | None
    von_neumann_ratio: float | None
    delta_sensitive: bool
    substitution_sensitivity: tuple[float | None, ...] | None = None

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"

    def to_json(self) -> dict[str, object]:
        """As in `--json`."""
        return {name: value for name, value in vars(self).items() if value is not None or name != NAMES[-1]}


NAMES = tuple(field.name for field in fields(DeltaRow))


@dataclass(frozen=True, eq=False)
class DeltaRows(Sequence[DeltaRow]):
    """Neurons of one site, [neurons] in every array; a DeltaRow is made when it is asked for. NaN: undefined."""

    site: str
    layer: NDArray[np.int64]
    neuron: NDArray[np.int64]
    step_sensitivity: Floats
    von_neumann_ratio: Floats
    delta_sensitive: NDArray[np.bool_]
    substitution_sensitivity: Floats | None = None  # [neurons, lags]

    @classmethod
    def from_json(cls, site: str, rows: Sequence[Mapping[str, Any]]) -> Self:
        """From those of `to_json`, without the sensitivity to substitutions."""
        kinds = (np.int64, np.int64, np.float64, np.float64, np.bool_)
        columns = ([row[name] for row in rows] for name in NAMES[1:-1])
        return cls(site, *(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))

    def to_json(self) -> list[dict[str, object]]:
        """A dictionary for each, with the names of DeltaRow."""
        names = NAMES[:-1] if self.substitution_sensitivity is None else NAMES
        return [dict(zip(names, row, strict=False)) for row in self._values()]

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Self:
        """Some of them, or all in another order."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in NAMES[1:]}
        held = {name: column[chosen] for name, column in columns.items() if column is not None}
        return replace(self, **held)

    def column(self, name: str) -> NDArray[Any] | None:
        """A column of DeltaRow as numbers, NaN where undefined; None if it is none."""
        return getattr(self, name, None) if name in NAMES[1:-1] else None

    def in_order(self, sort: str) -> Self:
        """The largest first by one of the measures, undefined ones last (ties: layer, neuron)."""
        measure = getattr(self, sort)
        return self.take(np.lexsort((self.neuron, self.layer, np.where(np.isfinite(measure), -measure, np.inf))))

    def _values(self) -> Iterator[tuple[Any, ...]]:
        lags = self.substitution_sensitivity
        return zip(
            repeat(self.site, len(self)),
            self.layer.tolist(),
            self.neuron.tolist(),
            _defined(self.step_sensitivity),
            _defined(self.von_neumann_ratio),
            self.delta_sensitive.tolist(),
            repeat(None, len(self)) if lags is None else (tuple(_defined(row)) for row in lags),
            strict=True,
        )

    def __len__(self) -> int:
        return len(self.layer)

    def __iter__(self) -> Iterator[DeltaRow]:
        return (DeltaRow(*row) for row in self._values())

    @overload
    def __getitem__(self, place: int) -> DeltaRow: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | slice) -> "DeltaRow | Self":
        if isinstance(place, slice):
            return self.take(place)
        return next(iter(self.take(np.array([range(len(self))[place]]))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def _defined(values: Floats) -> list[float | None]:
    """None where a value is not finite."""
    found: list[float | None] = values.tolist()
    for place in np.flatnonzero(~np.isfinite(values)).tolist():
        found[place] = None
    return found
