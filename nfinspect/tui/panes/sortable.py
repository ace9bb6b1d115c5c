"""The order and the filter of a table whose rows stand in memory: the keys of neuron lists, without the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import BindingType

from nfinspect.tui.engine import Session
from nfinspect.tui.panes.base import Pane, arranging_keys
from nfinspect.tui.panes.command import CommandPane
from nfinspect.tui.row_order import Filtered, Test, ordered
from nfinspect.tui.widgets.paged_table import Column, PagedTable

ASCENDING = ("layer", "rank", "k", "p", "p_value", "name", "type", "strength", "a", "b")
"""Columns that one reads from the smallest on."""


@dataclass(frozen=True)
class SortedRows:
    """The rows that pass the filter, in order; `total` of them without the filter, `sample` the first of these."""

    rows: Sequence[Any] = ()
    total: int = 0
    sample: Any = None


class SortableRows(Pane):
    """Rows are sorted and filtered in workers: a large model's lists take longer than a repaint may."""

    BINDINGS: ClassVar[list[BindingType]] = [*arranging_keys("analysis", before="sort_before")]

    order: tuple[str, bool] = ("", False)
    """Key of the column that the rows stand by at first, and whether the largest comes first."""

    empty: str = "no neuron passed"
    """Said where there is no row."""

    shown = SortedRows()

    _order: tuple[str, bool] = ("", False)
    _filter = ""
    _test: Test | None = None

    # what each analysis says for itself

    def columns(self) -> list[Column]:
        raise NotImplementedError

    def rows(self, analysis: Any) -> Sequence[Any]:
        """Every row, in the analysis' own order. Called in workers."""
        return ()

    def value(self, row: Any, key: str) -> Any:
        """What stands in a column."""
        return getattr(row, key)

    def text(self, row: Any) -> str:
        """What a filter that is no comparison is looked for in; empty where there is nothing."""
        return ""

    def place(self, row: Any) -> Any:
        """What rows stand by when they stand by layer."""
        return row.layer, row.neuron

    def ascending(self, key: str) -> bool:
        """Whether a column is read from the smallest on."""
        return key in ASCENDING

    def named(self) -> dict[str, str]:
        """Columns for the filter beside those of the table."""
        return {"layer": "layer", "neuron": "neuron"}

    # arranging

    @property
    def table(self) -> PagedTable:
        return self.query_one(PagedTable)

    def sorted_rows(self, analysis: Any) -> SortedRows:
        """In a worker."""
        rows, test, (key, descending) = self.rows(analysis), self._test, self._order
        kept = rows if test is None else [row for row in rows if test(row)]
        return SortedRows(ordered(kept, key, descending, self._sort_value), len(rows), rows[0] if rows else None)

    def _sort_value(self, row: Any, key: str) -> Any:
        return self.place(row) if key == "layer" else self.value(row, key)

    def reorder(self) -> None:
        """The order, the filter or the list has changed: have the rows arranged anew."""
        raise NotImplementedError

    def put_sorted(self, arranged: SortedRows) -> None:
        self.shown = arranged
        there = self.empty if not arranged.total else "nothing passes the filter"
        self.table.empty = there if self.sortable is not None else ""
        self.table.sorted_by = self._order
        self.table.put_rows(arranged.rows)

    def _keys(self) -> list[str]:
        return [column.key for column in self.columns() if column.key]

    @property
    def sortable(self) -> Any:
        """The analysis whose rows are on screen, None while there is none."""
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("filter", "sort", "sort_step", "invert"):
            return self.sortable is not None and bool(self._keys())
        return super().check_action(action, parameters)

    # keys

    def action_filter(self) -> None:
        self.hub.ask(self, "filter", "/", self._filter)

    def entered_filter(self, text: str) -> None:
        from nfinspect_store.errors import RequestError

        if self.sortable is None:
            return
        try:
            test = self._filtered().test(text) if text else None
        except RequestError as error:
            self.hub.say(str(error), "bad")
            return
        self._filter, self._test = text, test
        self.reorder()

    def _filtered(self) -> Filtered:
        columns = [column for column in self.columns() if column.key]
        names = {
            **{column.title.lower(): column.key for column in columns},
            **{column.key.lower(): column.key for column in columns},
            **self.named(),
        }
        return Filtered(names, self.value, self.text, self.shown.sample)

    def action_sort(self) -> None:
        from nfinspect.tui.dialogs import Picker

        self.app.push_screen(Picker("sort by", self._keys(), self.glyphs, self._order[0]), self._sorted)

    def _sorted(self, key: str | None) -> None:
        if key is not None and self.sortable is not None:
            self._order = (key, not self.ascending(key))
            self.reorder()

    def action_sort_step(self, step: int) -> None:
        keys = self._keys()
        place = keys.index(self._order[0]) + step if self._order[0] in keys else 0
        self._sorted(keys[place % len(keys)])

    def action_invert(self) -> None:
        key, descending = self._order
        if key and self.sortable is not None:
            self._order = (key, not descending)
            self.reorder()

    def reset_order(self) -> None:
        """Other rows with other columns are shown: as they are."""
        self._order, self._filter, self._test = self.order, "", None


class SortablePane(SortableRows, CommandPane):
    """The pane of one analysis of a run."""

    def __init__(self, crumb: str, session: Session, site: str | None = None) -> None:
        super().__init__(crumb, session, site)
        self._order = self.order
