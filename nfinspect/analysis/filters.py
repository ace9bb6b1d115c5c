"""The filter of neuron lists: `max>4`, `class=dead`, `firing_rate<0.01 and max>3`, `sporadic`.

    filter = all { "or" all };  all = term { "and" term };  term = column op value | class | L2 | N32 | L2/N32 | @set
    op = "=" | "!=" | "<" | "<=" | ">" | ">="

Columns are looked up in a fixed list and values are bound, so that no text of the user becomes SQL.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.schema import quoted
from nfinspect_store.types import ABSENT, CLASSES

NUMBERS = (
    "layer",
    "neuron",
    "n",
    "mean",
    "std",
    "min",
    "max",
    "mean_abs",
    "firing_rate",
    "dormancy",
    "skewness",
    "excess_kurtosis",
    "rate_upper95",
)
WORDS = ("site", "class")
FLAGS = ("near_dead", "approximate")
COLUMNS = (
    "site",
    "layer",
    "neuron",
    "n",
    "mean",
    "std",
    "min",
    "max",
    "mean_abs",
    "firing_rate",
    "class",
    "dormancy",
    "skewness",
    "excess_kurtosis",
    "near_dead",
    "rate_upper95",
    "approximate",
)
"""The columns of the table `neurons`, in its order."""

HEADERS = {
    "fires": "firing_rate",
    "firing": "firing_rate",
    "skew": "skewness",
    "kurtosis": "excess_kurtosis",
    "tokens": "n",
    "mean|a|": "mean_abs",
    "rate95": "rate_upper95",
}
"""Shorter names that lists show as column headers, and the columns they stand for."""

_TERM = re.compile(r"(?P<column>[\w|]+)\s*(?P<operator><=|>=|!=|<|>|=)\s*(?P<value>.*)", re.DOTALL)
_PLACE = re.compile(r"(?:L(?P<layer>\d{1,9}))?/?(?:N(?P<neuron>\d{1,9}))?", re.IGNORECASE)
AND = re.compile(r"\s+and\s+", re.IGNORECASE)
OR = re.compile(r"\s+or\s+", re.IGNORECASE)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Condition:
    """SQL to put after WHERE, with `?` for each of its values."""

    sql: str
    values: tuple[object, ...]

    def both(self, other: "Condition") -> "Condition":
        return Condition(f"{self.sql} AND {other.sql}", (*self.values, *other.values))

    def either(self, other: "Condition") -> "Condition":
        return Condition(f"({self.sql} OR {other.sql})", (*self.values, *other.values))


def no_sets(name: str) -> Sequence[Address]:
    """Where neurons are not those of a run in a store."""
    raise RequestError(f"{name} is a set of a store, and this run is in none")


def parse_filter(text: str, set_of: Callable[[str], Sequence[Address]] = no_sets) -> Condition:
    """Read a filter. set_of: the neurons of a set `@name`, each with its site. Raises RequestError that names the
    columns, operators, classes or sets there are.
    """

    def condition(term: str) -> Condition:
        return _member(set_of(term)) if term.startswith("@") else _term(term)

    every = [
        reduce(Condition.both, (condition(term.strip()) for term in AND.split(part.strip())))
        for part in OR.split(text.strip())
    ]
    return reduce(Condition.either, every)


def narrowed(text: str, condition: str) -> str:
    """The filter that passes what passes `text` and the condition, too: into each of the parts that `or` joins."""
    return " or ".join(f"{part} and {condition}" for part in OR.split(text.strip())) if text.strip() else condition


def place_of(term: str) -> dict[str, int]:
    """The `layer` and the `neuron` that `L2`, `N32` or `L2/N32` names; empty if the term is no such place."""
    match = _PLACE.fullmatch(term)
    named = {name: int(at) for name, at in match.groupdict().items() if at is not None} if match is not None else {}
    return named if ("/" in term) == (len(named) == 2) else {}


def check_column(name: str) -> str:
    """The column called `name`, in any case or by its header. Raises RequestError naming the columns there are."""
    column = HEADERS.get(name.lower(), name.lower())
    if column not in COLUMNS:
        raise RequestError(f"no column {name!r}: choose {', '.join(COLUMNS)}")
    return column


def check_class(name: str) -> str:
    """The class called `name`, in any case, or 'absent'. Raises RequestError naming the classes there are."""
    if name.lower() not in (*CLASSES, ABSENT):
        raise RequestError(f"no class {name!r}: choose {', '.join((*CLASSES, ABSENT))}")
    return name.lower()


def _member(addresses: Sequence[Address]) -> Condition:
    """Whether a neuron is one of these."""
    columns = ([a.site for a in addresses], [a.layer for a in addresses], [a.neuron for a in addresses])
    listed = "SELECT unnest(?::VARCHAR[]), unnest(?::INTEGER[]), unnest(?::INTEGER[])"
    return Condition(f'("site", "layer"::INTEGER, "neuron"::INTEGER) IN ({listed})', columns)


def _term(term: str) -> Condition:
    match = _TERM.fullmatch(term)
    if match is None:
        if place := place_of(term):
            return Condition(" AND ".join(f"{quoted(name)} = ?" for name in place), tuple(place.values()))
        if re.fullmatch(r"\w+", term) and term.lower() not in COLUMNS:
            return Condition('"class" = ?', (check_class(term),))
        raise RequestError(
            f"cannot read the filter {term!r}: write column, operator (= != < <= > >=) and value, "
            "as in max>4 and class=dead, a class, a set such as @marked, or a place such as L2, N32 or L2/N32; terms "
            "are joined by and, or"
        )
    column, operator = check_column(match["column"]), match["operator"]
    value = match["value"].strip().strip("'\"")
    return Condition(f"{quoted(column)} {operator} ?", (_value(column, operator, value),))


def _value(column: str, operator: str, text: str) -> object:
    if column in NUMBERS:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise RequestError(f"{column} is compared with a number, found {text!r}")
        return value
    if operator not in ("=", "!="):
        raise RequestError(f"{column} can be compared with = and !=, not with {operator}")
    if column in FLAGS:
        if text.lower() not in _TRUTH:
            raise RequestError(f"{column} is true or false, found {text!r}")
        return _TRUTH[text.lower()]
    return check_class(text) if column == "class" else text
