"""The pane of an analysis: the saved result, the command that computes one, the drawing, the neurons.

A pane shows the newest saved result that fits its choices, and reaches the earlier ones. If there is none it says how
to compute one; `r` runs the command in a process of its own (jobs), and the pane shows how far it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.analyses import spec
from nfinspect.analyses.analysis_spec import Shown, made_with, option_words, part
from nfinspect.analysis.provenance import NOT_OF_THE_RUN
from nfinspect.present.numbers import duration
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.fields import field_column
from nfinspect.tui.commands import incomplete
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.base import CANCELLED, arranging_keys
from nfinspect.tui.panes.command import AnalysisCommand
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.found import Found, arranged_again, find, fits
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.panes.sorted_rows import ACTIONS, SortedRows, SortingKeys
from nfinspect.tui.plot_lines import plot_lines
from nfinspect.tui.requests import JobState
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from pathlib import Path

    from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, Options, RowSet
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result


class AnalysisPane(SortingKeys, RunPane):
    """A table of neurons (or of sets of them), a drawing above it, and above that what was asked and what was found.

    The analysis' spec defines all of it. Its variants have digit keys, and each a result of its own; `d` goes to the
    next of its lists.
    """

    spec: ClassVar[AnalysisSpec]

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
    idle: ClassVar[Mapping[str, str]] = {
        "cancel": "nothing is being computed here; :lab leads to the lab",
        "drawing": "there is no other drawing",
    }
    _found: Found | None = None
    _place = 0
    _drawing = 0
    _seen_ended = -1
    _reading = _from_top = False
    _variant = _list = 0
    _on_screen = 0
    """The list whose rows are in the table: another one may have been asked for."""

    _made: Path | None = None
    """The result that was just computed: it is shown next, whichever comes first."""

    _damaged = False
    """Whether there is a saved result that cannot be read: it has to be recomputed."""

    def __init__(self, session: Session, site: str | None = None, *, job: str | None = None) -> None:
        """job: the name of its command on the board, if that is not the analysis'."""
        name = self.spec.name
        super().__init__(name, session, self.spec.site if self.spec.site in session.sites else site)
        self.rows = SortedRows(self, self.listing, self.columns, self.reorder)
        self.command = AnalysisCommand(
            self,
            name,
            job or name,
            options=self.options,
            remakes=lambda: self.has_result,
            draw=self.draw_about,
            made=self.show_made,
        )

    def compose(self) -> ComposeResult:
        yield Headline(id="about")
        yield ChartBox(id="chart")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=1, empty="", id="rows")
        table.add_class("panel", "ruled-top")
        table.marked = self.is_marked
        yield table

    @property
    def equivalent(self) -> tuple[str, ...]:
        """What computes the analysis, or prints its saved result."""
        command = self._found.command if self._found is not None else ()
        return () if incomplete(command) else command

    # which list

    @property
    def _rows_of(self) -> RowSet:
        return self.spec.lists[self._list]

    def _fields(self) -> Sequence[Field]:
        return self._rows_of.fields(self.analysis)

    # Functions for workers hold the choices of the moment in which they are asked for, and no pane.

    def columns(self) -> list[Column]:
        return [field_column(field, self.glyphs) for field in self._fields()]

    def listing(self) -> Listing:
        rows, fields = self._rows_of, {field.key: field for field in self._fields()}
        named = rows.named

        def value(row: Any, key: str) -> Any:
            if key in named:  # of the row itself, whatever a column of that name shows
                return part(row, key)
            return fields[key].of(row) if key in fields else None

        return Listing(
            rows=rows.rows,
            value=value,
            text=rows.searched,
            place=lambda row: tuple(part(row, name) for name in named),
            ascending=lambda key: key in named or (key in fields and fields[key].ascending),
            named=named,
            order=rows.order,
            empty=rows.empty,
        )

    def neurons_of(self, row: Any) -> tuple[tuple[int, int], ...]:
        """The neurons that a row is about."""
        if self.analysis is None:
            return ()
        shown = Shown(self.session.layers, self.site, self.site == self.session.default_site)
        return self.spec.lists[self._on_screen].neurons(row, self.analysis, shown)

    def action_list(self) -> None:
        there = [i for i, one in enumerate(self.spec.lists) if self.analysis is None or one.there(self.analysis)]
        before = self._fields()
        self._list = next((i for i in there if i > self._list), there[0])
        if tuple(self._fields()) != tuple(before):
            self.rows.reset()
        self.draw_about()
        self.reorder()

    # which result

    @property
    def _options(self) -> Options:
        return self.spec.every_variant()[self._variant].options

    def fits(self) -> Callable[[Result], bool]:
        """For a worker: whether a saved result is what the choices ask for."""
        if not self.spec.sited:
            return lambda result: True
        sizes = {layer.layer: layer.neurons for layer in self.session.layers if layer.site == self.site}
        return partial(fits, self._options, self.site, sizes)

    def adopt(self, result: Result) -> None:
        """Take over the choices of a result that was just computed."""
        site = str(result.document["site"]) if self.spec.sited else self.site
        self.site = site if site in self.session.sites else self.site
        for i, variant in enumerate(self.spec.variants):
            if made_with(result, variant.options):
                self._variant = i

    def reader(self) -> Callable[[Result], Any]:
        """For a worker: reads the analysis from a saved result."""
        return partial(self.session.analysis, self.spec)

    def options(self) -> tuple[str, ...]:
        """The choices as options of the command."""
        return option_words(self._options)

    def finder(self) -> Callable[[], Found]:
        """For a worker: finds and reads the result that the choices ask for."""
        made, self._made = self._made, None
        return partial(
            find, self.command.kept, self.fits(), self._place, made, self.reader(), self.rows.arranger(),
            self.command.asked(),
        )  # fmt: skip

    # reading

    def entered(self) -> None:
        self.table.refresh()  # marks may have changed elsewhere
        if self._seen_ended != self.hub.board.ended or self.analysis is None:
            self.command.problem = ""  # the one of reading, which is tried again
            self._look()
        else:
            self.draw_about()
        if self.command.problem:
            self.hub.say(self.command.problem, "bad")

    def changed(self) -> None:
        """A choice was made, or a command has ended."""
        if self.command.problem:  # the status line says it, too
            self.hub.say("")
        self.command.choices_changed()
        self._look()

    def _look(self) -> None:
        self._seen_ended = self.hub.board.ended
        self._reading = True
        self.draw_about()
        self.load("found", self.finder(), self.show_found, self._not_found, busy="reading the result")

    def reorder(self) -> None:
        found, self._from_top = self._found, True
        if self._reading or found is None:
            self.changed()
        else:  # in the same group as reading: whichever was asked for last is shown
            arranged = partial(arranged_again, found, self.rows.arranger())
            self.load("found", arranged, self.show_found, self._not_found, busy="sorting")

    def show_found(self, found: Found) -> None:
        before = self._found.key if self._found is not None else None
        self._found, self._place, self._damaged, self._reading = found, found.place, False, False
        self._on_screen = self._list
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
        """Show what was saved, whatever the choices were."""
        self._place = 0
        if results:
            newest = max(results, key=lambda result: result.made_at)
            self._made = newest.path
            self.adopt(newest)
        self.changed()

    @property
    def has_result(self) -> bool:
        """Whether there is a saved result, which is then recomputed."""
        return self._damaged or (self._found is not None and self._found.result is not None)

    @property
    def analysis(self) -> Any:
        return self._found.analysis if self._found is not None else None

    # the lines above

    def choices(self) -> list[Cell | str]:
        """The choices, each after its key."""
        pieces: list[Cell | str] = []
        for key, variant in enumerate(self.spec.variants):
            here = key == self._variant
            word = f"[{variant.name}] " if here else f"{variant.name} "
            pieces += [Cell(f"{key + 1} ", "bold"), Cell(word, "accent" if here else "dim")]
        if len(self.spec.lists) > 1:
            pieces += [Cell("d ", "bold"), Cell(self._rows_of.name, "accent")]
        return pieces

    def facts(self, analysis: Any) -> str:
        """What was found, in one line."""
        return self.spec.sentence(analysis, self._found.result if self._found is not None else None)

    def note(self, analysis: Any) -> str:
        """What the user should beware of; empty if there is nothing."""
        offered = self.spec.offers(analysis)
        of_run = self.session.value_notes if self.spec.needs == "run" else ()
        return "; ".join(
            (*of_run, *self.spec.notes(analysis), *((f"R, then {offered}, lists them",) if offered else ()))
        )

    def drawings(self) -> list[Drawing]:
        found = self.analysis
        return [one for one in self.spec.drawings if found is not None and one.there(found)]

    def draw_about(self) -> None:
        """The choices, what was found or how to compute it, and how far a command is."""
        g, found = self.glyphs, self._found
        rows: list[list[Cell | str]] = []
        state = self.command.runner.state
        shown = self._drawing_now()
        first = self.choices()
        if shown is not None and len(self.drawings()) > 1:
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
        elif found is not None and (refused := self.session.why_not(self.spec)):
            rows.append([Cell(refused, "warn")])
        elif found is not None and state is None:
            how = (Cell("  r", "bold"), " computes it, ", Cell("R", "bold"), " edits this first:")
            rows.append([self.nothing(), *how])
            rows.append([Cell(f"nfinspect {shlex.join(found.command)}", "accent")])
        if state is not None:
            beginning = "loading the model" if self.spec.needs == "model" else "starting"
            said = Cell("cancelling" if state.cancelled else state.line or beginning)
            since = duration(state.seconds, g)
            cancel = () if state.cancelled else (Cell("  x", "bold"), " cancels")
            rows.append([Cell(f"computing, {since}: ", "dim"), said, *cancel])
        elif self.command.problem:
            rows.append([Cell("! " + self.command.problem, "bad")])
        self.query_one("#about", TextBlock).put(cells.lines(rows))

    def nothing(self) -> str:
        return "No result is kept for this yet."

    # the drawing

    def _drawing_now(self) -> Drawing | None:
        every = self.drawings()
        return every[self._drawing % len(every)] if every else None

    def on_chart_box_resized(self) -> None:
        self._draw_chart()

    def _draw_chart(self) -> None:
        drawing, size = self._drawing_now(), self.query_one("#chart").content_size
        if drawing is not None and size.width > 0 and self.analysis is not None:
            plain = self.glyphs.plain
            row = self.table.current if drawing.follows else None
            chart = partial(plot_lines, drawing.plot, self.analysis, row, size.width, size.height, plain)
            self.load("chart", chart, self._put_chart)

    def _put_chart(self, lines: tuple[str, ...]) -> None:
        self.query_one("#chart", ChartBox).put_drawing(lines[0], lines[1:], self.glyphs)

    def action_drawing(self) -> None:
        every = self.drawings()
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
            return len(self.drawings()) > 1
        if action == "cancel":
            return self.command.runner.state is not None
        if action in ("make", "make_edited"):
            return not self.session.why_not(self.spec)
        return action not in ACTIONS or self.rows.sortable

    def why_idle(self, action: str) -> str:
        if action in ("make", "make_edited"):
            return self.session.why_not(self.spec)
        return super().why_idle(action)

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

    def action_variant(self, place: int) -> None:
        self._variant, self._place = place, 0
        self.changed()

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
        return json_export(f"{self.session.name}-{self.spec.name}.json", self.analysis, self.rows.not_told)


@cache
def pane_of(name: str) -> type[AnalysisPane]:
    """The pane of an analysis, with its own keys: a digit for each variant, `d` if there are several lists."""
    one = spec(name)
    keys: list[BindingType] = [
        Binding(str(i + 1), f"variant({i})", variant.name.capitalize(), id=f"{name}.{variant.name}")
        for i, variant in enumerate(one.variants)
    ]
    if len(one.lists) > 1:
        keys.append(Binding("d", "list", "List", id=f"{name}.list"))
    own = {"spec": one, "help_text": one.explains, "BINDINGS": keys}
    return type(f"{name.capitalize()}Pane", (AnalysisPane,), own)
