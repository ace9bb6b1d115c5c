"""Where a chart stands: it says when there is another size to draw for."""

from collections.abc import Sequence

from textual.message import Message

from nfinspect.tui import cells
from nfinspect.tui.cells import Cell, content, foreign
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.text_block import TextBlock


class ChartBox(TextBlock):
    """Where the histogram stands. It is drawn anew, in a worker, for whatever size the layout gives it."""

    DEFAULT_CSS = "ChartBox { width: 1fr; height: 1fr; padding: 0 1; text-wrap: nowrap; }"

    class Resized(Message):
        """There is another size to draw for."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())

    def put_drawing(self, lines: Sequence[str], glyphs: Glyphs) -> None:
        """A caption, cut to the width, and the drawing below it, whose labels may come from a file."""
        caption, *rest = lines
        caption = cells.fit(foreign(caption, glyphs), self.content_size.width, glyphs)
        drawn = "\n".join(foreign(line, glyphs) for line in rest)
        self.put(content(Cell(caption, "dim"), "\n", Cell(drawn, "title")))
