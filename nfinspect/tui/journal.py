"""The log of a session of the app: for each screen the command that answers the same, and the SQL that read it."""

from __future__ import annotations

import os
import shlex
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from nfinspect_store.statements import Statement

KEPT = 5000
"""Entries; the oldest go first."""

Kind = Literal["shown", "ran", "sql"]


@dataclass(frozen=True)
class Entry:
    """One line of the log. at: seconds since the epoch; place: the pane, as its breadcrumb names it.

    kind: shown: the command that answers what the screen shows; ran: a command that the app has run; sql: a statement
    that it has asked. text: the line, as it is copied. again: the line that repeats it; empty where there is none: for
    parameters that do not fit into a statement, and for control characters.
    """

    at: float
    place: str
    kind: Kind
    text: str
    again: str


class Journal:
    """What the app has done, newest last. For the app's own thread."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._count = 0
        self._shown = ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def count(self) -> int:
        """How many there have been, forgotten ones too."""
        return self._count

    def shown(self, place: str, arguments: Sequence[str]) -> None:
        """A screen shows what a command answers. The same one twice in a row is noted once."""
        if (line := self._line(arguments)) != self._shown:
            self._shown = line
            self._add(place, "shown", line, line)

    def ran(self, place: str, arguments: Sequence[str]) -> None:
        """A command that the app runs; that its place then shows what it answers is not noted again."""
        line = self._shown = self._line(arguments)
        self._add(place, "ran", line, line)

    def asked(self, place: str, run: str, statements: Iterable[Statement]) -> None:
        for one in statements:
            again = self._line(("sql", run, one.sql)) if one.whole else ""
            self._add(place, "sql", one.sql, again)

    def _add(self, place: str, kind: Kind, text: str, again: str) -> None:
        again = again if again.isprintable() else ""
        self._entries.append(Entry(time.time(), place, kind, text, again))
        self._count += 1

    def _line(self, arguments: Sequence[str]) -> str:
        return command_line(with_store(arguments, self._store))


def command_line(arguments: Sequence[str]) -> str:
    """What a shell would be told."""
    return shlex.join(["nfinspect", *arguments])


def with_store(arguments: Sequence[str], store: Path) -> tuple[str, ...]:
    """A command as it is repeated anywhere: options stand before a `--`."""
    if len(without_store(arguments)) < len(arguments):
        return tuple(arguments)
    place = _options_end(arguments)
    return (*arguments[:place], "--store", os.path.abspath(store), *arguments[place:])


def without_store(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command as it is shown next to its store's own runs."""
    end = _options_end(arguments)
    kept: list[str] = []
    place = 0
    while place < end:
        if arguments[place] == "--store":
            place += 2
            continue
        if not arguments[place].startswith("--store="):
            kept.append(arguments[place])
        place += 1
    return (*kept, *arguments[max(end, place) :])


def _options_end(arguments: Sequence[str]) -> int:
    return list(arguments).index("--") if "--" in arguments else len(arguments)


def log_lines(entries: Iterable[Entry]) -> list[str]:
    """The log as a file that `nfinspect replay` repeats, and a shell too: what cannot be repeated is a comment."""
    lines = ["#!/bin/sh", "# Commands and SQL of a session of the app. nfinspect replay THIS repeats them."]
    for entry in entries:
        said = {"shown": "shows", "ran": "ran", "sql": "asked"}[entry.kind]
        lines.append(f"# {time.strftime('%H:%M:%S', time.localtime(entry.at))} {printable(entry.place)} {said}")
        lines.append(entry.again or f"# {printable(entry.text)}")
    return lines


def printable(text: str) -> str:
    """A text of a model or a file in a comment: one line, nothing that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)
