"""What came of an experiment of the lab: both texts, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content

from nfinspect.tui import lab_lines
from nfinspect.tui.cells import Cell, content, lines
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.backend.protocol import Token
    from nfinspect.tui.glyphs import Glyphs

WIDE = 120
"""Columns of the app from which the texts are side by side."""


class LabResult(TextPanel):
    """Scrolls; the texts are below each other, or side by side where there is room."""

    DEFAULT_CSS = """
    LabResult TextBlock { width: 1fr; height: auto; }
    LabResult #texts { layout: vertical; height: auto; }
    LabResult.-wide #texts { layout: horizontal; }
    LabResult.-wide #edited { margin: 0 0 0 2; }
    """

    def compose(self) -> ComposeResult:
        yield TextBlock(id="verdict")
        with Container(id="texts"):
            yield TextBlock(id="original")
            yield TextBlock(id="edited")
        yield TextBlock(id="next")

    def show_document(self, document: Mapping[str, Any], glyphs: Glyphs, *, stale: bool) -> None:
        """stale: the setup has changed since."""
        told = lab_lines.verdict(document, glyphs)
        if stale:
            told.append([Cell("of an earlier setup: r runs what stands above", "warn")])
        sides = ("original", "edited") if document["edited"] is not None else ("original",)
        texts = [lab_lines.whole_text(document, side) for side in sides]
        width = max(40, self.app.size.width - 4)
        self._put(lines(told), texts, lab_lines.next_tokens(document, width, glyphs))

    def show_written(self, state: Cell, prompt: str, tokens: Sequence[Token]) -> None:
        """What is being written after a prompt; state: how far it is."""
        sides = [side for side in ("original", "edited") if any(one.side == side for one in tokens)]
        self._put(content(state), [lab_lines.growing_text(side, prompt, tokens) for side in sides], content(""))

    def _put(self, verdict: Content, texts: Sequence[Content], after: Content) -> None:
        self.set_class(self.app.size.width >= WIDE, "-wide")
        original, edited = [*texts, content(""), content("")][:2]
        for name, text in (("verdict", verdict), ("original", original), ("edited", edited), ("next", after)):
            self.query_one(f"#{name}", TextBlock).put(text)
