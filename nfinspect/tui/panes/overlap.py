"""What the traces of concepts share: a heat map, a table of pairs, and the neurons that the pair under the cursor has
in common.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from nfinspect.present.numbers import fixed, number
from nfinspect.text import counted
from nfinspect.tui.cells import Cell, lines, visible_in
from nfinspect.tui.panes.choices import TracedPane, notes_of
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.heat_map import heat_map
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfinspect.analysis.overlap import Overlap, Pair, RankedNeuron, SharedNeuron
    from nfinspect.tui.session import Session


class OverlapPane(TracedPane):
    """Pairs on the left, what the chosen pair shares on the right; Tab or Enter goes there, Enter again to a neuron."""

    help_text = (
        "Shared: neurons in both top-K traces. expected: how many chance would give, p: how likely "
        "chance gives that many or more (hypergeometric, over the alive neurons of the site). #a and "
        "#b: ranks in the two traces. d shows the neurons of both, then those in the trace of the first and not of "
        "the second, then the other way round; M marks all that are shown, so that : and other panes can use them."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "concepts", "Concepts", id="overlap.concepts"),
        Binding("d", "list", "Both, or one only", id="overlap.list"),
        Binding("M", "mark_all", "Mark all shown", show=False, id="overlap.mark_all"),
        Binding("y", "copy", "Copy the table", show=False, id="overlap.copy"),
        Binding("e", "export", "Export", show=False, id="overlap.export"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="overlap.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="overlap.marked"),
    ]

    DEFAULT_CSS = """
    OverlapPane #choices { height: auto; max-height: 6; padding: 0 1; }
    OverlapPane.-shorter #choices { max-height: 3; }
    OverlapPane #map { height: auto; max-height: 12; padding: 0 1; }
    OverlapPane.-short #map { max-height: 7; }
    OverlapPane.-shorter #map { display: none; }
    OverlapPane #below { layout: horizontal; height: 1fr; }
    OverlapPane #pairs { width: 1fr; max-width: 90; }
    OverlapPane #shared { width: 26; min-width: 26; }
    """

    follows = True

    _overlap: Overlap | None = None
    _pair: Pair | None = None
    """The pair whose neurons are listed."""

    _list = 0
    """Which neurons of the pair are listed: those of both traces, only the first's, only the second's."""

    def __init__(self, session: Session, site: str) -> None:
        super().__init__("overlap", session, site)
        self.request = self.first_request(session)
        self._concepts = [c for c in session.concepts if c != self.request.baseline]

    def compose(self) -> ComposeResult:
        g = self.glyphs
        yield Headline(id="choices")
        yield Headline(id="map")
        with Container(id="below", classes="ruled-top"):
            pairs = PagedTable(self._pair_columns(), glyphs=g, empty="no pairs", id="pairs")
            pairs.add_class("panel")
            yield pairs
            shared = PagedTable(self._shared_columns(), glyphs=g, empty="nothing shared", id="shared")
            shared.add_class("panel", "ruled-left")
            shared.marked = self.is_marked
            yield shared

    @property
    def equivalent(self) -> tuple[str, ...]:
        if len(self._concepts) < 2:
            return ()
        return ("overlap", self.session.name, "--concepts", ",".join(self._concepts), *self.traced_with)

    def _pair_columns(self) -> list[Column]:
        g = self.glyphs

        return [
            Column("a", 9, lambda r, w: Cell(r.a, "bold"), flex=True),
            Column("b", 9, lambda r, w: Cell(r.b, "bold"), flex=True),
            Column("shared", 6, lambda r, w: Cell(str(r.overlap), "bold"), "right"),
            Column("jacc.", 5, lambda r, w: Cell(fixed(r.jaccard, g)), "right"),
            Column("expect", 6, lambda r, w: Cell(number(r.expected, g, 3, w)), "right"),
            Column("p", 7, lambda r, w: Cell(number(r.p_value, g, 2, w)), "right"),
        ]

    def _shared_columns(self) -> list[Column]:
        def rank(side: str) -> Callable[[SharedNeuron | RankedNeuron, int], Cell]:
            key = f"rank_{side}" if self._list == 0 else "rank" if side == "_ab"[self._list] else ""
            return lambda row, width: Cell(str(getattr(row, key)) if key else self.glyphs.none)

        return [
            Column("neuron", 10, lambda r, w: Cell(f"L{r.layer}/N{r.neuron}", "bold")),
            Column("#a", 3, rank("a"), "right"),
            Column("#b", 3, rank("b"), "right"),
        ]

    def _listed(self) -> tuple[SharedNeuron | RankedNeuron, ...]:
        """The neurons on the right: of both traces, or of one only."""
        pair: Pair | None = self.pairs.current
        return (pair.shared, pair.only_a, pair.only_b)[self._list] if pair is not None else ()

    def _list_name(self) -> str:
        pair: Pair | None = self.pairs.current
        if pair is None:
            return ""
        return (f"{pair.a} and {pair.b}", f"{pair.a}, not {pair.b}", f"{pair.b}, not {pair.a}")[self._list]

    @property
    def pairs(self) -> PagedTable:
        return self.query_one("#pairs", PagedTable)

    @property
    def shared(self) -> PagedTable:
        return self.query_one("#shared", PagedTable)

    def on_mount(self) -> None:
        self.changed()

    def on_resize(self) -> None:
        self._draw_map()

    def read_again(self) -> None:
        self._ask("")

    def changed(self) -> None:
        self._draw_choices()
        self._ask("tracing the concepts")

    def _ask(self, busy: str) -> None:
        concepts = tuple(c for c in self._concepts if c != self.request.baseline)
        if len(concepts) < 2:
            self.hub.say("an overlap needs two concepts besides the baseline: c chooses them, b the baseline", "warn")
            self._show(None)
            return
        overlap = partial(self.session.overlap, self.request, concepts)
        self.load("overlap", overlap, self._show, self._failed, busy=busy)

    def _show(self, overlap: Overlap | None) -> None:
        self._overlap = overlap
        self._draw()

    def _failed(self, line: str) -> None:
        self.say_failed(line)
        self._show(None)

    def _draw_choices(self) -> None:
        first = [Cell("c", "bold"), Cell(f" {len(self._concepts)}", "accent"), " concepts", *self.choices()]
        listed: list[Cell | str] = [Cell("d", "bold"), Cell(f" {self._list_name()}", "accent")]
        second = [[*listed, f": {counted(len(self._listed()), 'neuron')}"]] if self._overlap is not None else []
        self.query_one("#choices", TextBlock).put(lines([first, *second, *notes_of(self._overlap)]))

    def _draw(self) -> None:
        pairs = self._overlap.pairs if self._overlap is not None else ()
        rows, before = sorted(pairs, key=lambda p: (-p.overlap, p.a, p.b)), _named(self._pair)
        self.pairs.put_rows(rows)
        if (place := next((i for i, pair in enumerate(rows) if _named(pair) == before), None)) is not None:
            self.pairs.move_to(place)
        self._draw_map()
        self._draw_shared()

    def _draw_map(self) -> None:
        if self._overlap is None:
            self.query_one("#map", TextBlock).put(Content(""))
            return
        o, g = self._overlap, self.glyphs
        pair: Pair | None = self.pairs.current
        names = {c: visible_in(c, g) for c in o.concepts}
        shared = {(names[p.a], names[p.b]): p.overlap for p in o.pairs}
        chosen = (names[pair.a], names[pair.b]) if pair is not None else None
        rows = heat_map(list(names.values()), shared, o.top, self.size.width - 2, g, chosen)
        self.query_one("#map", TextBlock).put(lines(rows))

    def _draw_shared(self) -> None:
        before, self._pair = _named(self._pair), self.pairs.current
        if _named(self._pair) != before:
            self.shared.cursor = 0
        self.shared.empty = "nothing shared" if self._list == 0 else "none"
        self.shared.set_columns(self._shared_columns())
        self.shared.put_rows(self._listed())
        self._draw_choices()

    # keys

    def on_paged_table_moved(self, message: PagedTable.Moved) -> None:
        # the table says so after a change of its size, too
        if message.table is self.pairs and self.pairs.current is not self._pair:
            self._draw_map()
            self._draw_shared()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        if message.table is self.pairs:
            if self._listed():
                self.shared.focus()
            else:
                self.hub.say(f"no neuron of {self._list_name()} in their top {self.request.top}", "dim")
            return
        around = tuple((row.layer, row.neuron) for row in self._listed())
        self.open_neuron(message.row.layer, message.row.neuron, around=around, row=self.shared.cursor)

    def action_overlap(self) -> None:
        self.action_concepts()

    def action_concepts(self) -> None:
        options = [("- " if c in self._concepts else "+ ") + c for c in self.session.concepts]
        self.pick("- leaves out, + takes in", options, None, self._toggle)

    def _toggle(self, option: str) -> None:
        chosen = set(self._concepts) ^ {option[2:]}
        self._concepts = [c for c in self.session.concepts if c in chosen]
        self.changed()

    def action_mark(self) -> None:
        row = self.shared.current
        if self.shared.has_focus and row is not None:
            self.mark_row(self.shared, (row.layer, row.neuron))
        else:
            self.hub.say("Tab to the shared neurons, then Space marks one", "dim")

    def action_list(self) -> None:
        self._list = (self._list + 1) % 3
        self.shared.cursor = 0
        self._draw_shared()

    def action_mark_all(self) -> None:
        self.toggle_marks(*((row.layer, row.neuron) for row in self._listed() if not self.is_marked(row)))
        self.shared.refresh()

    def action_copy(self) -> None:
        if self.shared.has_focus:
            self.hub.copy("\n".join(str(self.address(row.layer, row.neuron)) for row in self._listed()))
        elif self._overlap is not None:
            self.hub.copy(
                "\n".join(f"{p.a}\t{p.b}\t{p.overlap}\t{p.jaccard}\t{p.p_value}" for p in self._overlap.pairs)
            )

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-overlap.json", self._overlap)


def _named(pair: Pair | None) -> tuple[str, str] | None:
    return (pair.a, pair.b) if pair is not None else None
