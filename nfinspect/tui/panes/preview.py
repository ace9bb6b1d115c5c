"""The strongest texts of the neuron under the cursor, below a list that leaves lines free."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from textual.timer import Timer

from nfinspect.present.numbers import number
from nfinspect.tui.cells import Cell, fit, lines
from nfinspect.tui.neuron_text import example_cell
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.tui.glyphs import Glyphs
    from nfinspect.tui.panes.run_pane import RunPane
    from nfinspect_store.addresses import Address

RESTS = 0.06
"""Seconds that the cursor rests on a row before its texts are asked for: who holds a key down asks for none."""

VALUE, CONCEPT = 9, 10
"""Cells of a text's value and concept."""


class Preview(TextBlock):
    """Shown where the pane is `-roomy`. Its texts come from a worker: moving the cursor never waits for them."""

    DEFAULT_CSS = """
    Preview { display: none; height: 9; padding: 0 1; text-wrap: nowrap; border-top: solid $secondary; }
    """

    def __init__(self, pane: RunPane) -> None:
        super().__init__(id="preview")
        self._pane = pane
        self._wanted: Address | None = None
        self._shown_of: Address | None = None
        self._timer: Timer | None = None

    def look_at(self, address: Address | None, *, again: bool = False) -> None:
        """The cursor is on this neuron: the texts of another one go at once. again: what is known of it has changed."""
        if address == self._wanted and not again:
            return
        self._wanted = address
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._shown_of not in (None, address):
            self._shown_of = None
            self.put(lines([[" "]]))  # not empty, which would be laid out again
        if address is not None:
            self._timer = self.set_timer(RESTS, self._ask)

    def on_resize(self) -> None:
        """There are lines now, or others than before."""
        self._ask()

    def _ask(self) -> None:
        address, pane = self._wanted, self._pane
        if address is None or not self.content_size.height or not pane.display:
            return
        read = partial(pane.session.neuron, address, pane.session.thresholds)
        pane.load("preview", read, partial(self._show, address), lambda line: None)

    def _show(self, address: Address, detail: NeuronDetail) -> None:
        if address != self._wanted:
            return
        self._shown_of, room = address, self.content_size
        self.put(lines(preview_lines(str(address), detail, room.width, room.height, self._pane.glyphs)))


def preview_lines(
    address: str, detail: NeuronDetail, width: int, height: int, glyphs: Glyphs
) -> list[list[Cell | str]]:
    """At most `height` lines of `width` cells: the neuron and its class, then its strongest texts."""
    examples = detail.top_examples[: max(0, height - 1)]
    strongest = max((abs(t.value) for e in examples for t in e.window if t.value is not None), default=0.0)
    about = f" {detail.row.cls}, its strongest texts" if examples else f" {detail.row.cls}, no texts are kept of it"
    rows: list[list[Cell | str]] = [[Cell(address, "bold"), Cell(about, "dim")]]
    for example in examples:
        value = Cell(number(example.value, glyphs, room=VALUE - 1).rjust(VALUE - 1), "bold")
        text = example_cell(example, max(10, width - VALUE - CONCEPT - 1), strongest, glyphs)
        rows.append([value, " ", Cell(fit(example.concept, CONCEPT, glyphs), "dim"), " ", text])
    return rows
