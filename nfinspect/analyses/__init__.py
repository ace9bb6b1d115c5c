"""The analyses, one file each. A module here that is no part of the machinery has a SPEC and is an analysis."""

import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module

from nfinspect.analyses.spec import AnalysisSpec

MACHINERY = frozenset({"kind_overlap", "kinds", "spec"})


ORDER = ("ngrams", "positions", "delta", "attention")
"""Those that stand first wherever all are listed; the others follow by their names."""


@cache
def names() -> tuple[str, ...]:
    """The names of the analyses, in the order in which they are listed. Imports none of them."""
    there = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in MACHINERY]
    return tuple(dict.fromkeys([*ORDER, *there]))


@cache
def spec(name: str) -> AnalysisSpec:
    """An analysis by its name, which may be a stranger's. Raises KeyError."""
    if name not in names():
        raise KeyError(name)
    found: AnalysisSpec = import_module(f"{__name__}.{name}").SPEC
    return found


def formats() -> dict[str, int]:
    """The format of the kept results of each."""
    return {one.name: one.format for one in specs()}


def specs(first: Sequence[str] = ()) -> tuple[AnalysisSpec, ...]:
    """All of them: those that are named first, in this order, and then the others."""
    return tuple(map(spec, dict.fromkeys([*first, *names()])))
