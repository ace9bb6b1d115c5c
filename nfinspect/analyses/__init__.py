"""The analyses, one file each. A module here that is no part of the machinery has a SPEC and is an analysis."""

import pkgutil
from functools import cache
from importlib import import_module

from nfinspect.analyses.spec import AnalysisSpec

MACHINERY = frozenset({"kind_overlap", "kinds", "spec"})


@cache
def names() -> tuple[str, ...]:
    """The names of the analyses, in alphabetical order. Imports none of them."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name not in MACHINERY)


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


def specs() -> tuple[AnalysisSpec, ...]:
    """All of them."""
    return tuple(map(spec, names()))
