"""What the app has done: for each screen the command that answers the same, and the SQL that it was read by."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.journal import Entry, log_lines
from nfinspect.tui.panes.base import LOG, Pane
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = {"shown": "shows", "ran": "ran", "sql": "SQL"}
TONES = {"shown": "accent", "ran": "good", "sql": "dim"}


class LogPane(Pane):
    """The newest entry last; below the table the one under the cursor, whole."""

    help_text = (
        "shows: the command that answers what a screen showed. SQL: what the screen was read by, its parameters "
        "filled in. ran: a command that the app ran. y copies one, e writes all that are listed into a file that "
        "nfinspect replay repeats without a terminal. c lists commands only."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "kinds", "Commands or all", id="log.kinds"),
        Binding("y", "copy", "Copy", id="log.copy"),
        Binding("e", "export", "Export", id="log.export"),
    ]

    DEFAULT_CSS = """
    LogPane #whole { height: 7; }
    LogPane.-shorter #whole { height: 4; }
    """

    _commands_only = False
    _seen = -1

    def __init__(self) -> None:
        super().__init__(LOG)

    def compose(self) -> ComposeResult:
        columns = [
            Column("time", 8, lambda r, w: Cell(time.strftime("%H:%M:%S", time.localtime(r.at)), "dim")),
            Column("place", 18, lambda r, w: Cell(r.place)),
            Column("", 5, lambda r, w: Cell(WORDS[r.kind], TONES[r.kind])),
            Column("what", 30, lambda r, w: Cell(r.text.removeprefix("nfinspect "), "" if r.kind == "sql" else "bold"),
                   flex=True),
        ]  # fmt: skip
        table = PagedTable(columns, glyphs=self.glyphs, empty="nothing has been done yet", id="entries")
        table.add_class("panel")
        yield table
        panel = TextPanel(id="whole")
        panel.add_class("ruled-top")
        yield panel

    @property
    def hint(self) -> str:
        return "commands only" if self._commands_only else ""

    @property
    def _listed(self) -> Sequence[Entry]:
        entries = self.hub.journal.entries
        return [entry for entry in entries if entry.kind != "sql"] if self._commands_only else entries

    def entered(self) -> None:
        if self.hub.journal.count != self._seen:
            self._fill()

    def _fill(self) -> None:
        self._seen = self.hub.journal.count
        listed = self._listed
        self.table.put_rows(listed)
        self.table.move_to(len(listed) - 1)

    def on_paged_table_moved(self) -> None:
        row = self.table.current
        self.query_one(TextPanel).put(content(Cell("" if row is None else row.text)))

    # keys

    def action_kinds(self) -> None:
        self._commands_only = not self._commands_only
        self._fill()
        self.hub.update_trail()

    def action_copy(self) -> None:
        if (row := self.table.current) is not None:
            self.hub.copy(row.text)

    def export(self) -> Export | None:
        listed = self._listed
        return Export("nfinspect-log.sh", partial(_write, lines=log_lines(listed))) if listed else None


def _write(name: str, lines: list[str]) -> str:
    """In a worker."""
    from nfinspect.tui.output import write_lines

    return write_lines(name, lines)
