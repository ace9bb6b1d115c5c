"""Which neurons a concept sets off, compared with a baseline that is chosen in place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import fixed, number, percent
from nfinspect.tui.cells import Cell, lines
from nfinspect.tui.listing import ASCENDING, Listing
from nfinspect.tui.panes.base import arranging_keys
from nfinspect.tui.panes.choices import TracedPane, notes_of
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.preview import Preview
from nfinspect.tui.panes.sorted_rows import ACTIONS, SortedRows, SortingKeys
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect_store.types import SIGNIFICANT

if TYPE_CHECKING:
    from nfinspect.analysis.trace import Trace, TraceRow
    from nfinspect.tui.session import Session


LISTING = Listing(
    rows=lambda trace: trace.neurons,
    ascending=lambda key: key in ASCENDING or key == "q_value",
    order=("rank", False),
    empty="no neurons",
)

ABOVE, TEXTS = 4, 9
"""Lines above the table, and those that texts need below it."""


class TracePane(SortingKeys, TracedPane):
    """The table of a trace; above it, the choices that it was computed with."""

    help_text = (
        "A prompt counts once, by the mean over its chosen tokens. occ, %: in how many of the concept's prompts the "
        "neuron is among the top K; rows are sorted by it, then by difference, until r, s or . change it. differ.: "
        "concept mean minus baseline mean. g: Hedges' g. auroc: how well the neuron tells the concept's prompts from "
        "the baseline's (0.5: not at all). p, t: Welch's test. q: p after Benjamini-Hochberg over all neurons of the "
        "site; neurons in bold have q <= 0.05. AP: average precision. Without a baseline the same outlier neurons "
        "lead for every concept."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "concept", "Concept", id="trace.concept"),
        Binding("C", "concept_step(1)", "Next concept", show=False, id="trace.concept_next"),
        *arranging_keys("trace", before="sort_previous"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="trace.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="trace.marked"),
        Binding("y", "copy", "Copy the neurons", show=False, id="trace.copy"),
        Binding("e", "export", "Export the trace", show=False, id="trace.export"),
    ]

    DEFAULT_CSS = """
    TracePane #choices { height: auto; max-height: 8; padding: 0 1; }
    TracePane.-shorter #choices { max-height: 4; }
    TracePane.-roomy Preview { height: 1fr; }
    """

    follows = True

    _trace: Trace | None = None

    def __init__(self, session: Session, site: str, concept: str | None = None) -> None:
        super().__init__("trace", session, site)
        self.request = self.first_request(session, concept)
        self.crumb = f"trace {self.request.concept}"
        self.rows = SortedRows(self, lambda: LISTING, self.columns, self._arrange)

    def compose(self) -> ComposeResult:
        yield Headline(id="choices")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=2, empty="no neurons", id="trace")
        table.add_class("panel")
        table.marked = self.is_marked
        yield table
        yield Preview(self)

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("trace", self.session.name, "--concept", self.request.concept, *self.traced_with)

    def columns(self) -> list[Column]:
        g = self.glyphs
        samples, against = (self._trace.samples, self._trace.baseline_samples) if self._trace is not None else (0, 0)
        fewer = self._trace is not None and any(row.baseline_samples < against for row in self._trace.neurons)

        def figure(title: str, name: str, width: int, digits: int = 4, tone: str = "") -> Column:
            return Column(
                title, width, lambda r, w: Cell(number(getattr(r, name), g, digits, w), tone), "right", key=name
            )

        def address(row: TraceRow, width: int) -> Cell:
            return Cell(row.address, "bold" if row.q_value is None or row.q_value <= SIGNIFICANT else "")

        def occurrences(row: TraceRow, width: int) -> Cell:
            return Cell(f"{row.occurrences}/{row.samples}", "bold" if row.percent >= 50 else "")

        return [
            Column("#", 3, lambda r, w: Cell(str(r.rank), "dim"), "right", key="rank"),
            Column("neuron", 10, address, key="layer"),
            Column("occ", max(5, 2 * len(str(samples)) + 1), occurrences, "right", key="occurrences"),
            *([Column("vs", 4, lambda r, w: Cell(str(r.baseline_samples)), "right")] if fewer else []),
            Column("%", 4, lambda r, w: Cell(percent(r.percent / 100, g, 0)), "right", key="percent"),
            figure("concept", "concept_mean", 7),
            figure("base", "baseline_mean", 7),
            figure("differ.", "difference", 7, tone="bold"),
            figure("g", "effect_size", 5, 3),
            Column("auroc", 5, lambda r, w: Cell(fixed(r.auroc, g)), "right", key="auroc"),
            figure("p", "p_value", 7, 2),
            figure("q", "q_value", 7, 2),
            Column("AP", 6, lambda r, w: Cell(fixed(r.average_precision, g)), "right", key="average_precision"),
            figure("t", "t", 7, 3),
        ]

    def on_mount(self) -> None:
        self.changed()

    def read_again(self) -> None:
        self._ask("")

    def changed(self) -> None:
        self.crumb = f"trace {self.request.concept}"
        self.hub.update_trail()
        self._draw_choices()
        self._ask(f"tracing {self.request.concept}")

    def _ask(self, busy: str) -> None:
        self.load("trace", partial(self.session.trace, self.request), self._show, self._failed, busy=busy)

    def _show(self, trace: Trace | None) -> None:
        self._trace = trace
        if trace is not None:
            self.table.widen(self.columns())
        self._arrange()

    def _arrange(self) -> None:
        self.rows.put(self.rows.arranger()(self._trace) if self._trace is not None else None)
        self._draw_choices()
        self._share_lines()
        self._look_at()
        self.refresh_bindings()

    def on_resize(self) -> None:
        self._share_lines()

    def entered(self) -> None:
        self._look_at(again=True)

    def _zoom(self) -> None:
        super()._zoom()
        self._share_lines()

    def _share_lines(self) -> None:
        """Where there is room, the table takes what its rows need, and the texts below it the rest."""
        roomy = self.size.height >= self.ROOMY and not self.has_class("-zoom") and self.table.total
        most = self.size.height - ABOVE - TEXTS
        self.table.styles.height = max(4, min(self.table.total + 1, most)) if roomy else None

    def _look_at(self, *, again: bool = False) -> None:
        row = self.table.current
        self.query_one(Preview).look_at(self.address(row.layer, row.neuron) if row is not None else None, again=again)

    def _failed(self, line: str) -> None:
        self.say_failed(line)
        self._show(None)

    def _draw_choices(self) -> None:
        t = self._trace
        first: list[Cell | str] = [Cell("c", "bold"), Cell(" " + self.request.concept, "accent")]
        second = ""
        if t is not None:
            against = f" against {t.baseline_samples:,}" if t.baseline is not None else ", raw values"
            second = ", ".join(filter(None, (f"{t.samples:,} prompts{against}", t.significance)))
        if self.rows.said:
            second += f"  {self.rows.said}"
        rows: list[list[Cell | str]] = [[*first, *self.choices()], [Cell(second, "dim")], *notes_of(t)]
        self.query_one("#choices", TextBlock).put(lines(rows))

    # keys

    def on_paged_table_moved(self) -> None:
        self._look_at()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        if self._trace is not None:
            around = tuple((row.layer, row.neuron) for row in self.rows.current)
            row = message.row
            self.open_neuron(row.layer, row.neuron, around=around, row=self.table.cursor)

    def action_trace(self) -> None:
        self.action_concept()

    def action_concept(self) -> None:
        self.pick("concept", self.session.concepts, self.request.concept, lambda name: self.change(concept=name))

    def action_concept_step(self, step: int) -> None:
        names = self.session.concepts
        if self.request.concept in names:
            self.change(concept=names[(names.index(self.request.concept) + step) % len(names)])

    def action_mark(self) -> None:
        if (row := self.table.current) is not None:
            self.mark_row(self.table, (row.layer, row.neuron))

    def action_marked(self) -> None:
        """The marked neurons against all traces; with nothing marked, the concepts against each other."""
        if self.marks:
            super().action_marked()
        else:
            self.action_overlap()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action not in ACTIONS or self.rows.sortable

    def action_copy(self) -> None:
        if self._trace is not None:
            self.hub.copy("\n".join(str(self.address(r.layer, r.neuron)) for r in self.rows.current))

    def export(self) -> Export | None:
        """The rows on screen."""
        shown = self._trace and replace(self._trace, neurons=tuple(self.rows.current))
        return json_export(f"{self.session.name}-trace-{self.request.concept}.json", shown, self.rows.told)
