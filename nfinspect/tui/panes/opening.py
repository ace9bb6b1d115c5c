"""What panes that compare runs share: opening them in a worker, the sites that all have, their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.binding import Binding

from nfinspect.tui.panes.base import one_line

if TYPE_CHECKING:
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.session import Session

Opened = tuple[dict[str, "Session"], dict[str, str]]
"""The sessions of runs, and why the others cannot be opened."""


def open_runs(engine: Engine, names: Sequence[str]) -> Opened:
    """In a worker."""
    opened, problems = {}, {}
    for name in names:
        try:
            opened[name] = engine.open(name)
        except Exception as error:  # a damaged run is a line, and costs the others nothing
            problems[name] = one_line(error)
    return opened, problems


def take_over(hub: Hub, answer: Opened) -> str:
    """Keep what was opened; returns why another run cannot be, in a line, empty if all are there."""
    opened, problems = answer
    for session in opened.values():
        hub.opened(session, show=False)
    return next((f"{name} cannot be opened: {why}" for name, why in problems.items()), "")


def sites_in_common(hub: Hub, runs: Sequence[str]) -> list[str]:
    """The sites that all of the runs have, of those that are open, in the order of the first."""
    sessions = [hub.sessions[name] for name in runs if name in hub.sessions]
    return [site for site in sessions[0].sites if all(site in s.sites for s in sessions)] if sessions else []


def comparing_keys(group: str) -> tuple[Binding, ...]:
    """The keys of a comparison beside those of its table. Their ids are `group.site` and so on."""
    return (
        Binding("S", "site", "Site", show=False, id=f"{group}.site"),
        Binding("y", "copy", "Copy the table", show=False, id=f"{group}.copy"),
        Binding("e", "export", "Export", show=False, id=f"{group}.export"),
    )
