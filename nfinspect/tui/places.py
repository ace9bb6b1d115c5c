"""Where one can go: a pane by name, with its arguments. The router makes it, so that no pane knows another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """A pane by the name that the router knows, and its arguments."""

    pane: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def place(pane: str, *arguments: Any, **options: Any) -> Place:
    """A place, with the arguments of its pane."""
    return Place(pane, arguments, options)
