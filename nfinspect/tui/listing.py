"""The rows of an analysis, which are in memory: what is in them, and how they are filtered and sorted.

    filter = all { "or" all };  all = term { "and" term };  term = column op value | L5 | N32 | L5/N32 | @set | text
    op = "=" | "!=" | "<" | "<=" | ">" | ">="

It is written like the filter of neuron lists. A text alone is searched for in what the rows show.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.filters import AND, OR, place_of
from nfinspect_store.errors import RequestError

Value = Callable[[Any, str], Any]
"""A row and the key of a column -> the value: a number, a word, yes or no, or None where undefined."""

Test = Callable[[Any], bool]

_TERM = re.compile(r"(?P<column>[^=!<>]+?)\s*(?P<operator><=|>=|!=|<|>|=)\s*(?P<value>.*)", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TRUTH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@runtime_checkable
class Columnar(Protocol):
    """Rows that are held as columns, and become objects when they are asked for."""

    def column(self, name: str) -> NDArray[Any] | None:
        """A column, NaN where undefined; None if it is not held as one."""

    def take(self, chosen: NDArray[np.int64]) -> Sequence[Any]:
        """Some of the rows, in this order."""


def ordered(rows: Sequence[Any], key: str, descending: bool, value: Value) -> Sequence[Any]:
    """The rows by one column, equal ones in the order they had; undefined values last in either direction."""
    if not key:
        return rows
    # by layer is by neuron, too
    if key != "layer" and isinstance(rows, Columnar) and (column := rows.column(key)) is not None:
        numbers = np.where(np.isfinite(column), column, np.nan).astype(np.float64)
        return rows.take(np.argsort(-numbers if descending else numbers, kind="stable"))
    values = [(value(row, key), row) for row in rows]
    known = [pair for pair in values if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=descending)
    return (*(row for _, row in known), *(row for found, row in values if found is None))


ASCENDING = ("layer", "rank", "k", "p", "p_value", "name", "type", "strength", "a", "b")
"""Columns that are sorted from the smallest on."""


@dataclass(frozen=True)
class Arranged:
    """The rows that pass the filter, in order; total: how many there are without it; sample: the first of these."""

    rows: Sequence[Any]
    total: int
    sample: Any


@dataclass(frozen=True)
class Listing:
    """What the rows of an analysis are. Workers call its functions, which therefore hold no pane.

    rows: every row of an analysis, in its own order. value: of a row in a column. text: what a filter that is no
    comparison is searched for in, empty if there is nothing. place: what rows are sorted by under the key `layer`.
    ascending: whether a column is sorted from the smallest on. named: what a filter may name besides the table's
    columns. order: the column that rows are sorted by at first, and whether the largest comes first. empty: what is
    said if there is no row.
    """

    rows: Callable[[Any], Sequence[Any]]
    value: Value = getattr
    text: Callable[[Any], str] = lambda row: ""
    place: Callable[[Any], Any] = lambda row: (row.layer, row.neuron)
    ascending: Callable[[str], bool] = lambda key: key in ASCENDING
    named: tuple[str, ...] = ("layer", "neuron")
    order: tuple[str, bool] = ("", False)
    empty: str = "no neuron passed"

    def arranged(self, order: tuple[str, bool], test: Test | None, analysis: Any) -> Arranged:
        """Called in a worker: a large model's lists take longer than a repaint may."""
        rows = self.rows(analysis)
        passing = rows if test is None else [row for row in rows if test(row)]
        return Arranged(ordered(passing, *order, self._sort_value), len(rows), rows[0] if rows else None)

    def _sort_value(self, row: Any, key: str) -> Any:
        return self.place(row) if key == "layer" else self.value(row, key)


@dataclass(frozen=True)
class Filtered:
    """What a filter's text refers to. columns: each column's key by the names it may be given, key and title, in lower
    case; members: the layers and neurons of a set `@name`, raises RequestError for one that is not there.
    """

    columns: Mapping[str, str]
    value: Value
    text: Callable[[Any], str]
    sample: Any
    members: Callable[[str], Collection[tuple[int, int]]]

    def test(self, text: str) -> Test:
        """Whether a row passes the filter `text`. Raises RequestError that names the columns there are."""
        either = [[self._term(term.strip()) for term in AND.split(part.strip())] for part in OR.split(text.strip())]
        return lambda row: any(all(test(row) for test in tests) for tests in either)

    def _term(self, term: str) -> Test:
        match = _TERM.fullmatch(term)
        if match is not None:
            return self._comparison(match["column"].strip(), match["operator"], match["value"].strip().strip("'\""))
        if term.startswith("@") and {"layer", "neuron"} <= self.columns.keys():
            held = self.members(term)
            return lambda row: (self.value(row, "layer"), self.value(row, "neuron")) in held
        if (place := place_of(term)) and "layer" in self.columns and place.keys() <= self.columns.keys():
            return lambda row: all(bool(self.value(row, name) == at) for name, at in place.items())
        if self.sample is not None and not self.text(self.sample):
            raise RequestError(f"cannot read the filter {term!r}: write {self._expected()}")
        return lambda row: term.casefold() in self.text(row).casefold()

    def _expected(self) -> str:
        columns = ", ".join(self._keys)
        named = "a set such as @marked, or a place such as L3 or L3/N4"
        return f"column, operator (= != < <= > >=) and value, {named}; columns: {columns}"

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.columns.values()))

    def _key(self, name: str) -> str | None:
        """A column by its name, or by the beginning of it if no other begins so."""
        begin = {key for known, key in self.columns.items() if known.startswith(name)}
        return self.columns.get(name) or (begin.pop() if len(begin) == 1 else None)

    def _comparison(self, name: str, sign: str, wanted: str) -> Test:
        key = self._key(name.lower())
        if key is None:
            raise RequestError(f"no column {name!r}: choose {', '.join(self._keys)}")
        compare = _OPERATORS[sign]
        found = self.value(self.sample, key) if self.sample is not None else None
        if isinstance(found, str | bool) and sign not in ("=", "!="):
            raise RequestError(f"{key} can be compared with = and !=, not with {sign}")
        if isinstance(found, bool):
            if wanted.lower() not in _TRUTH:
                raise RequestError(f"{key} is yes or no, found {wanted!r}")
            return lambda row: compare(self.value(row, key), _TRUTH[wanted.lower()])
        if isinstance(found, str):
            return lambda row: compare(str(self.value(row, key)).casefold(), wanted.casefold())
        try:
            bound = float(wanted)
        except ValueError:
            raise RequestError(f"{key} is compared with a number, found {wanted!r}") from None
        return lambda row: (held := self.value(row, key)) is not None and compare(held, bound)
