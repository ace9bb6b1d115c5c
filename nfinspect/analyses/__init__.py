"""The analyses, one file each. A module here that is no part of the machinery has a SPEC and is an analysis."""

import ast
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not at run time: commands that are no analysis start without it
    from nfinspect.analyses.analysis_spec import AnalysisSpec

MACHINERY = frozenset({"fields", "kind_overlap", "neuron_kinds", "analysis_spec"})

ORDER = ("ngrams", "positions", "delta", "attention", "sinks", "ablate", "kinds", "lens", "logits", "similar")
"""Those that come first wherever all are listed; the others follow by name."""

COMMANDS = {"kinds": "overlap", "lens": "logits"}
"""The commands of those that are options of another command."""


@cache
def names() -> tuple[str, ...]:
    """The names of the analyses, in the order in which they are listed. Imports none of them."""
    there = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in MACHINERY]
    return tuple(dict.fromkeys([*ORDER, *there]))


def does(name: str) -> str:
    """`does` in the SPEC of an analysis, read from its source: importing all of them takes half a second."""
    found = find_spec(f"{__name__}.{name}")
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return spec(name).does
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    said = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "does")
    return next((str(value.value) for value in said if isinstance(value, ast.Constant)), "") or spec(name).does


@cache
def spec(name: str) -> "AnalysisSpec":
    """The spec of an analysis. Raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(name)
    found: AnalysisSpec = import_module(f"{__name__}.{name}").SPEC
    return found


def command_of(name: str) -> str:
    """The command that computes an analysis."""
    return COMMANDS.get(name, name)


def formats() -> dict[str, int]:
    """The format of each analysis' saved results, by their kind."""
    return {one.result_kind: one.format for one in specs() if one.result_kind}


def specs(first: Sequence[str] = ()) -> "tuple[AnalysisSpec, ...]":
    """The specs of all analyses: those in `first`, in this order, then the others."""
    return tuple(map(spec, dict.fromkeys([*first, *names()])))
