"""Opening the runs that a pane compares, in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nfinspect.tui.panes.base import one_line

if TYPE_CHECKING:
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.session import Session


def open_runs(engine: Engine, names: Sequence[str]) -> tuple[dict[str, Session], dict[str, str]]:
    """The sessions of runs, and why the others cannot be opened."""
    opened, problems = {}, {}
    for name in names:
        try:
            opened[name] = engine.open(name)
        except Exception as error:  # a damaged run is a line, and costs the others nothing
            problems[name] = one_line(error)
    return opened, problems
