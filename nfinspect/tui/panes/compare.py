"""Several runs beside each other: the same analysis of each, over the depth of their networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.compare import compare_columns, figure_of
from nfinspect.tui.comparing import SIGNS, TOPICS, Comparison, LayerRow, Measure, OfRun, Topic, key_name, of_run
from nfinspect.tui.panes.base import one_line
from nfinspect.tui.panes.command_queue import CommandQueuePane
from nfinspect.tui.panes.exporting import ExportingPane
from nfinspect.tui.panes.run_pane import json_writer
from nfinspect.tui.panes.sortable import SortableRows, SortedRows
from nfinspect.tui.places import place
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.tui.engine import Session


@dataclass(frozen=True)
class Compared:
    """A worker's answer, with its rows as they are to stand."""

    comparison: Comparison
    rows: SortedRows


class ComparePane(SortableRows, CommandQueuePane, ExportingPane):
    """Rows are layers of all the runs, by depth. What a run lacks, `r` has made by the run's own command."""

    help_text = (
        "Depth is layer / (layers - 1): 0 is a network's first layer, 1 its last, so that networks of different size "
        "lie on one axis. In the drawing each run has a letter: a capital at each of its layers, small ones between "
        "them, X at the row under the cursor. The figures are those of the newest kept result over all layers of each "
        "run, on its own text; health is counted at once. Each run is read at its own usual site, or, after S, at one "
        "that all have. r makes what is not kept, run after run; attention is made in a run's own pane. Enter goes to "
        "the layer's neurons."
    )
    empty = "no run has this analysis"
    order = ("depth", False)
    first_focus = "#rows"

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(i + 1), f"topic({i})", one.name, show=False, id=key_name(i)) for i, one in enumerate(TOPICS[:9])),
        Binding("c", "drawing", "Drawing", id="compare.drawing"),
        Binding("S", "site", "Site", show=False, id="compare.site"),
        Binding("y", "copy", "Copy the table", show=False, id="compare.copy"),
        Binding("e", "export", "Export", show=False, id="compare.export"),
    ]  # fmt: skip

    DEFAULT_CSS = """
    ComparePane #about { height: auto; max-height: 6; padding: 0 1; }
    ComparePane #chart { height: 10; }
    ComparePane.-tall #chart { height: 20; }
    ComparePane.-short #chart { height: 7; }
    ComparePane.-shorter #about { max-height: 5; }
    ComparePane.-shorter #chart { display: none; }
    ComparePane.-empty #chart { display: none; }
    """

    def __init__(self, runs: tuple[str, ...]) -> None:
        super().__init__(f"compare {len(runs)} runs")
        self._runs = runs
        self._order = self.order
        self._topic: Topic = TOPICS[0]
        self._site: str | None = None
        self._drawings: dict[str, int] = {}
        self._found: Comparison | None = None
        self._shown_topic: Topic | None = None
        self._seen_ended = -1
        self._reading = False

    def compose(self) -> ComposeResult:
        yield TextBlock(id="about")
        yield ChartBox(id="chart")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=3, empty="", id="rows")
        table.add_class("panel", "ruled-top")
        yield table

    @property
    def hint(self) -> str:
        return self._topic.name

    @property
    def run_name(self) -> str | None:
        """The run under the cursor: what is gone to after `:` is a place of that one."""
        row: LayerRow | None = self.table.current if self.is_mounted else None
        return row.run if row is not None else None

    # reading

    def entered(self) -> None:
        lost = [name for name in self._runs if name not in self.hub.sessions]
        if self._found is None or self._seen_ended != self.hub.board.ended or lost:
            self.changed()
        else:
            self.draw_about()

    def changed(self) -> None:
        self._seen_ended = self.hub.board.ended
        self._reading = True
        self.draw_about()
        self.load("opened_runs", partial(self._open, dict(self.hub.sessions)), busy="opening the runs")

    def _open(self, known: dict[str, Session]) -> tuple[dict[str, Session], dict[str, str]]:
        """In a worker: those that were not open, and why the others cannot be."""
        opened, problems = {}, {}
        for name in self._runs:
            if name not in known:
                try:
                    opened[name] = self.hub.engine.open(name)
                except Exception as error:  # a damaged run is a line, and costs the others nothing
                    problems[name] = one_line(error)
        return opened, problems

    def show_opened_runs(self, answer: tuple[dict[str, Session], dict[str, str]]) -> None:
        opened, problems = answer
        for session in opened.values():
            self.hub.opened(session, show=False)
        if problems:
            name, why = next(iter(problems.items()))
            self.hub.say(f"{name} cannot be opened: {why}", "bad")
        sessions = {name: self.hub.sessions.get(name) for name in self._runs}
        self.load("compared", partial(self._compare, sessions), busy="comparing")

    def _compare(self, sessions: dict[str, Session | None]) -> Compared:
        """In a worker."""
        every = []
        for (name, session), sign in zip(sessions.items(), SIGNS, strict=False):
            if session is None:
                every.append(OfRun(name, sign, lacks="cannot be opened"))
            else:
                every.append(of_run(session, sign, self._topic, self._site))
        found = Comparison(self._topic, tuple(every))
        return Compared(found, self.sorted_rows(found))

    def show_compared(self, compared: Compared) -> None:
        other = self._shown_topic is not compared.comparison.topic
        self._found, self._reading, self._shown_topic = compared.comparison, False, compared.comparison.topic
        self.set_class(not compared.rows.total, "-empty")
        self.table.set_columns(self.columns())
        self.put_sorted(compared.rows)
        if other:
            self.table.move_to(0)
        self.draw_about()
        self._draw_chart()
        self.hub.update_trail()
        self.refresh_bindings()

    # rows

    def columns(self) -> list[Column]:
        return compare_columns(self._topic, self._runs, self.glyphs)

    def rows(self, analysis: Comparison) -> Sequence[LayerRow]:
        return analysis.rows

    def value(self, row: LayerRow, key: str) -> Any:
        return figure_of(row, key)

    def place(self, row: LayerRow) -> Any:
        return row.layer, row.sign

    def text(self, row: LayerRow) -> str:
        return row.run

    def named(self) -> dict[str, str]:
        return {"layer": "layer"}

    @property
    def sortable(self) -> Any:
        return self._found

    def reorder(self) -> None:
        found = self._found
        if self._reading or found is None:
            self.changed()
        else:
            self.load("compared", lambda: Compared(found, self.sorted_rows(found)), busy="sorting")

    def runs_without_result(self) -> tuple[str, ...]:
        return tuple(one.run for one in self._found.runs if one.can_be_made) if self._found is not None else ()

    def asked(self) -> tuple[Topic, str | None]:
        return self._topic, self._site

    def failed(self, what: str, line: str) -> None:
        super().failed(what, line)
        if what == "compared":
            self._reading = False

    # what is said above

    def draw_about(self) -> None:
        g, wide = self.glyphs, self.size.width >= 120
        tabs: list[Cell | str] = []
        for i, topic in enumerate(TOPICS):
            here = topic is self._topic
            name = f"[{topic.name}]" if here else topic.name
            tabs += [
                Cell(f"{i + 1} ", "bold"),
                Cell(f"{name}  " if wide else f"{name} ", "accent" if here else "dim"),
            ]
        rows: list[list[Cell | str]] = [tabs]
        if self._found is not None and self._found.topic is self._topic:
            there: list[Cell | str] = []
            for one in self._found.runs:
                if one.rows:
                    between = g.dot.center(3) if there else ""
                    there += [between, Cell(one.sign, "bold"), Cell(f" {one.run} {one.site}: {one.said}")]
            runs_without_result: list[Cell | str] = []
            for one in self._found.runs:
                if one.lacks:
                    why = "could not be made" if one.run in self._problems else one.lacks
                    runs_without_result.append(Cell(f"{'; ' if runs_without_result else ''}{one.run}: {why}", "warn"))
            if self.runs_without_result() and not self.under_way:
                runs_without_result += [Cell("  r", "bold"), " makes it"]
            few = f"{len(self.shown.rows):,} of {self.shown.total:,}"
            filtered = [Cell(f"  {few} where {self._filter}", "accent")] if self._filter else []
            rows += [row for row in ([*there, *filtered], runs_without_result) if row]
        state = self.hub.board.state(self.job_key)
        if state is not None:
            said = Cell("cancelling" if state.cancelled else state.line or "starting")
            since = cells.duration(state.seconds, g)
            rows.append(
                [
                    Cell(f"{self.job_key[1]} of {self.job_key[0]}, {since}: ", "dim"),
                    said,
                    Cell("  x", "bold"),
                    " cancels",
                ]
            )
        self.query_one("#about", TextBlock).put(cells.lines(rows))

    # the drawing

    @property
    def _measure(self) -> Measure:
        return self._topic.measures[self._drawings.get(self._topic.name, 0)]

    def on_resize(self) -> None:
        self.set_class(self.size.height >= 34, "-tall")

    def on_chart_box_resized(self) -> None:
        self._draw_chart()

    def on_paged_table_moved(self) -> None:
        self._draw_chart()

    def _draw_chart(self) -> None:
        size = self.query_one("#chart").content_size
        if self._found is not None and self._found.rows and size.width > 0:
            row: LayerRow | None = self.table.current
            plain = self.glyphs.crumb == ">"
            self.load("chart", partial(_chart, self._found, self._measure, row, size.width, size.height, plain))

    def show_chart(self, lines: tuple[str, ...]) -> None:
        self.query_one("#chart", ChartBox).put_drawing(lines, self.glyphs)

    # keys

    def action_topic(self, place: int) -> None:
        if TOPICS[place] is not self._topic:
            self._topic, self._found, self._problems = TOPICS[place], None, frozenset()
            self.reset_order()
            self.changed()

    def action_drawing(self) -> None:
        place = self._drawings.get(self._topic.name, 0)
        self._drawings[self._topic.name] = (place + 1) % len(self._topic.measures)
        self._draw_chart()

    def action_site(self) -> None:
        sessions = [self.hub.sessions[name] for name in self._runs if name in self.hub.sessions]
        common = [site for site in sessions[0].sites if all(site in s.sites for s in sessions)] if sessions else []
        order: list[str | None] = [None, *common] if len({s.default_site for s in sessions}) > 1 else [*common]
        if len(order) < 2:
            self.hub.say("the runs have no other site in common", "dim")
            return
        here = order.index(self._site) if self._site in order else 0
        self._site = order[(here + 1) % len(order)]
        self.hub.say(f"read at {self._site}" if self._site else "each at its own usual site", "dim")
        self.changed()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        row: LayerRow = message.row
        session = self.hub.sessions.get(row.run)
        if session is None:
            self.hub.say(f"{row.run} is no longer open", "warn")
            self.changed()
        else:
            self.hub.into(place("neurons", session, row.site, layer=row.layer), row.run)

    def action_copy(self) -> None:
        if self._found is None:
            return
        keys = ("depth", "run", "layer", "neurons", *(measure.key for measure in self._topic.measures))
        rows = [[figure_of(row, key) for key in keys] for row in self.shown.rows]
        self.hub.copy("\n".join("\t".join("" if x is None else str(x) for x in row) for row in [list(keys), *rows]))

    @property
    def export_name(self) -> str:
        return f"compare-{self._topic.name}.json"

    def exporter(self) -> Callable[[str], str] | None:
        return json_writer(self._found)


def _chart(
    found: Comparison, measure: Measure, row: LayerRow | None, width: int, height: int, plain: bool
) -> tuple[str, ...]:
    """In a worker. The run of the row under the cursor is drawn over the others."""
    from nfinspect.tui.widgets.plots import overlay

    def places(one: OfRun) -> tuple[tuple[float, float], ...]:
        pairs = ((layer.depth, layer.figures[measure.key]) for layer in one.rows)
        return tuple((depth, value) for depth, value in pairs if value is not None)

    runs = sorted(found.runs, key=lambda one: row is not None and one.run == row.run)
    here = row.figures.get(measure.key) if row is not None else None
    drawn = overlay(
        tuple((one.sign, places(one)) for one in runs if places(one)),
        (row.depth, here) if row is not None and here is not None else None,
        width,
        height - 1,
        plain,
        measure.unit == "count",
    )
    return (f"{measure.says}; X: row", *drawn)
