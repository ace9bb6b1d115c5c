"""Read-only SQL on the run and nothing else: an editor, and the result a page at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import counted
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.results import result_columns
from nfinspect.tui.completion import complete, in_string_or_comment
from nfinspect.tui.panes.base import one_line
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.places import place
from nfinspect.tui.typed_history import append_history, history_file, read_history
from nfinspect.tui.widgets.paged_table import PAGE, PagedTable
from nfinspect.tui.widgets.sql_editor import SqlEditor
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect_store.errors import QueryError

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect.tui.sheets import Sheet
    from nfinspect_store.console import Table
    from nfinspect_store.query_result import QueryResult

    Answer = tuple[QueryResult, list[tuple[Any, ...]], int | None]

FIRST = "SELECT site, class, count(*) AS neurons, max(max) AS strongest FROM neurons GROUP BY ALL ORDER BY ALL;"


COUNTED = 1_000_000
"""Rows of a result that the sheets of its columns count, at most: they are held in memory."""


class SqlPane(RunPane):
    """Esc cancels a query that is running, else leaves the editor, else the pane."""

    help_text = (
        "One reading statement (SELECT, FROM, DESCRIBE, SUMMARIZE, PIVOT ...). Tables: run, layers, "
        "prompts, tokens, activations(site, layer, neuron, token_idx, value), neurons, layer_health; ^o shows them all "
        "with their columns. Enter after a semicolon runs; ^r runs anywhere. Of the result, Enter on a row that has a "
        "layer and a neuron opens the neuron, on another one its whole values, as v does on any."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "again", "Run again", key_display="^r", show=False, id="sql.again"),
        Binding("escape", "back_off", "Out", key_display="Esc", id="sql.escape"),
        Binding("ctrl+c", "cancel", "Cancel the query", show=False, id="sql.cancel"),
        Binding("i", "edit", "Edit", id="sql.edit"),
        Binding("ctrl+o,f2", "tables", "Tables", key_display="^o", id="sql.tables"),
        Binding("v", "record", "Whole row", id="sql.row"),
        Binding("y", "copy", "Copy the row", show=False, id="sql.copy"),
        Binding("e", "export", "Export", id="sql.export"),
    ]

    DEFAULT_CSS = """
    SqlPane #editor { height: 5; }
    SqlPane.-tall #editor { height: 10; }
    SqlPane #found { height: 1; padding: 0 1; background: $bar; }
    """

    _result: QueryResult | None = None
    follows = True
    _busy = False
    _answers = _grown = False
    """Whether the rows are the answer to the last statement, and whether the run has grown since."""

    _seen: int | None = None
    """How many commits of a run under way the rows are of."""

    _started = 0.0
    _took = 0.0
    _tables: Mapping[str, tuple[str, ...]] | None = None

    def __init__(self, session: Session, statement: str = "") -> None:
        super().__init__("sql", session)
        self._statement = statement
        self._history: list[str] = []
        self._place = 0
        self._draft = ""
        """What was typed before earlier statements were looked at."""

        self._offered: list[str] = []
        self._tab = 0

    def compose(self) -> ComposeResult:
        editor = SqlEditor(self._statement or FIRST, id="editor")
        editor.add_class("panel")
        yield editor
        yield TextBlock(id="found")
        table = PagedTable([], glyphs=self.glyphs, frozen=1, empty="no rows", id="rows")
        table.add_class("panel")
        yield table

    @property
    def editor(self) -> SqlEditor:
        return self.query_one(SqlEditor)

    @property
    def hint(self) -> str:
        return f"{self.session.name} {self.glyphs.dot} read-only"

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("sql", self.session.name, self._result.sql) if self._result is not None else ()

    def on_mount(self) -> None:
        self.editor.move_cursor(self.editor.document.end)
        self.load("history", partial(read_history, history_file("sql")), self._remember)
        self.load("tables", self.session.sql_tables, self._put_tables)
        self._tell("Enter after ; runs    ^r runs    Tab completes    Up, Down: earlier statements")
        if self._statement:
            self.last_focus = self.table  # what was asked for after `:` is an answer, not a text to type on
            self._run()
        else:
            self.editor.select_all()  # an example: Enter runs it, typing replaces it

    def read_again(self) -> None:
        """A statement is not run again unasked: it may be a long one."""
        if self._answers and not self._busy and self.session.commits != self._seen:
            self._grown = True
            self._count_up()

    def _tell(self, text: str, tone: str = "dim") -> None:
        self.query_one("#found", TextBlock).put(content(Cell(text, tone)))

    # running

    def action_again(self) -> None:
        self._run()

    def on_sql_editor_run(self) -> None:
        self._run()

    def _run(self) -> None:
        statement = self.editor.text.strip()
        if not statement:
            return
        if not self._history or self._history[-1] != statement:
            self._history.append(statement)
        self._place = len(self._history)
        if self._busy:
            self.session.interrupt()
        self.hub.say("")  # an error was about the statement before
        self._busy, self._started = True, time.monotonic()
        self._tell("running: Esc cancels", "accent")
        self.load("result", partial(_answer, self.session, statement), partial(self._answered, statement), self._failed)

    def _answered(self, statement: str, answer: Answer | QueryError) -> None:
        if isinstance(answer, QueryError):
            self._refused(statement, answer)
        else:
            self._show(*answer)

    def _show(self, result: QueryResult, rows: list[tuple[Any, ...]], commits: int | None) -> None:
        """commits: of a run under way, how many the rows are of."""
        self._seen = commits
        self._busy, self._answers, self._grown = False, True, False
        self._took = time.monotonic() - self._started
        self._result = result
        self.pages_under_way.clear()
        table = self.table
        table.set_columns(result_columns(result.columns, rows, self.glyphs))
        table.cursor = 0
        table.scroll_to_top()
        table.forget()
        table.put_page(0, rows, self._total(result, len(rows)))
        self._count_up()
        if result.rows is None:
            self.load("counted", result.count, self._counted)

    @staticmethod
    def _total(result: QueryResult, seen: int) -> int:
        """Until the rows are counted, one more than was seen: scrolling down finds the rest."""
        return result.rows if result.rows is not None else seen + 1

    def _counted(self, total: int) -> None:
        self.table.grow(total)
        self._count_up()

    def _count_up(self, *, leaving: bool = False) -> None:
        """leaving: whether the editor is being left for the rows."""
        if self._result is None:
            return
        rows = counted(self._result.rows, "row") if self._result.rows is not None else "more than 10,000 rows"
        at = f", row {self.table.cursor + 1:,}" if self.table.total else ""
        way = "    Esc leads to them, i back" if self.table.total and self.editor.has_focus and not leaving else ""
        again = "; the run has grown: ^r reads it again" if self._grown else ""
        self._tell(f"{rows} in {self._took:.2f} s{at}{again}{way}")

    def on_paged_table_page_wanted(self, message: PagedTable.PageWanted) -> None:
        result = self._result
        if result is None:
            return
        offset, page = message.offset, partial(result.page, message.offset, message.limit)
        self.load_page(offset, page, partial(self._show_page, result, offset), partial(self._failed_page, offset))

    def _show_page(self, result: QueryResult, offset: int, rows: list[tuple[Any, ...]]) -> None:
        if result is self._result:
            self.table.widen(result_columns(result.columns, rows, self.glyphs))
            self.table.put_page(offset, rows, self._total(result, max(self.table.total - 1, offset + len(rows))))

    def _failed(self, line: str, where: str = "") -> None:
        self._busy = self._answers = False
        self._tell(f"no result for the statement above{where}")
        self.say_failed(line)

    def _refused(self, statement: str, error: QueryError) -> None:
        """The statement stays, with the keys and the cursor on what is wrong."""
        editor = self.editor
        where = ""
        at = error.place
        if at is not None and editor.text.strip() == statement:
            before = editor.text[: len(editor.text) - len(editor.text.lstrip()) + at]
            row, column = before.count("\n"), len(before) - before.rfind("\n") - 1
            editor.move_cursor((row, column))
            where = f": see line {row + 1}, column {column + 1}"
        self.last_focus = editor  # the pane may just be coming on screen
        if self.hub.screen.focused is self.table:
            editor.focus()
        self._failed(one_line(error), where)

    def _failed_page(self, offset: int, line: str) -> None:
        self.table.fail(offset, line)
        self.say_failed(line)

    def sheet(self) -> Sheet | None:
        from nfinspect.tui.sheets import Sheet

        result = self._result
        if result is None:
            return None
        columns = [(str(place), column.name) for place, column in enumerate(result.columns)]
        return Sheet("sql", columns, partial(result.page, 0, COUNTED), lambda row, key: row[int(key)])

    # editing

    def _remember(self, statements: list[str]) -> None:
        self._history = statements + self._history
        self._place = len(self._history)

    def _put_tables(self, tables: Mapping[str, Table]) -> None:
        self._tables = {name: tuple(table.columns) for name, table in tables.items()}

    def _insert(self, name: str) -> None:
        """A name from the list of tables, in the place of what is selected."""
        start, end = sorted(self.editor.selection)
        self.editor.replace(name, start, end, maintain_selection_offset=False)
        self.editor.focus()

    def on_sql_editor_recall(self, message: SqlEditor.Recall) -> None:
        place = self._place + message.step
        if self._place == len(self._history):
            self._draft = self.editor.text if self.editor.text != FIRST else ""
        if 0 <= place < len(self._history):
            self._place = place
            self.editor.put(self._history[place])
        elif place >= len(self._history):
            self._place = len(self._history)
            self.editor.put(self._draft)

    def on_sql_editor_complete(self) -> None:
        """Tab: one candidate after the other; where there is nothing to complete, on to the next panel."""
        editor = self.editor
        before = editor.text_before_cursor
        if self._offered and before.endswith(self._offered[self._tab]):
            old = self._offered[self._tab]
            self._tab = (self._tab + 1) % len(self._offered)
        else:
            old, self._offered = complete(before, self._tables or {})
            self._tab = 0
            if not self._offered:
                if not in_string_or_comment(before) and (not before or before.split() and before[-1:].isspace()):
                    self.screen.focus_next()
                else:
                    self._tell("nothing to complete here")
                return
        row, column = editor.cursor_location
        editor.replace(self._offered[self._tab], (row, column - len(old)), (row, column))
        g = self.glyphs
        shown = [f"{g.opening}{w}{g.closing}" if i == self._tab else w for i, w in enumerate(self._offered)]
        self._tell("  ".join(shown[self._tab :] + shown[: self._tab]))

    def on_text_area_changed(self) -> None:
        if self._offered and not self.editor.text_before_cursor.endswith(self._offered[self._tab]):
            self._offered = []

    # keys

    def on_paged_table_moved(self) -> None:
        if self._result is not None and not self._busy:
            self._count_up()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        """A row that names a neuron opens it, another one its values. If several sites have such a neuron, the site is
        asked for.
        """
        names = [c.name.lower() for c in self._result.columns] if self._result is not None else []
        row = dict(zip(names, message.row, strict=False))
        layer, neuron, site = row.get("layer"), row.get("neuron"), row.get("site")
        if not (isinstance(layer, int) and isinstance(neuron, int)):
            self.action_record()
            return
        sites = [x.site for x in self.session.layers if x.layer == layer and 0 <= neuron < x.neurons]
        if site is not None:
            sites = [one for one in sites if one == site]
        if not sites:
            where = f" at {site}" if site is not None else ""
            self.hub.say(f"this run holds no L{layer}/N{neuron}{where}", "warn")
        elif len(sites) == 1:
            self.open_neuron(layer, neuron, site=sites[0])
        else:
            title = f"L{layer}/N{neuron} at which site? (SELECT site, ... tells)"
            self.pick(title, sites, None, lambda place: self.open_neuron(layer, neuron, site=place))

    async def action_back_off(self) -> None:
        if self._busy:
            self.action_cancel()
        elif self.editor.has_focus and self._result is not None:
            self.table.focus()
            self._count_up(leaving=True)
        else:
            await self.hub.action_out()

    def action_cancel(self) -> None:
        if self._busy:
            self.session.interrupt()
            self.hub.say("cancelling", "dim")
        elif self.editor.has_focus and self.editor.selected_text:
            self.hub.copy(self.editor.selected_text)

    def action_record(self) -> None:
        result, row = self._result, self.table.current
        if result is None or row is None:
            self.hub.say("there is no row yet", "dim")
            return
        self.hub.into(place("record", self.session, result, self.table.cursor, row), self.session.name)

    def action_tables(self) -> None:
        self.hub.into(place("tables", self.session, self._insert), self.session.name)

    def action_edit(self) -> None:
        self.editor.focus()

    def action_copy(self) -> None:
        if (row := self.table.current) is not None:
            self.hub.copy("\t".join("" if value is None else str(value) for value in row))

    def export(self) -> Export | None:
        if self._result is None:
            return None
        return Export(f"{self.session.name}-result.csv", partial(_export, result=self._result))


def _answer(session: Session, statement: str) -> Answer | QueryError:
    """In a worker. An error is kept whole: it says where in the statement it is."""
    append_history(history_file("sql"), statement)
    try:
        result = session.sql(statement)
        return result, result.page(0, PAGE), session.sql_commits()
    except QueryError as error:
        return error


def _export(name: str, result: QueryResult) -> str:
    from nfinspect.tui.output import write_rows

    return write_rows(name, [c.name for c in result.columns], result)
