"""The box of a chart, which reports when its size changes."""

from collections.abc import Sequence

from textual.message import Message

from nfinspect.tui.cells import Cell, fit, lines
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.text_block import TextBlock


class ChartBox(TextBlock):
    """The box of a chart. A worker draws the chart again for each size that the layout gives the box."""

    DEFAULT_CSS = "ChartBox { width: 1fr; height: 1fr; padding: 0 1; text-wrap: nowrap; }"

    class Resized(Message):
        """The box has another size: the chart has to be drawn again."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())

    def put_lines(self, drawn: Sequence[str], tone: str = "title") -> None:
        """A drawing without a caption."""
        self.put(lines([[Cell(line, tone)] for line in drawn]))

    def put_drawing(self, caption: str, drawn: Sequence[str | Cell], glyphs: Glyphs) -> None:
        """A caption, cut to the width, and the drawing below it. Lines without tones of their own have one."""
        first = [Cell(fit(caption, self.content_size.width, glyphs), "dim")]
        rest = [line if isinstance(line, Cell) else Cell(line, "title") for line in drawn]
        self.put(lines([first, *([line] for line in rest)]))
