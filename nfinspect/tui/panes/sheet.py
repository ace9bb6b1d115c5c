"""The sheets of a table: how often each value of a column occurs (F), and the figures of every column (D)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.places import place
from nfinspect.tui.sheets import Described, Share, Sheet, described, frequencies, people
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from collections.abc import Sequence


NONE = (None,) * 5
"""The quantiles of words."""


class SheetPane(Pane):
    """Computed when it is opened, from the rows that the table had; Esc leads back to them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy", "Copy", show=False, id="sheet.copy"),
        Binding("e", "export", "Export", show=False, id="sheet.export"),
    ]

    DEFAULT_CSS = """
    SheetPane #about { height: 1; padding: 0 1; }
    """

    _rows: Sequence[Any] = ()

    def __init__(self, crumb: str, sheet: Sheet) -> None:
        super().__init__(crumb)
        self.sheet_shown = sheet

    def compose(self) -> ComposeResult:
        yield Headline(id="about")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=1, empty="no rows", id="rows")
        table.add_class("panel")
        yield table

    def columns(self) -> list[Column]:
        raise NotImplementedError

    def computed(self, rows: Sequence[Any]) -> Sequence[Any]:
        """In a worker: the lines of the sheet."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.load("sheet", partial(_computed, self.sheet_shown, self.computed), self._show, busy="reading the table")

    def _show(self, answer: tuple[Sequence[Any], int]) -> None:
        self._rows, total = answer
        self.query_one("#about", TextBlock).put(content(Cell(self.about(total), "dim")))
        self.table.set_columns(self.columns())
        self.table.put_rows(self._rows)

    def about(self, total: int) -> str:
        return f"{total:,} rows of {self.sheet_shown.of}"

    def texts(self) -> tuple[list[str], list[list[Any]]]:
        """The sheet as a table of values: names of columns, rows."""
        raise NotImplementedError

    def action_copy(self) -> None:
        names, rows = self.texts()
        self.hub.copy("\n".join("\t".join("" if x is None else str(x) for x in row) for row in [names, *rows]))

    def export(self) -> Export | None:
        if not self._rows:
            return None
        names, rows = self.texts()
        return Export(f"{self.crumb}.csv", partial(_write, names=names, rows=rows))


class FrequencyPane(SheetPane):
    """The values of one column. Enter shows the rows that have the value under the cursor."""

    help_text = (
        "How often each value of a column occurs. More than 24 different numbers are counted in 20 bins of equal "
        "width; a bin's upper end belongs to the next one. Enter shows these rows in the table that you came from."
    )

    def __init__(self, sheet: Sheet, key: str) -> None:
        super().__init__(f"{dict(sheet.columns)[key]} of {sheet.of}", sheet)
        self._key = key

    def columns(self) -> list[Column]:
        g = self.glyphs
        most = max((row.share for row in self._rows), default=1.0) or 1.0

        def label(row: Share, width: int) -> Cell:
            if row.low is None:
                told = row.label if row.value is None else people(row.value)
                return Cell(told, "" if row.condition else "dim")
            return Cell(f"{number(row.low, g, room=12)} to {number(row.high, g, room=12)}")

        def bar(row: Share, width: int) -> Cell:
            return Cell(g.levels[-1] * max(round(width * row.share / most), 1 if row.count else 0), "accent")

        return [
            Column("value", 28, label),
            Column("rows", 9, lambda r, w: Cell(count(r.count, g), "bold"), "right"),
            Column("share", 7, lambda r, w: Cell(percent(r.share, g)), "right"),
            Column("", 10, bar, flex=True),
        ]

    def computed(self, rows: Sequence[Any]) -> Sequence[Share]:
        return frequencies(rows, self._key, self.sheet_shown.value)

    async def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        choose = self.sheet_shown.choose
        if not message.row.condition or choose is None:
            self.hub.say("these rows cannot be shown alone: the table has no filter for them", "dim")
            return
        while isinstance(self.hub.pane, SheetPane):
            await self.hub.action_out()
        choose(message.row.condition)

    def texts(self) -> tuple[list[str], list[list[Any]]]:
        return ["value", "low", "high", "rows", "share"], [
            [row.label or None, row.low, row.high, row.count, row.share] for row in self._rows
        ]


class DescribePane(SheetPane):
    """Every column of a table: how many values, which, and how they are spread. Enter counts one."""

    help_text = (
        "Each column's figures over the rows of the table: how many values are undefined and how many differ, mean and "
        "standard deviation (n in the denominator), minimum, quartiles, maximum, and the most frequent value. "
        "Enter counts the values of the column under the cursor."
    )

    def __init__(self, sheet: Sheet) -> None:
        super().__init__(f"columns of {sheet.of}", sheet)

    def columns(self) -> list[Column]:
        g = self.glyphs

        def quantile(place: int) -> Any:
            return lambda r, w: Cell(number(None if r.quantiles is None else r.quantiles[place], g, room=w))

        def commonest(row: Described, width: int) -> Cell:
            told = row.commonest if row.value is None else people(row.value)
            return Cell(f"{told} ({count(row.times, g)})" if row.times else "")

        return [
            Column("column", 12, lambda r, w: Cell(r.column, "bold")),
            Column("differ", 7, lambda r, w: Cell(count(r.different, g)), "right"),
            Column("undef.", 7, lambda r, w: Cell(count(r.undefined, g)), "right"),
            Column("mean", 8, lambda r, w: Cell(number(r.mean, g, room=w)), "right"),
            Column("std", 8, lambda r, w: Cell(number(r.std, g, room=w)), "right"),
            Column("min", 8, quantile(0), "right"),
            Column("median", 8, quantile(2), "right"),
            Column("max", 8, quantile(4), "right"),
            Column("25 %", 8, quantile(1), "right"),
            Column("75 %", 8, quantile(3), "right"),
            Column("commonest", 14, commonest, flex=True),
        ]  # fmt: skip

    def computed(self, rows: Sequence[Any]) -> Sequence[Described]:
        sheet = self.sheet_shown
        return [described(rows, key, title, sheet.value) for key, title in sheet.columns]

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        key = self.sheet_shown.columns[self.table.cursor][0]
        self.hub.step_in(place("frequencies", self.sheet_shown, key))

    def texts(self) -> tuple[list[str], list[list[Any]]]:
        names = ["column", "rows", "undefined", "different", "mean", "std", "min", "p25", "median", "p75", "max"]
        return [*names, "commonest", "times"], [
            [r.column, r.rows, r.undefined, r.different, r.mean, r.std, *(r.quantiles or NONE), r.commonest, r.times]
            for r in self._rows
        ]


def _computed(sheet: Sheet, compute: Any) -> tuple[Sequence[Any], int]:
    """In a worker."""
    rows = sheet.rows()
    return compute(rows), len(rows)


def _write(name: str, names: list[str], rows: list[list[Any]]) -> str:
    """In a worker."""
    from nfinspect.tui.output import write_rows

    return write_rows(name, names, rows)
