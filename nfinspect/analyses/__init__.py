"""The analyses, one file each. A module here that is no part of the machinery has a SPEC and is an analysis."""

import ast
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is no analysis starts without it
    from nfinspect.analyses.analysis_spec import AnalysisSpec

MACHINERY = frozenset({"fields", "kind_overlap", "neuron_kinds", "analysis_spec"})

ORDER = ("ngrams", "positions", "delta", "attention", "sinks", "ablate", "kinds", "lens", "logits")
"""Those that stand first wherever all are listed; the others follow by their names."""

COMMANDS = {"kinds": "overlap", "lens": "logits"}
"""Those that are a part of a command of another name."""


@cache
def names() -> tuple[str, ...]:
    """The names of the analyses, in the order in which they are listed. Imports none of them."""
    there = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in MACHINERY]
    return tuple(dict.fromkeys([*ORDER, *there]))


def does(name: str) -> str:
    """What `does` in the SPEC of an analysis says, read from its source: to import all of them takes half a second."""
    found = find_spec(f"{__name__}.{name}")
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return spec(name).does
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    said = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "does")
    return next((str(value.value) for value in said if isinstance(value, ast.Constant)), "") or spec(name).does


@cache
def spec(name: str) -> "AnalysisSpec":
    """An analysis by its name, which may be a stranger's. Raises KeyError."""
    if name not in names():
        raise KeyError(name)
    found: AnalysisSpec = import_module(f"{__name__}.{name}").SPEC
    return found


def command_of(name: str) -> str:
    """The command that makes an analysis."""
    return COMMANDS.get(name, name)


def formats() -> dict[str, int]:
    """The format of the kept results of each, by their kind."""
    return {one.result_kind: one.format for one in specs() if one.result_kind}


def specs(first: Sequence[str] = ()) -> "tuple[AnalysisSpec, ...]":
    """All of them: those that are named first, in this order, and then the others."""
    return tuple(map(spec, dict.fromkeys([*first, *names()])))
