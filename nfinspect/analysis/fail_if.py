"""Conditions on a comparison of two runs, for pipelines: `died>10 or health<-0.05`.

    expression = all { "or" all };  all = term { "and" term };  term = name op number
    op = "<" | "<=" | ">" | ">=" | "=" | "!="

Names are looked up in a fixed list and numbers are parsed: no text of the user is ever run.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nfinspect_store.errors import RequestError

_TERM = re.compile(r"(?P<name>\w+)\s*(?P<sign><=|>=|!=|<|>|=)\s*(?P<bound>\S+)")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Expression:
    """Terms that are joined by `and`, such groups joined by `or`; each term is (name, sign, number)."""

    any_of: tuple[tuple[tuple[str, str, float], ...], ...]

    def holds(self, figures: Mapping[str, float]) -> bool:
        return any(all(_SIGNS[sign](figures[name], bound) for name, sign, bound in terms) for terms in self.any_of)


def parse_expression(text: str, names: Sequence[str]) -> Expression:
    """Raises RequestError that says what an expression is, and which names there are."""
    groups = re.split(r"\s+or\s+", text.strip(), flags=re.IGNORECASE)
    return Expression(tuple(tuple(_term(term, names) for term in _split_and(group)) for group in groups))


def _split_and(group: str) -> list[str]:
    return re.split(r"\s+and\s+", group.strip(), flags=re.IGNORECASE)


def _term(text: str, names: Sequence[str]) -> tuple[str, str, float]:
    match = _TERM.fullmatch(text.strip())
    try:
        bound = float(match["bound"]) if match is not None else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise RequestError(
            f"cannot read {text.strip()[:80]!r}: write a name, < <= > >= = or != and a number, joined by and, or, as "
            "in died>10 or health<-0.05"
        )
    if match["name"] not in names:
        raise RequestError(f"no figure {match['name']!r}: choose {', '.join(names)}")
    return match["name"], match["sign"], bound
