"""What the panes of the analyses share: the kept result, the command that makes one, the drawing, the neurons.

A pane shows the newest kept result that fits its choices, and reaches the earlier ones. Where there is none it says how
to make one; `r` has the command carried out in a process of its own (jobs), and the pane shows how far it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.analyses import spec
from nfinspect.analysis.provenance import NOT_OF_THE_RUN
from nfinspect.present.numbers import duration
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.listing import Arranged, Listing
from nfinspect.tui.panes.base import CANCELLED, arranging_keys
from nfinspect.tui.panes.command import AnalysisCommand
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.panes.sorted_rows import ACTIONS, SortedRows
from nfinspect.tui.requests import JobState
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result

Draw = Callable[[Any, Any, int, int, bool], tuple[str, ...]]
"""The analysis, the row under the cursor, width, height, ASCII only -> lines. Called in a worker."""


@dataclass(frozen=True)
class Drawing:
    """One way to draw an analysis. `follows`: it is about the row under the cursor."""

    name: str
    draw: Draw
    follows: bool = False


@dataclass(frozen=True)
class Found:
    """What a worker has read: the fitting results, the chosen one as an analysis, its rows, the command for one."""

    results: tuple[Result, ...]
    place: int
    analysis: Any
    command: tuple[str, ...]
    rows: Arranged | None = None

    @property
    def result(self) -> Result | None:
        return self.results[self.place] if self.results else None

    @property
    def key(self) -> tuple[Path, dt.datetime] | None:
        """What tells one result from another: documents can be long."""
        return (self.result.path, self.result.made_at) if self.result is not None else None


class AnalysisPane(RunPane):
    """A table of neurons (or of sets of them), a drawing above it, and above that what was asked and what was found."""

    command_name: str
    """Of the analysis that this is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "make", "Make", id="analysis.make"),
        Binding("R", "make_edited", "Edit the command", show=False, id="analysis.edit"),
        Binding("x", "cancel", "Cancel", id="analysis.cancel"),
        *arranging_keys("analysis", before="sort_before"),
        Binding("c", "drawing", "Drawing", id="analysis.drawing"),
        Binding("less_than_sign", "kept(1)", "Earlier result", key_display="<", show=False, id="analysis.earlier"),
        Binding("greater_than_sign", "kept(-1)", "Later result", key_display=">", show=False, id="analysis.later"),
        Binding("S", "site", "Site", show=False, id="analysis.site"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="analysis.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="analysis.marked"),
        Binding("y", "copy", "Copy", show=False, id="analysis.copy"),
        Binding("e", "export", "Export", show=False, id="analysis.export"),
    ]

    DEFAULT_CSS = """
    AnalysisPane #about { height: auto; max-height: 6; padding: 0 1; }
    AnalysisPane #chart { height: 10; }
    AnalysisPane.-tall #chart { height: 18; }
    AnalysisPane.-short #chart { height: 7; }
    AnalysisPane.-shorter #about { max-height: 4; }
    AnalysisPane.-shorter #chart { display: none; }
    AnalysisPane.-empty #chart { display: none; }
    """

    first_focus = "#rows"
    _found: Found | None = None
    _place = 0
    _drawing = 0
    _seen_ended = -1
    _reading = _from_top = False
    _made: Path | None = None
    """The result that was just made: shown next, whichever stands first."""

    _damaged = False
    """Whether there is a kept result that cannot be read: it has to be made again."""

    def __init__(self, session: Session, site: str | None = None, *, job: str | None = None) -> None:
        """job: the name of its commands on the board, if they are not all of the analysis."""
        super().__init__(self.command_name, session, site)
        self.rows = SortedRows(self, self.listing, self.columns, self.reorder)
        self.command = AnalysisCommand(
            self,
            self.command_name,
            job or self.command_name,
            options=self.options,
            remakes=lambda: self.has_result,
            draw=self.draw_about,
            made=self.show_made,
        )

    def compose(self) -> ComposeResult:
        yield TextBlock(id="about")
        yield ChartBox(id="chart")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=1, empty="", id="rows")
        table.add_class("panel", "ruled-top")
        table.marked = self.is_marked
        yield table

    # what each analysis says for itself

    # Functions for workers hold the choices as they are when they are asked for, and no pane.

    def columns(self) -> list[Column]:
        raise NotImplementedError

    def listing(self) -> Listing:
        """What the rows of an analysis are."""
        raise NotImplementedError

    def options(self) -> tuple[str, ...]:
        """The choices as options of the command."""
        return ()

    def fits(self) -> Callable[[Result], bool]:
        """For a worker: whether a kept result is what this pane's choices ask for."""
        site = self.site
        return lambda result: result.settings.get("site") == site

    def adopt(self, result: Result) -> None:
        """Make the choices those of a result that was just made."""
        self.site = str(result.settings.get("site") or self.site)

    def reader(self) -> Callable[[Result], Any]:
        """For a worker: the analysis that a kept result holds."""
        raise NotImplementedError

    def finder(self) -> Callable[[], Found]:
        """For a worker: what finds and reads the result that the choices ask for."""
        made, self._made = self._made, None
        return partial(
            _find, self.command.kept, self.fits(), self._place, made, self.reader(), self.rows.arranger(),
            self.command.asked(),
        )  # fmt: skip

    def choices(self) -> list[Cell | str]:
        """The choices, the key of each in front of it."""
        return []

    def facts(self, analysis: Any) -> str:
        """What was found, in one line."""
        raise NotImplementedError

    def note(self, analysis: Any) -> str:
        """What the user should beware of; empty where there is nothing."""
        return ""

    def neurons_of(self, row: Any) -> tuple[tuple[int, int], ...]:
        """The neurons that a row is about."""
        return ((row.layer, row.neuron),)

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return ()

    # reading

    def entered(self) -> None:
        self.table.refresh()  # marks may have changed elsewhere
        if self._seen_ended != self.hub.board.ended or self.analysis is None:
            self.command.problem = ""  # of reading, which is tried again
            self._look()
        else:
            self.draw_about()
        if self.command.problem:
            self.hub.say(self.command.problem, "bad")

    def changed(self) -> None:
        """A choice was made, or a command has ended."""
        if self.command.problem:  # the status line says it, too
            self.hub.say("")
        self.command.forget_problem()
        self._look()

    def _look(self) -> None:
        self._seen_ended = self.hub.board.ended
        self._reading = True
        self.draw_about()
        self.load("found", self.finder(), self.show_found, self._not_found, busy="reading the kept result")

    def reorder(self) -> None:
        found, self._from_top = self._found, True
        if self._reading or found is None:
            self.changed()
        else:  # in the same group as reading: whichever was asked for last is shown
            arranged = partial(_arranged_again, found, self.rows.arranger())
            self.load("found", arranged, self.show_found, self._not_found, busy="sorting")

    def show_found(self, found: Found) -> None:
        before = self._found.key if self._found is not None else None
        self._found, self._place, self._damaged, self._reading = found, found.place, False, False
        self.set_class(found.analysis is None, "-empty")
        self.table.set_columns(self.columns())
        self.rows.put(found.rows)
        if found.key != before or self._from_top:
            self.table.move_to(0)
        self._from_top = False
        self.draw_about()
        self._draw_chart()
        self.hub.update_trail()
        self.refresh_bindings()

    def _not_found(self, line: str) -> None:
        self.say_failed(line)
        self._found, self._damaged, self.command.problem, self._reading = None, line != CANCELLED, line, False
        self.add_class("-empty")
        self.rows.put(None)
        self.draw_about()

    def show_made(self, results: tuple[Result, ...]) -> None:
        """What was kept is shown, whatever the choices were."""
        self._place = 0
        if results:
            newest = max(results, key=lambda result: result.made_at)
            self._made = newest.path
            self.adopt(newest)
        self.changed()

    @property
    def has_result(self) -> bool:
        """Whether what is kept already is to be made again."""
        return self._damaged or (self._found is not None and self._found.result is not None)

    @property
    def analysis(self) -> Any:
        return self._found.analysis if self._found is not None else None

    # what is said above

    def draw_about(self) -> None:
        """The choices, what was found or how to make it, and how far a command is."""
        g, found = self.glyphs, self._found
        rows: list[list[Cell | str]] = []
        state = self.command.runner.state
        shown = self._drawing_now()
        first = self.choices()
        if shown is not None and len(self.drawings(self.analysis)) > 1:
            first += [Cell("  c " if first else "c ", "bold"), Cell(shown.name, "accent")]
        wide = self.size.width >= 100
        if found is not None and found.result is not None:
            made = f"{'  ' if first else ''}kept {found.result.made_at:%Y-%m-%d %H:%M}{' UTC' if wide else ''}"
            which = (
                f"{', ' if wide else ' '}{found.place + 1} of {len(found.results)}" if len(found.results) > 1 else ""
            )
            first.append(Cell(made + which, "dim"))
            if which:
                first += [Cell(" < >", "bold")]
            if found.result.run_id is None:
                first.append(Cell(f"  {NOT_OF_THE_RUN}", "warn"))
        if self.rows.said:
            first.append(Cell(f"  {self.rows.said}", "accent"))
        if first:
            rows.append(first)
        if found is not None and found.analysis is not None:
            note = self.note(found.analysis)
            beware = [Cell(f"  ({note})", "warn")] if note else []
            rows.append([Cell(self.facts(found.analysis)), *beware])
        elif found is not None and state is None:
            how = (Cell("  r", "bold"), " makes it, ", Cell("R", "bold"), " edits this first:")
            rows.append([self.nothing(), *how])
            rows.append([Cell(f"nfinspect {shlex.join(found.command)}", "accent")])
        if state is not None:
            beginning = "loading the model" if spec(self.command_name).needs == "model" else "starting"
            said = Cell("cancelling" if state.cancelled else state.line or beginning)
            since = duration(state.seconds, g)
            cancel = () if state.cancelled else (Cell("  x", "bold"), " cancels")
            rows.append([Cell(f"making it, {since}: ", "dim"), said, *cancel])
        elif self.command.problem:
            rows.append([Cell("! " + self.command.problem, "bad")])
        self.query_one("#about", TextBlock).put(cells.lines(rows))

    def nothing(self) -> str:
        return "No result is kept for this yet."

    # the drawing

    def _drawing_now(self) -> Drawing | None:
        every = self.drawings(self.analysis) if self.analysis is not None else ()
        return every[self._drawing % len(every)] if every else None

    def on_chart_box_resized(self) -> None:
        self._draw_chart()

    def _draw_chart(self) -> None:
        drawing, size = self._drawing_now(), self.query_one("#chart").content_size
        if drawing is not None and size.width > 0 and self.analysis is not None:
            plain = self.glyphs.plain
            row = self.table.current if drawing.follows else None
            chart = partial(drawing.draw, self.analysis, row, size.width, size.height, plain)
            self.load("chart", chart, self._put_chart)

    def _put_chart(self, lines: tuple[str, ...]) -> None:
        self.query_one("#chart", ChartBox).put_drawing(lines, self.glyphs)

    def action_drawing(self) -> None:
        every = self.drawings(self.analysis) if self.analysis is not None else ()
        if len(every) > 1:
            self._drawing = (self._drawing + 1) % len(every)
            self.draw_about()
            self._draw_chart()

    def on_paged_table_moved(self) -> None:
        drawing = self._drawing_now()
        if drawing is not None and drawing.follows:
            self._draw_chart()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "drawing":
            return self.analysis is not None and len(self.drawings(self.analysis)) > 1
        if action == "cancel":
            return self.command.runner.state is not None
        return action not in ACTIONS or self.rows.sortable

    # the command

    def job_news(self, state: JobState) -> None:
        self.command.news(state)

    def cancel_work(self) -> bool:
        return self.command.runner.cancel() or super().cancel_work()

    def action_make(self) -> None:
        self.command.make()

    def action_make_edited(self) -> None:
        self.command.edit()

    def action_cancel(self) -> None:
        self.command.runner.cancel()

    # keys

    def action_filter(self) -> None:
        self.rows.ask_filter()

    def action_sort(self) -> None:
        self.rows.ask_order()

    def action_sort_step(self, step: int) -> None:
        self.rows.step(step)

    def action_invert(self) -> None:
        self.rows.invert()

    def action_kept(self, step: int) -> None:
        count = len(self._found.results) if self._found is not None else 0
        if 0 <= self._place + step < count:
            self._place += step
            self.changed()
        else:
            self.hub.say("no earlier result is kept" if step > 0 else "no later result is kept", "dim")

    def action_site(self) -> None:
        if self.next_site():
            self._place = 0
            self.changed()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        self.open_row()

    def open_row(self) -> None:
        """To the neuron under the cursor, or the first of the set; J and K go along all of the table's."""
        every = [self.neurons_of(row) for row in self.rows.current]
        around = tuple(neuron for row in every for neuron in row)
        row = sum(len(neurons) for neurons in every[: self.table.cursor])
        if every[self.table.cursor]:
            self.open_neuron(*around[row], around=around, row=row)
        else:
            self.hub.say(f"there is no neuron of {self.site} in this row", "dim")

    def is_marked(self, row: Any) -> bool:
        neurons = self.neurons_of(row)
        return bool(neurons) and all(neuron in self.marks for neuron in neurons)

    def action_mark(self) -> None:
        if (row := self.table.current) is not None:
            self.mark_row(self.table, *self.neurons_of(row))

    def action_copy(self) -> None:
        neurons = [neuron for row in self.rows.current for neuron in self.neurons_of(row)]
        if neurons:
            self.hub.copy("\n".join(str(self.address(*neuron)) for neuron in neurons))
        elif self._found is not None:
            self.hub.copy(f"nfinspect {shlex.join(self._found.command)}")

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-{self.command_name}.json", self.analysis)


