"""What `--ascii` changes in Textual itself: scroll bars and borders that are drawn with other characters."""

from typing import ClassVar

from textual.app import App
from textual.scrollbar import ScrollBar, ScrollBarRender


class AsciiScrollBar(ScrollBarRender):
    """A scroll bar of coloured cells without the part-filled blocks at its ends."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "]
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "]


def use_ascii(app: App[int]) -> None:
    """Replace Textual's scroll bars, and by stylesheet rules the palette's icon and all borders."""
    ScrollBar.renderer = AsciiScrollBar
    app.stylesheet.add_source(
        "SearchIcon { display: none; } CommandPalette #--input { border: ascii $border; } "
        "CommandPalette LoadingIndicator { border: none; } CommandList { border: none; } "
        ".ruled-top { border-top: ascii $secondary; } .ruled-left { border-left: ascii $secondary; }",
        read_from=("nfinspect", "ascii"),
    )
    app.refresh_css(animate=False)
