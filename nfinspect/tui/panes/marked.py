"""The marked neurons and every concept: the rank that each neuron has in the concept's trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.app import ComposeResult

from nfinspect.tui.cells import Cell, content, lines, visible_in
from nfinspect.tui.panes.choices import TracedPane, notes_of
from nfinspect.tui.requests import TraceRequest
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.analysis.trace import Trace
    from nfinspect.tui.session import Session


WIDEST = 18
"""Cells of a concept's column."""


class MarkedPane(TracedPane):
    """One row per marked neuron, one column per concept; a rank, or a dash outside the top K."""

    help_text = (
        "The rank of each marked neuron in each concept's trace; above, how many marked neurons are in each trace."
    )

    DEFAULT_CSS = """
    MarkedPane #choices { height: auto; max-height: 8; padding: 0 1; }
    MarkedPane.-shorter #choices { max-height: 4; }
    """

    def __init__(self, session: Session, site: str, marked: tuple[tuple[int, int], ...]) -> None:
        super().__init__(f"{len(marked)} marked", session, site)
        self._marked = marked
        self.request = self.first_request(session)
        self._ranks: dict[str, dict[tuple[int, int], int]] = {}

    def compose(self) -> ComposeResult:
        yield TextBlock(id="choices")
        table = PagedTable([], glyphs=self.glyphs, frozen=1, empty="nothing marked", id="marked")
        table.add_class("panel")
        yield table

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "site" and super().check_action(action, parameters)  # the neurons are those of one site

    def on_mount(self) -> None:
        self.changed()

    def changed(self) -> None:
        self.query_one("#choices", TextBlock).put(content(*self.choices()))
        concepts = tuple(c for c in self.session.concepts if c != self.request.baseline)
        requests = [replace(self.request, concept=concept) for concept in concepts]
        self.load("traces", partial(_traces, self.session, requests), self._show, busy="tracing the concepts")

    def _show(self, traces: tuple[Trace, ...]) -> None:
        g = self.glyphs
        self._ranks = {t.concept: {(r.layer, r.neuron): r.rank for r in t.neurons} for t in traces}

        def rank(concept: str, row: tuple[int, int], width: int) -> Cell:
            found = self._ranks[concept].get(row)
            return Cell(f"#{found}", "bold") if found else Cell(g.none, "dim")

        columns = [Column("neuron", 11, lambda r, w: Cell(f"L{r[0]}/N{r[1]}", "bold"))]
        for t in traces:
            name = visible_in(t.concept, g)
            columns.append(Column(name, max(9, min(WIDEST, cell_len(name))), partial(rank, t.concept), "right"))
        self.table.set_columns(columns)
        self.table.put_rows(self._marked)
        held = [f"{c} {sum(m in ranks for m in self._marked)}" for c, ranks in self._ranks.items()]
        totals = f"of {len(self._marked)} marked neurons in the top {self.request.top}: {', '.join(held)}"
        rows: list[list[Cell | str]] = [self.choices(), [Cell(totals, "dim")], *notes_of(*traces)]
        self.query_one("#choices", TextBlock).put(lines(rows))

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        layer, neuron = message.row
        self.open_neuron(layer, neuron, around=self._marked, row=self.table.cursor)


def _traces(session: Session, requests: Sequence[TraceRequest]) -> tuple[Trace, ...]:
    """In a worker."""
    return tuple(session.trace(request) for request in requests)
