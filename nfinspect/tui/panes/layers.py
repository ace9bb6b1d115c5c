"""The layers of a run: how healthy each is, why, and what to do about it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from nfinspect.tui import cells
from nfinspect.tui.cells import Cell, content, foreign, number, percent
from nfinspect.tui.engine import CLASSES, Session
from nfinspect.tui.glyphs import level
from nfinspect.tui.panes.of_run import RunPane
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.analysis.health import LayerHealth, NetworkReport

LETTERS = {"dead": "D", "saturated": "S", "sporadic": "P", "missing": "M", "weak": "W", "normal": ""}
"""What stands under a layer's block in the strip, so that the block's colour is not needed."""

WEIGHTS = {"dead": "1", "saturated": "0.75", "sporadic": "0.25", "missing": "0.5", "weak": "0.25"}


def tone_of(score: float) -> str:
    return "good" if score >= 0.8 else "warn" if score >= 0.4 else "bad"


class LayersPane(RunPane):
    """The strip, the table, and in words what the score of the layer under the cursor is made of."""

    help_text = (
        "A layer's score is 1 minus what its dead (x1), saturated (x0.75), missing (x0.5), weak and "
        "sporadic (x0.25) neurons take. The strip has one block per layer, as tall as its score; the "
        "letter below names the firing pattern: D dead, S saturated, P sporadic, M missing, W weak."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("S", "site", "Site", id="layers.site"),
        Binding("y", "copy", "Copy the report", show=False, id="layers.copy"),
        Binding("e", "export", "Export the report", show=False, id="layers.export"),
    ]

    DEFAULT_CSS = """
    LayersPane #score { height: 2; padding: 0 1; }
    LayersPane #strip { height: auto; max-height: 6; padding: 0 1; }
    LayersPane #rest { layout: vertical; height: 1fr; }
    LayersPane #why { height: 8; }
    LayersPane.-wide #rest { layout: horizontal; }
    LayersPane.-wide #layers { width: 94; }
    LayersPane.-wide #why { width: 1fr; height: 1fr; }
    """

    _report: NetworkReport | None = None

    def __init__(self, session: Session, site: str | None = None) -> None:
        super().__init__(session.name, session, site)

    def compose(self) -> ComposeResult:
        yield TextBlock(id="score")
        yield TextBlock(id="strip")
        with Container(id="rest"):
            table = PagedTable(
                self._columns(), glyphs=self.glyphs, empty="no layers at this site", id="layers", frozen=1
            )
            table.add_class("panel")
            yield table
            yield TextPanel(id="why")

    def _columns(self) -> list[Column]:
        g = self.glyphs

        def of_class(name: str, title: str) -> Column:
            def cell(layer: LayerHealth, width: int) -> Cell:
                held = layer.count(name)
                return Cell(
                    cells.count(held, g) if held else g.dot,
                    "bad" if layer.has_issue(name) else "" if held else "dim",
                )

            return Column(title, 5, cell, "right")

        def issues(layer: LayerHealth, width: int) -> Cell:
            names = ", ".join(issue.split(":")[0] for issue in layer.issues)
            return Cell(names or "none", "bad" if names else "dim")

        return [
            Column("layer", 5, lambda r, w: Cell(f"L{r.layer}", "bold")),
            Column("score", 5, lambda r, w: Cell(f"{r.health_score:.3f}", tone_of(r.health_score)), "right"),
            Column(
                "pattern",
                9,
                lambda r, w: Cell(r.firing_pattern, "" if r.firing_pattern == "normal" else "warn"),
            ),
            Column("active", 6, lambda r, w: Cell(percent(r.activation_rate, g)), "right"),
            *(
                of_class(name, title)
                for name, title in (
                    ("dead", "dead"),
                    ("saturated", "satur"),
                    ("sporadic", "spor."),
                    ("missing", "miss."),
                    ("weak", "weak"),
                )
            ),
            Column("neurons", 7, lambda r, w: Cell(cells.count(r.neurons, g)), "right"),
            Column("issues", 9, issues, flex=True),
        ]

    @property
    def table(self) -> PagedTable:
        return self.query_one(PagedTable)

    @property
    def hint(self) -> str:
        s = self.session
        sites = f" of {len(s.sites)} sites" if len(s.sites) > 1 else ""
        return f"{cells.model_name(s.info.model)} {self.glyphs.dot} {self.site}{sites}"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "site" or len(self.session.sites) > 1

    def on_resize(self) -> None:
        wide = self.size.width >= 130
        self.set_class(wide, "-wide")
        self.query_one("#why").set_class(not wide, "ruled-top").set_class(wide, "ruled-left")
        self._draw_strip()

    def entered(self) -> None:
        if self._report is None:
            self._read()

    def _read(self) -> None:
        self.load("health", partial(self.session.health, self.site), busy="reading the layers")

    def show_health(self, report: NetworkReport) -> None:
        self._report = report
        g = self.glyphs
        p = report.parts
        s = self.session
        about = f"approximate {g.dot} " if report.approximate else ""
        kept = "" if s.has_values else f" {g.dot} statistics only"
        self.query_one("#score", TextBlock).put(
            content(
                "Health ",
                Cell(
                    f"{report.overall_health_score:.3f} {report.reading}",
                    tone_of(report.overall_health_score),
                ),
                f" = layers {p.mean_layer_score:.3f} - {p.problematic_penalty:.3f} problematic"
                f" - {p.degradation_penalty:.3f} fall\n",
                Cell(
                    f"{about}{report.problematic_layers} of {report.total_layers} layers with issues {g.dot} "
                    f"{s.prompts:,} prompts {g.dot} {s.tokens:,} tokens {g.dot} "
                    f"{len(s.concepts)} concepts{kept}",
                    "dim",
                ),
            )
        )
        self._draw_strip()
        self.table.put_rows(report.layer_analyses)
        self._explain()
        self.hub.update_trail()
        self.load("warmed", self.session.warm_up)

    def show_warmed(self, nothing: None) -> None:
        """What the next pane needs is imported."""

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
            self.query_one(TextPanel).put(self._words(report, layer))

    def _words(self, report: NetworkReport, layer: LayerHealth) -> Content:
        g = self.glyphs
        pieces: list[Cell | str] = [Cell(f"L{layer.layer} {foreign(layer.layer_name, g)}", "title"), "\n"]
        terms = "".join(
            f" - {WEIGHTS[name]}x{percent(layer.share(name), g)} {name}"
            for name in CLASSES[:-1]
            if layer.count(name)
        )
        pieces += [f"score {layer.health_score:.3f} = 1{terms or ', nothing lost'}\n"]
        for issue in layer.issues:
            pieces += [Cell("! " + issue, "bad"), "\n"]
        spread = layer.activation_distribution
        if spread is not None:
            pieces += [
                Cell(
                    f"values: mean {number(spread.mean, g)}, std {number(spread.std, g)}, "
                    f"min {number(spread.min, g)}, median {number(spread.percentiles.get('50'), g)}, "
                    f"p95 {number(spread.percentiles.get('95'), g)}, "
                    f"max {number(spread.max, g)}; layer scale {number(layer.scale, g)}"
                    f"{', ' + foreign(layer.activation, g) if layer.activation else ''}\n",
                    "dim",
                )
            ]
        pieces += ["\n", Cell("Network", "title"), "\n", foreign(report.summary, g), "\n"]
        for alert in report.alerts:
            pieces += [Cell("! " + alert, "bad"), "\n"]
        for line in report.recommendations:
            pieces += [f"{g.crumb} {line}\n"]
        p = report.parts
        pieces += [
            Cell(f"mean score of the first third {p.first_third:.3f}, of the last {p.last_third:.3f}", "dim")
        ]
        return content(*pieces)

    # keys

    def on_paged_table_moved(self) -> None:
        self._explain()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        self.open_neurons(layer=message.row.layer)

    def action_site(self) -> None:
        sites = self.session.sites
        if len(sites) < 2:
            self.hub.say(f"this run holds one site only: {self.site}", "dim")
            return
        self.site = sites[(sites.index(self.site) + 1) % len(sites)]
        self._read()

    def action_copy(self) -> None:
        if self._report is not None:
            self.hub.copy(
                "\n".join((self._report.interpretation, self._report.summary, *self._report.alerts))
            )

    def action_export(self) -> None:
        self.hub.ask("export", "export to", f"{self.session.name}-health.json")

    def entered_export(self, text: str) -> None:
        if text and self._report is not None:
            from nfinspect.tui.output import write_json

            self.load("exported", partial(write_json, text, self._report.to_json()))

    def show_exported(self, line: str) -> None:
        self.hub.say(line, "good")
