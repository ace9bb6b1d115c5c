"""What a pane shows as a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Export:
    """A file to write. name: the one that is offered; write: called in a worker with the chosen name, returns the line
    to show.
    """

    name: str
    write: Callable[[str], str]


class Document(Protocol):
    """A result with a JSON form."""

    def to_json(self) -> dict[str, object]: ...


def json_export(name: str, document: Document | None, rows: str = "") -> Export | None:
    """A result as JSON; None while there is none. rows: which of its rows these are, said once it is written."""
    if document is None:
        return None

    def write(chosen: str) -> str:
        from nfinspect.tui.output import write_json

        return write_json(chosen, document.to_json()) + (rows and f": {rows}")

    return Export(name, write)
