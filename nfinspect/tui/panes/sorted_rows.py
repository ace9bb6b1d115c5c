"""The order and the filter of a table whose rows are in memory: the keys of neuron lists, without the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.tui.listing import Arranged, Filtered, Listing, Test
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.tui.sheets import Sheet

ACTIONS = ("filter", "sort", "sort_step", "invert")


class SortedRows:
    """Held by a pane with such a table. listing, columns: give the present ones; changed: called when the order or the
    filter has changed.

    A worker calls what `arranger()` returns, on the analysis, and `put` shows the result.
    """

    def __init__(
        self,
        pane: Pane,
        listing: Callable[[], Listing],
        columns: Callable[[], list[Column]],
        changed: Callable[[], None],
    ) -> None:
        self._pane = pane
        self._listing = listing
        self._columns = columns
        self._changed = changed
        self.order = listing().order
        self.filter = ""
        self._unread = ""
        self._test: Test | None = None
        self.shown: Arranged | None = None
        """What is on screen, None while there is no analysis."""

    def arranger(self) -> Callable[[Any], Arranged]:
        """For a worker: what filters and sorts the rows of an analysis by the present choice."""
        return partial(self._listing().arranged, self.order, self._test)

    def put(self, arranged: Arranged | None) -> None:
        self.shown, table = arranged, self._pane.table
        table.empty = ""
        if arranged is not None:
            table.empty = (
                self._listing().empty if not arranged.total else "nothing passes the filter: / with nothing shows all"
            )
        table.sorted_by = self.order
        table.put_rows(arranged.rows if arranged is not None else ())

    def reset(self, order: tuple[str, bool] | None = None) -> None:
        """Other rows with other columns are shown: in their own order, or in this one."""
        self.order, self.filter, self._unread, self._test = order or self._listing().order, "", "", None

    @property
    def current(self) -> Sequence[Any]:
        """The rows on screen."""
        return self.shown.rows if self.shown is not None else ()

    @property
    def said(self) -> str:
        """How many rows pass the filter; empty without one."""
        if not self.filter or self.shown is None:
            return ""
        return f"{len(self.shown.rows):,} of {self.shown.total:,} where {self.filter}"

    @property
    def told(self) -> str:
        """How many rows are on screen, of an export of these."""
        of = f" of {self.shown.total:,}" if self.filter and self.shown is not None else ""
        return f"{len(self.current):,}{of} rows" + (f" where {self.filter}" if of else "")

    @property
    def not_told(self) -> str:
        """Of an export that has every row."""
        return "every row, those too that the filter leaves out" if self.filter else ""

    def _keys(self) -> list[str]:
        return [column.key for column in self._columns() if column.key]

    @property
    def sortable(self) -> bool:
        return self.shown is not None and bool(self._keys())

    def sheet(self) -> Sheet | None:
        """The rows on screen, by their columns with a key."""
        from nfinspect.tui.sheets import Sheet, titled

        columns = titled(self._columns())
        if self.shown is None or not columns:
            return None
        rows = self.shown.rows
        return Sheet(self._pane.crumb, columns, lambda: rows, self._listing().value, self.order[0], self._narrow)

    def _narrow(self, condition: str) -> None:
        """Of the rows on screen those that pass another condition, too."""
        from nfinspect.analysis.filters import narrowed

        self._put_filter(narrowed(self.filter, condition))

    # keys

    def ask_filter(self) -> None:
        from nfinspect.tui.completing import complete_filter

        complete = partial(complete_filter, columns=self._keys(), sets=self._pane.set_names)
        self._pane.hub.ask(self._pane, "filter", "/", self._put_filter, self._unread or self.filter, completer=complete)

    def _put_filter(self, text: str) -> None:
        from nfinspect_store.errors import RequestError

        if self.shown is None:
            return
        try:
            self._test = self._filtered(self.shown).test(text) if text else None
        except RequestError as error:
            self._unread = text  # offered again, to be mended
            self._pane.hub.say(str(error), "bad")
            return
        self.filter, self._unread = text, ""
        self._changed()

    def _filtered(self, shown: Arranged) -> Filtered:
        columns, listing = [column for column in self._columns() if column.key], self._listing()
        names = {
            **{column.title.lower(): column.key for column in columns},
            **{column.key.lower(): column.key for column in columns},
            **{name: name for name in listing.named},
        }
        return Filtered(names, listing.value, listing.text, shown.sample, self._pane.members_of)

    def ask_order(self) -> None:
        self._pane.pick("sort by", self._keys(), self.order[0], self._sort_by)

    def _sort_by(self, key: str) -> None:
        if self.shown is not None:
            self.order = (key, not self._listing().ascending(key))
            self._changed()

    def step(self, step: int) -> None:
        """Sort by the next column, or the previous one."""
        keys = self._keys()
        place = keys.index(self.order[0]) + step if self.order[0] in keys else 0
        self._sort_by(keys[place % len(keys)])

    def invert(self) -> None:
        key, descending = self.order
        if key and self.shown is not None:
            self.order = (key, not descending)
            self._changed()


class SortingKeys:
    """What the keys of `arranging_keys` do in a pane that holds its rows as SortedRows."""

    rows: SortedRows

    def sheet(self) -> Sheet | None:
        return self.rows.sheet()

    def action_filter(self) -> None:
        self.rows.ask_filter()

    def action_sort(self) -> None:
        self.rows.ask_order()

    def action_sort_step(self, step: int) -> None:
        self.rows.step(step)

    def action_invert(self) -> None:
        self.rows.invert()
