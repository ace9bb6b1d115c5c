"""The tables that a query can read, and their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from nfinspect.present.numbers import count
from nfinspect.tui.cells import Cell
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.places import place
from nfinspect.tui.widgets.paged_table import Column, PagedTable

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.console import Table

FIRST_ROWS = 1000


class SchemaPane(RunPane):
    """Tables on the left, the columns of the one under the cursor on the right; Tab goes there."""

    help_text = (
        "The tables and views that queries can name, how many rows they have, and their columns with DuckDB's types. "
        "Enter on a table shows its first rows, on a column puts its name into the statement; i puts either. "
        "A view whose rows take longer than 2 s to count has none here."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("i", "insert", "Put into the statement", id="schema.insert"),
        Binding("y", "copy", "Copy the name", show=False, id="schema.copy"),
    ]

    DEFAULT_CSS = """
    SchemaPane #both { layout: horizontal; height: 1fr; }
    SchemaPane #tables { width: 36; }
    SchemaPane #columns { width: 1fr; }
    """

    def __init__(self, session: Session, insert: Callable[[str], None]) -> None:
        """insert: puts a name into the statement."""
        super().__init__("tables", session)
        self._insert = insert
        self._tables: Mapping[str, Table] = {}
        self._rows: dict[str, int | None] = {}

    def compose(self) -> ComposeResult:
        g = self.glyphs

        def rows(name: str, width: int) -> Cell:
            return Cell(count(self._rows.get(name), g), "bold") if name in self._rows else Cell(g.more, "dim")

        def kind(name: str, width: int) -> Cell:
            return Cell("view" if self._tables[name].view else "table", "dim")

        with Container(id="both"):
            tables = PagedTable(
                [
                    Column("table", 14, lambda name, w: Cell(name, "bold"), flex=True),
                    Column("kind", 5, kind),
                    Column("rows", 9, rows, "right"),
                ],
                glyphs=g,
                empty="no tables",
                id="tables",
            )
            tables.add_class("panel")
            yield tables
            columns = PagedTable(
                [
                    Column("column", 20, lambda column, w: Cell(column[0], "bold")),
                    Column("type", 12, lambda column, w: Cell(column[1], "dim"), flex=True),
                ],
                glyphs=g,
                empty="no columns",
                id="columns",
            )
            columns.add_class("panel", "ruled-left")
            yield columns

    @property
    def tables(self) -> PagedTable:
        return self.query_one("#tables", PagedTable)

    @property
    def columns(self) -> PagedTable:
        return self.query_one("#columns", PagedTable)

    def on_mount(self) -> None:
        self.load("tables", self.session.sql_tables, self._show, busy="reading the tables")

    def _show(self, tables: Mapping[str, Table]) -> None:
        self._tables = {name: table for name, table in tables.items() if table.public}
        self.tables.put_rows(list(self._tables))
        self._show_columns()
        quick = [name for name, table in self._tables.items() if not table.view]
        self.load("rows", partial(_counted, self.session, quick), self._count)

    def _count(self, rows: dict[str, int | None]) -> None:
        self._rows.update(rows)
        self.tables.refresh()
        if left := [name for name in self._tables if name not in self._rows]:
            self.load("rows", partial(_counted, self.session, left), self._count)

    def _show_columns(self) -> None:
        name = self.tables.current
        self.columns.cursor = 0
        self.columns.put_rows(list(self._tables[name].columns.items()) if name is not None else [])

    # keys

    def on_paged_table_moved(self, message: PagedTable.Moved) -> None:
        if message.table is self.tables:
            self._show_columns()

    async def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        if message.table is self.tables:
            statement = f"FROM {message.row} LIMIT {FIRST_ROWS};"
            self.hub.into(place("sql", self.session, statement), self.session.name)
        else:
            await self.action_insert()

    @property
    def _pointed(self) -> str | None:
        """Of the table or the column under the cursor."""
        if self.columns.has_focus:
            return self.columns.current[0] if self.columns.current is not None else None
        name: str | None = self.tables.current
        return name

    async def action_insert(self) -> None:
        if (name := self._pointed) is not None:
            await self.hub.action_out()
            self._insert(name)

    def action_copy(self) -> None:
        if (name := self._pointed) is not None:
            self.hub.copy(name)


def _counted(session: Session, names: list[str]) -> dict[str, int | None]:
    """In a worker."""
    return {name: session.table_rows(name) for name in names}
