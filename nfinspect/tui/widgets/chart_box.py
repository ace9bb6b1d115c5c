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

    def put_lines(self, drawn: Sequence[str | Cell]) -> None:
        """A drawing without a caption. Lines without tones of their own have one."""
        self.put(lines([[_toned(line)] for line in drawn]))

    def put_drawing(self, caption: str, drawn: Sequence[str | Cell], glyphs: Glyphs) -> None:
        """A caption, cut to the width, and the drawing below it. Lines without tones of their own have one."""
        first = [Cell(fit(caption, self.content_size.width, glyphs), "dim")]
        self.put(lines([first, *([_toned(line)] for line in drawn)]))


def _toned(line: str | Cell) -> Cell:
    return line if isinstance(line, Cell) else Cell(line, "title")
