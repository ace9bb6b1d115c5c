"""The analyses of a run: what each answers, and whether it has a saved result."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.analyses import names, specs
from nfinspect.results import kept_line
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.commands import make_command
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.places import place
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import AnalysisSpec
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result


@dataclass(frozen=True)
class Row:
    """An analysis with its saved results, the run's first, and the command that computes it."""

    analysis: AnalysisSpec
    results: tuple[Result, ...]
    command: tuple[str, ...]


class AnalysesPane(RunPane):
    """One line for each analysis; below, the saved results of the one under the cursor, or how to compute it."""

    help_text = (
        "Long analyses keep their results in files next to the run, with the settings they were computed with. If "
        "there is none, r in the analysis' pane computes it: it runs the command that is shown here, in a process of "
        "its own. Analyses that need the model load it there, never in this app."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy", "Copy the command", id="analyses.copy"),
        Binding("S", "site", "Site", show=False, id="analyses.site"),
    ]

    DEFAULT_CSS = """
    AnalysesPane TextPanel { height: 1fr; }
    """

    def __init__(self, session: Session, site: str | None = None) -> None:
        super().__init__("analyses", session, site)

    def compose(self) -> ComposeResult:
        table = PagedTable(self._columns(), glyphs=self.glyphs, frozen=1, id="analyses")
        table.styles.height = len(names()) + 1  # with the heads of the columns
        yield table
        panel = TextPanel(id="kept")
        panel.add_class("ruled-top")
        yield panel

    @property
    def equivalent(self) -> tuple[str, ...]:
        """What lists the saved results."""
        return ("info", self.session.name, "--results")

    def _columns(self) -> list[Column]:
        g = self.glyphs

        def kept(row: Row, width: int) -> Cell:
            if self.hub.board.state((self.session.name, row.analysis.name)) is not None:
                return Cell("computing", "accent")
            if not row.analysis.result_kind:
                return Cell("from the others" if row.analysis.needs == "run" else "not kept", "dim")
            if not row.results:
                return Cell("needs every value" if self.session.why_not(row.analysis) else g.none, "dim")
            more = f" +{len(row.results) - 1}" if len(row.results) > 1 else ""
            return Cell(f"{row.results[0].made_at:%Y-%m-%d %H:%M}{more}", "good")

        return [
            Column("analysis", 9, lambda r, w: Cell(r.analysis.name, self._tone(r) or "bold")),
            Column("answers", 30, lambda r, w: Cell(r.analysis.answers, self._tone(r)), flex=True),
            Column("needs", 5, lambda r, w: Cell(r.analysis.needs, "dim")),
            Column("kept (UTC)", 19, kept),
        ]

    def _tone(self, row: Row) -> str:
        """Grey for an analysis that would refuse the run, and has no result."""
        return "dim" if not row.results and self.session.why_not(row.analysis) else ""

    def entered(self) -> None:
        model = self.hub.board.models.get(self.session.name, "")
        command = partial(
            make_command,
            session=self.session,
            store=self.hub.engine.store,
            site=self.site,
            model=model,
            marked=len(self.marks),
        )
        self.load("kept", partial(_rows, self.session, command), self._show, busy="looking for results")

    def _show(self, rows: tuple[Row, ...]) -> None:
        self.table.put_rows(rows)
        self._explain()

    def _explain(self) -> None:
        row: Row | None = self.table.current
        if row is None:
            return
        pieces: list[Cell | str] = [Cell(row.analysis.name, "title"), f": {row.analysis.answers}\n"]
        refused = self.session.why_not(row.analysis)
        if refused:
            pieces += [Cell(refused, "warn"), "\n"]
        elif row.analysis.of_neuron:
            kept = "" if row.analysis.result_kind else ", and not kept"
            pieces.append(f"Of one neuron at a time{kept}: a key in a neuron's pane, or Enter here.\n")
        elif not row.analysis.result_kind:
            pieces.append("Counted from the other analyses' results: Enter shows it.\n")
        for result in row.results:
            said = Cell(kept_line(result))
            pieces += [Cell(f"{result.made_at:%Y-%m-%d %H:%M}  ", "dim"), said, "\n"]
        if refused:
            self.query_one(TextPanel).put(content(*pieces))
            return
        if not row.results and row.analysis.result_kind:
            pieces.append("No result is kept. Enter, then r computes it by this command:\n")
        else:
            pieces += [Cell("computed by", "dim"), "\n"]
        pieces += [Cell(f"nfinspect {shlex.join(row.command)}", "accent")]
        self.query_one(TextPanel).put(content(*pieces))

    # keys

    def on_paged_table_moved(self) -> None:
        self._explain()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        name = message.row.analysis.name
        if not message.row.results and (refused := self.session.why_not(message.row.analysis)):
            self.hub.say(refused, "warn")
        elif message.row.analysis.of_neuron:
            marked = next(iter(self.marks), None)
            first = str(self.address(*marked)) if marked else "L0/N0"
            self.hub.ask(self, "neuron", f"{name} of", partial(self._of_neuron, name), first)
        else:
            self.hub.into(place(name, self.session, self.site), self.session.name)

    def _of_neuron(self, name: str, text: str) -> None:
        if text:
            from nfinspect.tui.navigate import go_to
            from nfinspect_store.errors import RequestError

            try:
                go_to(self.hub, f"{name} {text}")
            except RequestError as error:
                self.hub.say(str(error), "bad")

    def action_analyses(self) -> None:
        """This is the place already."""

    def other_job_ended(self) -> None:
        self.entered()

    def action_site(self) -> None:
        if self.next_site():
            self.hub.update_trail()
            self.entered()

    def action_copy(self) -> None:
        if (row := self.table.current) is not None:
            self.hub.copy(f"nfinspect {shlex.join(row.command)}")


def _rows(session: Session, command: Callable[..., tuple[str, ...]]) -> tuple[Row, ...]:
    """Called in a worker. command: gives an analysis' command by its name and the choices."""
    kept = session.results()
    return tuple(
        Row(
            one,
            tuple(result for result in kept if result.kind == one.result_kind),
            command(one.name, choices=("L0/N0",) if one.of_neuron else ()),
        )
        for one in specs()
    )
