"""The marked neurons, or those of another set: their notes and tags, and the rank each has in the concepts' traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import counted
from nfinspect.tui.cells import Cell, content, lines, visible_in
from nfinspect.tui.columns.neurons import note_column
from nfinspect.tui.panes.choices import TracedPane, notes_of
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.requests import TraceRequest
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect_store.marks import MARKED, check_set_name

if TYPE_CHECKING:
    from nfinspect.analysis.trace import Trace
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address


WIDEST = 18
"""Cells of a concept's column."""

SECONDS = 2.0
"""Between two looks at what other processes have marked."""


class MarkedPane(TracedPane):
    """One row per neuron, one column per concept; a rank, or a dash outside the top K."""

    help_text = (
        "The neurons of a set, what is noted about them, the other sets that they are in (#), and the rank of each "
        "in each concept's trace; above, how many of them are in each trace. v shows another set, m names these as a "
        "set, written @name in filters, after : and in commands; d takes all out of the set. "
        "A neuron is one of its model: what is marked in one run of it is marked in the others."
    )

    idle: ClassVar[Mapping[str, str]] = {"site": "this set has neurons of one site"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "set", "Set", id="marked.set"),
        Binding("m", "name", "Name as a set", id="marked.name"),
        Binding("d", "clear", "Clear", id="marked.clear"),
        Binding("space", "mark", "Take out", key_display="Space", show=False, id="marked.mark"),
        Binding("y", "copy", "Copy the addresses", show=False, id="marked.copy"),
        Binding("e", "export", "Export", show=False, id="marked.export"),
    ]

    DEFAULT_CSS = """
    MarkedPane #choices { height: auto; max-height: 8; padding: 0 1; }
    MarkedPane.-shorter #choices { max-height: 4; }
    """

    _traces: tuple[Trace, ...] = ()

    def __init__(self, session: Session, site: str, name: str = MARKED) -> None:
        super().__init__(name, session, site)
        self._set = name
        self.request = self.first_request(session)

    def compose(self) -> ComposeResult:
        yield Headline(id="choices")
        table = PagedTable([], glyphs=self.glyphs, frozen=1, empty="", id="marked")
        table.add_class("panel")
        yield table

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("marks", "--run", self.session.name, "--set", self._set)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "site" and super().check_action(action, parameters)  # the neurons are those of one site

    def on_mount(self) -> None:
        self._to_a_site_with_some()
        self.changed()

    def entered(self) -> None:
        self.look_every(SECONDS, self.hub.marks.look)
        self._draw()

    def marks_changed(self) -> None:
        self._draw()

    # what is shown

    @property
    def _neurons(self) -> tuple[tuple[int, int], ...]:
        return tuple(self.hub.marks.members(self.session, self.site, self._set))

    def _addresses(self) -> tuple[Address, ...]:
        """Of every site, each with its site."""
        return self.hub.marks.shown.addresses(self._set, self.hub.marks.owner(self.session))

    def _to_a_site_with_some(self) -> None:
        if not self._neurons:
            held = {address.site for address in self._addresses()}
            self.site = next((site for site in self.session.sites if site in held), self.site)

    def changed(self) -> None:
        self._traces = ()
        self._draw()
        concepts = tuple(c for c in self.session.concepts if c != self.request.baseline)
        requests = [replace(self.request, concept=concept) for concept in concepts]
        self.load("traces", partial(_traces, self.session, requests), self._show, busy="tracing the concepts")

    def _show(self, traces: tuple[Trace, ...]) -> None:
        self._traces = traces
        self._draw()

    def _draw(self) -> None:
        g, neurons = self.glyphs, self._neurons
        ranks = {t.concept: {(r.layer, r.neuron): r.rank for r in t.neurons} for t in self._traces}

        def rank(concept: str, row: tuple[int, int], width: int) -> Cell:
            found = ranks[concept].get(row)
            return Cell(f"#{found}", "bold") if found else Cell(g.none, "dim")

        columns = [Column("neuron", 11, lambda r, w: Cell(f"L{r[0]}/N{r[1]}", "bold"))]
        told = note_column(self.hub.marks, self.session, self.site, neurons, g, without=self._set)
        columns += [told] if told is not None else []
        for concept in ranks:
            name = visible_in(concept, g)
            columns.append(Column(name, max(9, min(WIDEST, cell_len(name))), partial(rank, concept), "right"))
        here = f"L{self.table.current[0]}/N{self.table.current[1]}" if self.table.current else ""
        self.table.empty = "nothing marked: Space marks a neuron" if self._set == MARKED else "no neuron in this set"
        self.table.set_columns(columns)
        self.table.put_rows(neurons)
        if here and self.table.cursor >= len(neurons):
            self.table.move_to(max(0, len(neurons) - 1))
        self.crumb = f"{len(neurons):,} marked" if self._set == MARKED else f"@{self._set}"
        self.hub.update_trail()
        others = [a for a in self._addresses() if a.site != self.site]
        more = f" and {len(others):,} at {', '.join(sorted({str(a.site) for a in others}))}" if others else ""
        what = f"{counted(len(neurons), 'neuron')} of {self.site}{more}"
        head = [Cell("v ", "bold"), Cell(f"@{self._set}", "accent"), f" {what}", *self.choices()]
        held = [f"{c} {sum(n in there for n in neurons):,}" for c, there in ranks.items()]
        word = "marked neuron" if self._set == MARKED else "neuron"
        totals = f"of {counted(len(neurons), word)} in the top {self.request.top}: {', '.join(held)}" if held else ""
        rows: list[list[Cell | str]] = [list(head), [Cell(totals, "dim")], *notes_of(*self._traces)]
        if self.hub.marks.problem:
            rows.append([Cell(f"of this session only: {self.hub.marks.problem}", "warn")])
        self.query_one("#choices", TextBlock).put(lines(rows) if any(rows) else content(""))

    # keys

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        layer, neuron = message.row
        self.open_neuron(layer, neuron, around=self._neurons, row=self.table.cursor)

    def action_set(self) -> None:
        names = [f"@{name}" for name in self.hub.marks.names(self.session)]
        if not names:
            self.hub.say("there is no set yet: Space marks neurons, m names the marked", "dim")
            return
        self.pick("set", names, f"@{self._set}", self._to_set)

    def _to_set(self, name: str) -> None:
        self._set = name.removeprefix("@")
        self._to_a_site_with_some()
        self.request = replace(self.request, site=self.site)
        self.changed()

    def action_name(self) -> None:
        if not self._addresses():
            self.hub.say("there is nothing to name: Space marks neurons", "warn")
            return
        self.hub.ask(self, "set", "name of the set", self._named)

    def _named(self, text: str) -> None:
        from nfinspect_store.errors import RequestError

        if not text.strip():
            return
        try:
            name = check_set_name(text)
        except RequestError as error:
            self.hub.say(str(error), "bad")
            return
        self.hub.marks.put(self.session, self._addresses(), added=True, name=name)
        held = len(self.hub.marks.shown.addresses(name, self.hub.marks.owner(self.session)))
        holds = f"@{name} holds {counted(held, 'neuron')}"
        self.hub.say(
            f"{holds}: :@{name} lists {'it' if held == 1 else 'them'}, filters and commands take @{name}", "good"
        )
        self._draw()

    def action_clear(self) -> None:
        from nfinspect.tui.dialogs import Confirm

        if addresses := self._addresses():
            question = f"Take all {len(addresses):,} neurons out of @{self._set}?"
            self.app.push_screen(Confirm(question), partial(self._cleared, addresses))

    def _cleared(self, addresses: tuple[Address, ...], yes: bool | None) -> None:
        if yes:
            self.hub.marks.put(self.session, addresses, added=False, name=self._set)
            self._draw()

    def action_mark(self) -> None:
        if (row := self.table.current) is not None:
            self.hub.marks.put(self.session, self.with_site([row]), added=False, name=self._set)
            self._draw()

    def action_copy(self) -> None:
        if addresses := self._addresses():
            self.hub.copy("\n".join(str(self.address(a.layer, a.neuron, a.site)) for a in addresses))

    def export(self) -> Export | None:
        addresses = self._addresses()
        if not addresses:
            return None
        marks, of = self.hub.marks, self.hub.marks.owner(self.session)
        rows = [
            {
                "site": a.site,
                "layer": a.layer,
                "neuron": a.neuron,
                "sets": [MARKED] * ((a.layer, a.neuron) in marks.members(self.session, str(a.site)))
                + list(marks.shown.tags(of, str(a.site), (a.layer, a.neuron))),
                "note": marks.shown.note(of, str(a.site), (a.layer, a.neuron)),
            }
            for a in addresses
        ]
        written = [str(self.address(a.layer, a.neuron, a.site)) for a in addresses]
        return Export(f"{self.session.name}-{self._set}.txt", partial(_write, rows=rows, written=written))


def _traces(session: Session, requests: Sequence[TraceRequest]) -> tuple[Trace, ...]:
    """In a worker."""
    return tuple(session.trace(request) for request in requests)


def _write(name: str, rows: list[dict[str, Any]], written: list[str]) -> str:
    """In a worker: a document if the name ends in .json, else addresses, one a line, as --neurons reads them."""
    from nfinspect.tui.output import write_json, write_lines

    return write_json(name, rows) if name.endswith(".json") else write_lines(name, written)
