"""Lines above a table that may be more than there is room for: what is cut ends in a sign, and Tab shows all of it."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.strip import Strip

from nfinspect.tui.glyphs import UNICODE
from nfinspect.tui.widgets.text_block import TextBlock

READS_ON = " Tab reads on"


class Headline(TextBlock, can_focus=True):
    """A block of at most some lines. While it has the focus it takes what it needs; it gets it only if it is cut."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,escape", "app.focus_next", "Back", key_display="Enter", id="headline.back"),
    ]

    DEFAULT_CSS = """
    Headline:focus { height: auto !important; max-height: 100% !important; background: $bar; }
    """

    @property
    def lines_needed(self) -> int:
        """At its present width."""
        width = self.content_size.width
        return self.get_content_height(self.container_size, self.app.size, width) if width else 0

    @property
    def is_cut(self) -> bool:
        return self.lines_needed > self.content_size.height > 0

    def allow_focus(self) -> bool:
        return self.has_focus or self.is_cut

    def render_line(self, y: int) -> Strip:
        line = super().render_line(y)
        if y != self.content_size.height - 1 or not self.is_cut:
            return line
        sign = getattr(self.app, "glyphs", UNICODE).more + ("" if self.has_focus else READS_ON)
        room = self.content_size.width - cell_len(sign)
        style = self.visual_style.rich_style + Style(bold=True)
        return Strip.join([line.crop(0, max(0, room)), Strip([Segment(sign, style)])])