def _find(
    kept: Callable[[], tuple[Result, ...]],
    fits: Callable[[Result], bool],
    place: int,
    made: Path | None,
    read: Callable[[Result], Any],
    arrange: Callable[[Any], Arranged],
    command: Callable[[], tuple[str, ...]],
) -> Found:
    """In a worker. place: of the result among those that fit; made: the path of the one that is wanted, if there is."""

    def may_fit(result: Result) -> bool:
        try:
            return fits(result)
        except (KeyError, TypeError):  # of another version: reading it says so
            return True

    results = tuple(result for result in kept() if may_fit(result))
    paths = [result.path for result in results]
    place = paths.index(made) if made in paths else max(0, min(place, len(results) - 1))
    if not results:
        return Found(results, place, None, command())
    analysis = read_result(read, results[place])
    return Found(results, place, analysis, command(), arrange(analysis))


def read_result(read: Callable[[Result], Any], result: Result) -> Any:
    """In a worker. Raises StoreError for a result that cannot be read, as of another version."""
    from nfinspect_store.errors import StoreError

    try:
        return read(result)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{result.path.name} is of another version of nfinspect: r recomputes it") from error


def _arranged_again(found: Found, arrange: Callable[[Any], Arranged]) -> Found:
    """In a worker."""
    return replace(found, rows=arrange(found.analysis))
