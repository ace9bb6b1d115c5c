"""One row of a query's result: every value, and the whole of the one under the cursor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.results import value_cell
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.query_result import QueryResult

SHOWN = 20_000
"""Characters of a value that are shown; all of them are copied."""


@dataclass(frozen=True)
class FieldValue:
    """A column of the result and its value in the row."""

    name: str
    type: str
    value: Any


class RecordPane(RunPane):
    """The fields of the row above, the value of the chosen one below, wrapped; Tab goes there, to scroll."""

    help_text = (
        "A row of the result with whole values. Below, the value under the cursor: line breaks break the line, other "
        "characters that would be hidden are shown as signs. y copies it as it is."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("J", "row(1)", "Next row", id="record.next"),
        Binding("K", "row(-1)", "Row before", id="record.previous"),
        Binding("y", "copy", "Copy the value", id="record.copy"),
    ]

    DEFAULT_CSS = """
    RecordPane #fields { height: auto; max-height: 50%; }
    RecordPane #value { height: 1fr; }
    """

    def __init__(self, session: Session, result: QueryResult, number: int, row: tuple[Any, ...]) -> None:
        """number: of the row, from 0."""
        super().__init__(f"row {number + 1:,}", session)
        self._result = result
        self._number = number
        self._row = row

    def compose(self) -> ComposeResult:
        g = self.glyphs
        columns = [
            Column("column", 16, lambda r, w: Cell(r.name, "bold")),
            Column("type", 12, lambda r, w: Cell(r.type, "dim")),
            Column("value", 20, lambda r, w: value_cell(r.value, g), flex=True),
        ]
        table = PagedTable(columns, glyphs=g, frozen=2, empty="no columns", id="fields")
        table.add_class("panel")
        table.styles.height = len(self._result.columns) + 1
        yield table
        value = TextPanel(id="value")
        value.add_class("ruled-top")
        yield value

    def on_mount(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self.crumb = f"row {self._number + 1:,}"
        self.table.put_rows(
            [FieldValue(c.name, c.type, value) for c, value in zip(self._result.columns, self._row, strict=True)]
        )
        self._show_value()
        self.hub.update_trail()

    def _show_value(self) -> None:
        field: FieldValue | None = self.table.current
        if field is None:
            return
        if field.value is None:
            self.query_one(TextPanel).put(content(Cell("NULL", "dim")))
            return
        text = str(field.value)
        more = f"{self.glyphs.more} {len(text):,} characters in all; y copies them"
        rest = ("\n", Cell(more, "dim")) if len(text) > SHOWN else ()
        self.query_one(TextPanel).put(content(text[:SHOWN] or " ", *rest))

    # keys

    def on_paged_table_moved(self) -> None:
        self._show_value()

    def on_paged_table_chosen(self) -> None:
        self.query_one(TextPanel).focus()

    def action_row(self, step: int) -> None:
        number = self._number + step
        if number < 0:
            self.hub.say("this is the first row", "dim")
        else:
            self.load("row", partial(self._result.page, number, 1), partial(self._go_to, number))

    def _go_to(self, number: int, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            self.hub.say("this is the last row", "dim")
            return
        self._number, self._row = number, rows[0]
        self._draw()

    def action_copy(self) -> None:
        field: FieldValue | None = self.table.current
        if field is not None:
            self.hub.copy("" if field.value is None else str(field.value))
