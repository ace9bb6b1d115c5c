"""Where one can go: a pane by name, and what it is of. The router makes it, so that no pane knows another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """A pane that the router knows by its name, and what it is made from."""

    pane: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def place(pane: str, *arguments: Any, **options: Any) -> Place:
    """A place, written as its pane would be made."""
    return Place(pane, arguments, options)
