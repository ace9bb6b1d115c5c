"""Where a chart stands: it says when there is another size to draw for."""

from collections.abc import Sequence

from textual.message import Message

from nfinspect.tui.cells import Cell, fit, lines
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.text_block import TextBlock


class ChartBox(TextBlock):
    """Where the histogram stands. It is drawn anew, in a worker, for whatever size the layout gives it."""

    DEFAULT_CSS = "ChartBox { width: 1fr; height: 1fr; padding: 0 1; text-wrap: nowrap; }"

    class Resized(Message):
        """There is another size to draw for."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())

    def put_lines(self, drawn: Sequence[str], tone: str = "title") -> None:
        """A drawing without a caption."""
        self.put(lines([[Cell(line, tone)] for line in drawn]))

    def put_drawing(self, drawn: Sequence[str], glyphs: Glyphs) -> None:
        """A caption, cut to the width, and the drawing below it."""
        caption, *rest = drawn
        first = [Cell(fit(caption, self.content_size.width, glyphs), "dim")]
        self.put(lines([first, *([Cell(line, "title")] for line in rest)]))
