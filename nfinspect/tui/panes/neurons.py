"""Lists of neurons: by class, by layer, filtered, sorted; a hundred thousand as quickly as ten."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import count, counted
from nfinspect.tui import thresholds
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.neurons import neuron_columns, note_column
from nfinspect.tui.panes.base import arranging_keys
from nfinspect.tui.panes.classed import ClassedPane
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.panes.preview import Preview
from nfinspect.tui.requests import NeuronQuery
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import PAGE, Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nfinspect.analysis.neurons import NeuronPage, NeuronRow
    from nfinspect.tui.session import Session
    from nfinspect.tui.sheets import Sheet

SHORT = ("all", "dead", "sat", "spo", "mis", "weak", "ok")
"""The tabs in 80 cells; the digit in front of each is its key."""


class NeuronsPane(ClassedPane):
    """One list. What it holds and how it is ordered is a `NeuronQuery`; pages of it come from the store."""

    help_text = (
        "Dormancy is a neuron's mean |a| in units of its layer's. Filter with columns of the table "
        "neurons: max>4, class=dead, firing_rate<0.01 and max>3. Keys 0 to 6 choose all, dead, "
        "saturated, sporadic, missing, weak, normal. rate95 is the 95 % upper bound on the share of other "
        "tokens on which a dead neuron comes alive. T changes the thresholds of the classes (missing and weak: of the "
        "mean |a|, in units of the layer's or, with scale=absolute, as it is) until the app ends; reset restores them."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        *arranging_keys("neurons", before="sort_previous"),
        Binding("c", "class_step(1)", "Class", id="neurons.class_next"),
        Binding("C", "class_step(-1)", "Class before", show=False, id="neurons.class_previous"),
        *(
            Binding(str(i), f"class({i})", name, show=False, id=f"neurons.class_{name}")
            for i, name in enumerate(("all", *CLASSES))
        ),
        Binding("L", "layer", "Layer", id="neurons.layer"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="neurons.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="neurons.marked"),
        Binding("y", "copy", "Copy the address", show=False, id="neurons.copy"),
        Binding("e", "export", "Export the list", show=False, id="neurons.export"),
    ]

    DEFAULT_CSS = """
    NeuronsPane #tabs { height: auto; max-height: 2; padding: 0 1; }
    NeuronsPane #query { height: 1; padding: 0 1; }
    NeuronsPane.-tall Preview { height: 13; }
    """

    follows = True

    def __init__(self, session: Session, site: str, *, cls: str | None = None, layer: int | None = None) -> None:
        super().__init__("neurons", session, site)
        self._query = NeuronQuery(self.site, cls, layer, options=session.thresholds)
        self._counts: Mapping[str, int] | None = None
        self._title()

    def _title(self) -> None:
        q = self._query
        words = [q.cls or "", "neurons", f"of L{q.layer}" if q.layer is not None else ""]
        self.crumb = " ".join(word for word in words if word)

    @property
    def equivalent(self) -> tuple[str, ...]:
        q = self._query
        return (
            "neurons",
            self.session.name,
            *(("--class", q.cls) if q.cls else ()),
            *(("--layer", str(q.layer)) if q.layer is not None else ()),
            *(("--filter", q.filter) if q.filter else ()),
            *("--sort", q.sort),
            *(() if q.descending else ("--asc",)),
            *thresholds.arguments(q.options),
            *self.site_option,
        )

    def sheet(self) -> Sheet:
        from nfinspect.tui.sheets import Sheet, titled

        columns = titled(self.table.columns)
        rows = partial(_all_rows, self.session, self._query)
        return Sheet(self.crumb, columns, rows, _value, self._query.sort, self._narrow)

    def _narrow(self, condition: str) -> None:
        """Of the listed neurons those that pass another condition, too."""
        from nfinspect.analysis.filters import narrowed

        self._change(filter=narrowed(self._query.filter or "", condition))

    def compose(self) -> ComposeResult:
        yield Headline(id="tabs")
        yield TextBlock(id="query")
        table = PagedTable(self._columns(), glyphs=self.glyphs, frozen=1, empty="no such neuron", id="neurons")
        table.add_class("panel")
        table.marked = self.is_marked
        yield table
        yield Preview(self)

    def on_mount(self) -> None:
        self._ask_again()

    def entered(self) -> None:
        self.marks_changed()  # elsewhere
        self._look_at(again=True)
        if self._query.options != self.session.thresholds:
            self.thresholds_changed()

    def thresholds_changed(self) -> None:
        self._change(options=self.session.thresholds)

    def marks_changed(self) -> None:
        columns = self._columns()
        if [(c.title, c.width) for c in columns] != [(c.title, c.width) for c in self.table.columns]:
            self.table.set_columns(columns)
        self._tabs()
        self.table.refresh()

    def read_again(self) -> None:
        self._ask_counts()
        for offset in self.table.keep_in_sight():
            self._read_page(offset)

    def _columns(self) -> list[Column]:
        """Those of the table `neurons`, and after the neuron what is noted of any of this site."""
        columns = neuron_columns(self.glyphs)
        told = note_column(self.hub.marks, self.session, self.site, None, self.glyphs)
        return columns if told is None else [columns[0], told, *columns[1:]]

    def _ask_again(self) -> None:
        self._title()
        self.table.sorted_by = (self._query.sort, self._query.descending)
        self.table.reset()
        self._look_at()
        self._ask_counts()
        self._tabs()
        self.hub.update_trail()

    def _ask_counts(self) -> None:
        """How many neurons of each class the list would hold; why a filter cannot be read is said of its rows."""
        query = self._query
        self.load("counts", partial(self.session.class_counts, query), partial(self._count, query), lambda line: None)

    # answers

    def on_paged_table_page_wanted(self, message: PagedTable.PageWanted) -> None:
        self._read_page(message.offset, busy="reading neurons")

    def _read_page(self, offset: int, *, busy: str = "") -> None:
        query = self._query
        page = partial(self.session.neurons, query, offset, PAGE)
        self.load_page(offset, page, partial(self._show, query, offset), partial(self._failed, offset), busy=busy)

    def _show(self, query: NeuronQuery, offset: int, page: NeuronPage) -> None:
        if query == self._query:
            self.table.put_page(offset, page.rows, page.total)
            self._tabs()
            self._look_at(again=self.session.under_way)

    def _look_at(self, *, again: bool = False) -> None:
        row = self.table.current
        self.query_one(Preview).look_at(self.address(row.layer, row.neuron) if row is not None else None, again=again)

    def _failed(self, offset: int, line: str) -> None:
        self.say_failed(line)
        self.table.fail(offset, line)
        if self._good_query is not None and self._query != self._good_query:
            # a filter that cannot be read leaves the list that was there, and is offered again, to be mended
            self._unread = self._query.filter or ""
            self._query = self._good_query
            self.session.thresholds = self._query.options
            self._title()
            self._ask_counts()
            self._read_page(0)

    _good_query: NeuronQuery | None = None
    _unread = ""

    def _count(self, query: NeuronQuery, counts: Mapping[str, int]) -> None:
        if query == self._query:
            self._counts = counts
            self._tabs()

    def _tabs(self) -> None:
        g, q = self.glyphs, self._query
        pieces: list[Cell] = []
        for place, name in enumerate((None, *CLASSES)):
            held = None if self._counts is None else sum(self._counts.values()) if name is None else self._counts[name]
            short = (name or "all") if self.size.width >= 100 else SHORT[place]
            words = f" {short}" + (f" {count(held, g)}" if held is not None else "")
            if name == q.cls:
                pieces += [Cell(f"{g.opening}{place}{words}{g.closing}", "hit")]
            else:
                pieces += [Cell(f" {place}", "bold"), Cell(f"{words} ", "dim")]
        if sum(len(piece.text) for piece in pieces) > self.size.width - 2:  # the space between them is given up first
            pieces = [Cell(piece.text.rstrip(), piece.tone) for piece in pieces]
        self.query_one("#tabs", TextBlock).put(content(*pieces))
        order = f"{counted(self.table.total, 'neuron')} by {q.sort} {g.down if q.descending else g.up}"
        where = f"  of L{q.layer}" if q.layer is not None else ""
        wanted = f"  where {q.filter}" if q.filter else ""
        marked = f"  {len(self.marks):,} marked" if self.marks else ""
        at = f"  row {self.table.cursor + 1:,}" if self.table.total else ""
        told = thresholds.told(q.options)
        own = (Cell(told, "warn"), "  ") if told else ()
        self.query_one("#query", TextBlock).put(
            content(*own, order, where, Cell(wanted, "accent"), marked, Cell(at, "dim"))
        )

    # keys

    def on_paged_table_moved(self) -> None:
        self._tabs()
        self._look_at()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        row = message.row
        self.open_neuron(row.layer, row.neuron, query=self._query, row=self.table.cursor)

    def _change(self, **changes: Any) -> None:
        from dataclasses import replace

        self._good_query = self._query
        self._query = replace(self._query, **changes)
        self._ask_again()

    def action_filter(self) -> None:
        from nfinspect.tui.completing import complete_filter

        columns = [c.key for c in self.table.columns if c.key]
        sets = self.hub.marks.names(self.session)
        text = self._unread or self._query.filter or ""
        complete = partial(complete_filter, columns=columns, sets=sets)
        self.hub.ask(self, "filter", "/", self._filter, text, completer=complete)

    def _filter(self, text: str) -> None:
        self.hub.say("")
        self._unread = ""
        self._change(filter=text or None)

    def action_sort(self) -> None:
        self.pick("sort by", [c.key for c in self.table.columns if c.key], self._query.sort, self._sort_by)

    def _sort_by(self, key: str) -> None:
        self._change(sort=key, descending=key not in ("layer", "class"))

    def action_sort_step(self, step: int) -> None:
        keys = [c.key for c in self.table.columns if c.key]
        place = keys.index(self._query.sort) if self._query.sort in keys else 0
        self._sort_by(keys[(place + step) % len(keys)])

    def action_invert(self) -> None:
        self._change(descending=not self._query.descending)

    def action_class(self, place: int) -> None:
        self._change(cls=(None, *CLASSES)[place])

    def action_class_step(self, step: int) -> None:
        order = (None, *CLASSES)
        self._change(cls=order[(order.index(self._query.cls) + step) % len(order)])

    def action_layer(self) -> None:
        names = ["all", *(f"L{layer.layer}" for layer in self.session.layers if layer.site == self.site)]
        here = f"L{self._query.layer}" if self._query.layer is not None else "all"
        self.pick("layer", names, here, self._of_layer)

    def _of_layer(self, name: str) -> None:
        self._counts = None
        self._change(layer=None if name == "all" else int(name[1:]))

    def action_mark(self) -> None:
        if (row := self.table.current) is not None:
            self.mark_row(self.table, (row.layer, row.neuron))
            self._tabs()

    def action_copy(self) -> None:
        """The address of the neuron under the cursor, or those of all marked ones."""
        if self.marks:
            self.hub.copy("\n".join(str(self.address(*neuron)) for neuron in self.marks))
        elif (row := self.table.current) is not None:
            self.hub.copy(str(self.address(row.layer, row.neuron)))

    def export(self) -> Export:
        """The list, or the rows of all marked neurons."""
        if self.marks:
            q = self._query
            marked = NeuronQuery(self.site, sort=q.sort, descending=q.descending, filter="@marked", options=q.options)
            return Export(f"{self.session.name}-marked.csv", partial(_write, session=self.session, query=marked))
        return Export(f"{self.session.name}-neurons.csv", partial(_write, session=self.session, query=self._query))


def _all_rows(session: Session, query: NeuronQuery) -> list[NeuronRow]:
    """In a worker."""
    rows: list[NeuronRow] = []
    while page := session.neurons(query, len(rows), 10_000).rows:
        rows += page
    return rows


def _value(row: NeuronRow, key: str) -> Any:
    return getattr(row, "cls" if key == "class" else key)


def _write(name: str, session: Session, query: NeuronQuery) -> str:
    """In a worker."""
    from dataclasses import asdict

    from nfinspect.tui.output import write_rows

    rows = [asdict(row) for row in _all_rows(session, query)]
    columns = list(rows[0]) if rows else []
    names = ["class" if column == "cls" else column for column in columns]
    return write_rows(name, names, ([row[column] for column in columns] for row in rows))
