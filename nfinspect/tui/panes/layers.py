"""The layers of a run: how healthy each is, why, and what to do about it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from nfinspect.present.numbers import counted, fixed
from nfinspect.tui import cells, thresholds
from nfinspect.tui.cells import Cell, content, fit
from nfinspect.tui.columns.layers import explanation, layer_columns, tone_of
from nfinspect.tui.glyphs import level
from nfinspect.tui.panes.classed import ClassedPane
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect.tui.widgets.text_panel import TextPanel
from nfinspect_store.edits import edits_text

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.tui.session import Session


def _reading(report: NetworkReport) -> str:
    """The score in a word, which is about all layers together: most of them may have issues all the same."""
    told = report.problematic_layers and report.reading == "excellent"
    return f"{report.reading} on average" if told else report.reading


ABOVE, LEAST = 6, 8
"""Lines above the table without notes, and those that the reasons need."""

LETTERS = {"dead": "D", "saturated": "S", "sporadic": "P", "missing": "M", "weak": "W", "normal": ""}
"""The letter under a layer's block in the strip, so that the block's colour is not needed."""


class LayersPane(ClassedPane):
    """The strip, the table, and in words what the score of the layer under the cursor is made of."""

    help_text = (
        "A layer's score is 1 minus what its dead (x1), saturated (x0.75), missing (x0.5), weak and "
        "sporadic (x0.25) neurons take. The strip has one block per layer, as tall as its score; the "
        "letter below names its firing pattern: D dead, S saturated, P sporadic, M missing, W weak; a normal "
        "layer has its number there. T changes the thresholds of the classes until the app ends, and reset "
        "there restores them."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("S", "site", "Site", id="layers.site"),
        Binding("y", "copy", "Copy the report", show=False, id="layers.copy"),
        Binding("e", "export", "Export the report", show=False, id="layers.export"),
    ]

    DEFAULT_CSS = """
    LayersPane #score { height: auto; max-height: 6; padding: 0 1; }
    LayersPane #strip { height: auto; max-height: 6; padding: 0 1; }
    LayersPane #rest { layout: vertical; height: 1fr; }
    LayersPane #why { height: 8; }
    LayersPane.-short #why { height: 5; }
    LayersPane.-shorter #why { display: none; }
    LayersPane.-wide #rest { layout: horizontal; }
    LayersPane.-wide #layers { width: 94; }
    LayersPane.-wide #why { width: 1fr; height: 1fr; display: block; }
    """

    follows = True
    _report: NetworkReport | None = None
    _resume = ""
    """The command that goes on with the capture, if it has ended too soon and anybody knows."""

    _read_with: HealthOptions | None = None
    """The thresholds by which the report on screen is made."""

    def __init__(self, session: Session, site: str | None = None) -> None:
        edited = " (edited)" if edits_text(session.info.settings) else ""
        super().__init__(session.name + edited, session, site)

    def compose(self) -> ComposeResult:
        yield Headline(id="score")
        yield Headline(id="strip")
        with Container(id="rest"):
            table = PagedTable(
                layer_columns(self.glyphs), glyphs=self.glyphs, empty="no layers at this site", id="layers", frozen=1
            )
            table.add_class("panel")
            yield table
            yield TextPanel(id="why")

    @property
    def hint(self) -> str:
        s = self.session
        sites = f" of {len(s.sites)} sites" if len(s.sites) > 1 else ""
        return f"{cells.model_name(s.info.model)} {self.glyphs.dot} {self.site}{sites}"

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("health", self.session.name, *thresholds.arguments(self._read_with), *self.site_option)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "site" or len(self.session.sites) > 1

    def why_idle(self, action: str) -> str:
        match action:
            case "site":
                return f"this run has only one site: {self.site}"
        return super().why_idle(action)

    def on_resize(self) -> None:
        wide = self.size.width >= 130
        self.set_class(wide, "-wide")
        self.query_one("#why").set_class(not wide, "ruled-top").set_class(wide, "ruled-left")
        self._draw_score()
        self._draw_strip()
        self._share_lines()

    def _share_lines(self) -> None:
        """If there is room for all rows of the table, it takes no more, and the reasons below it have what is left."""
        rows = self.table.total + 1
        above = ABOVE + sum(-(-len(note) // max(1, self.size.width - 10)) for note in self._notes)
        below = self.table.total and not self.has_class("-wide") and not self.has_class("-shorter")
        few = bool(below) and rows + above + LEAST <= self.size.height
        self.table.styles.height = max(4, rows) if few else None
        self.query_one("#why").styles.height = "1fr" if few else None

    def entered(self) -> None:
        if self._report is None or self._read_with != self.session.thresholds:
            self._read()

    def _read(self, busy: str = "reading the layers") -> None:
        chosen = self.session.thresholds
        report = partial(self.session.health, self.site, chosen)
        self.load("health", report, partial(self._show, chosen), partial(self._failed, chosen), busy=busy)

    def read_again(self) -> None:
        self._read("")

    def thresholds_changed(self) -> None:
        self._read()

    def _failed(self, chosen: HealthOptions | None, line: str) -> None:
        self.say_failed(line)
        if self._report is not None and chosen != self._read_with:  # thresholds that leave nothing to count
            self.session.thresholds = self._read_with

    def _show(self, chosen: HealthOptions | None, report: NetworkReport) -> None:
        self._report, self._read_with = report, chosen
        if self.session.info.status != "complete" and not self.session.under_way:
            resume = partial(self.hub.engine.captures.resume_line, self.session.name)
            self.load("resume", resume, self._put_resume, lambda line: None)
        self._draw_score()
        self._draw_strip()
        self.table.put_rows(report.layer_analyses)
        self._share_lines()
        self._explain()
        self.hub.update_trail()
        self.load("warmed", self.session.warm_up, lambda nothing: None)

    def _put_resume(self, line: str) -> None:
        self._resume = line
        self._draw_score()

    @property
    def _notes(self) -> tuple[str, ...]:
        own = thresholds.told(self._read_with)
        notes = self._report.notes if self._report is not None else ()
        return (own, *notes) if own else notes

    def _draw_score(self) -> None:
        report = self._report
        if report is None:
            return
        g = self.glyphs
        p = report.parts
        s = self.session
        about = f"{s.info.status}, not all was captured {g.dot} " if s.info.status != "complete" else ""
        about = f"under way {g.dot} " if s.under_way else about
        about += f"approximate {g.dot} " if report.approximate else ""
        kept = "" if s.has_values else f" {g.dot} {s.values_kept}"
        self.query_one("#score", TextBlock).put(
            content(
                "Health ",
                Cell(
                    f"{fixed(report.overall_health_score)} {_reading(report)}",
                    tone_of(report.overall_health_score),
                ),
                f" = layers {fixed(p.mean_layer_score)} - {fixed(p.problematic_penalty)} problematic"
                f" - {fixed(p.degradation_penalty)} fall\n",
                *self._how_to_go_on(),
                *(piece for note in self._notes for piece in (Cell(note, "warn"), "\n")),
                Cell(
                    f"{about}{report.problematic_layers} of {report.total_layers} layers with issues {g.dot} "
                    f"{counted(s.prompts, 'prompt')} {g.dot} {counted(s.tokens, 'token')} {g.dot} "
                    f"{counted(len(s.concepts), 'concept')}{kept}",
                    "dim",
                ),
                *self._advice(report),
            )
        )

    def _how_to_go_on(self) -> list[Cell | str]:
        """Of a capture that has ended too soon, in a line: the live view has all of the command."""
        if not self._resume:
            return []
        line = f":live, then r goes on: $ {self._resume}"
        return [Cell(fit(line, max(10, self.size.width - 2), self.glyphs).rstrip(), "warn"), "\n"]

    def _advice(self, report: NetworkReport) -> list[Cell | str]:
        """The first recommendation in a line, where the panel that has all of them is small."""
        if not report.recommendations or self.has_class("-wide"):
            return []
        more = len(report.recommendations) - 1
        how = f" (+{more}: Tab, G)" if more and not self.has_class("-shorter") else ""
        room = max(10, self.size.width - 2 - cell_len(how) - 2)
        line = report.recommendations[0]
        line = fit(line, room, self.glyphs) if cell_len(line) > room else line
        return ["\n", Cell(f"{self.glyphs.crumb} {line}", "accent"), Cell(how, "dim")]

    def _draw_strip(self) -> None:
        if self._report is None:
            return
        g = self.glyphs
        width = max(10, self.size.width - 3)
        each = self._report.layer_analyses
        wide = 3 if len(each) * 3 <= width else 2 if len(each) * 2 <= width else 1
        pieces: list[Cell | str] = []
        per_row = width // wide
        for start in range(0, len(each), per_row):
            row = each[start : start + per_row]
            for layer in row:
                block = level(layer.health_score, g) * max(1, wide - 1)
                pieces.append(Cell(block.ljust(wide), tone_of(layer.health_score)))
            pieces.append("\n")
            for layer in row:
                letter = LETTERS.get(layer.firing_pattern, "?")
                number_here = str(layer.layer) if wide > 1 or layer.layer % 10 == 0 else g.dot
                pieces.append(Cell((letter or number_here)[:wide].ljust(wide), "bad" if letter else "dim"))
            pieces.append("\n")
        self.query_one("#strip", TextBlock).put(content(*pieces[:-1]))

    def _explain(self) -> None:
        report, layer = self._report, self.table.current
        if report is not None and layer is not None:
            self.query_one(TextPanel).put(explanation(report, layer, self.glyphs))

    # keys

    def on_paged_table_moved(self) -> None:
        self._explain()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        self.open_neurons(layer=message.row.layer)

    def action_site(self) -> None:
        if self.next_site():
            self._read()

    def action_copy(self) -> None:
        if self._report is not None:
            self.hub.copy(
                "\n".join(
                    (self._report.interpretation, self._report.summary, *self._report.notes, *self._report.alerts)
                )
            )

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-health.json", self._report)
