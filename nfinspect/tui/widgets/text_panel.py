"""A panel of text that scrolls with the same keys as a table."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content

from nfinspect.tui.widgets.text_block import TextBlock


class TextPanel(VerticalScroll, can_focus=True):
    """Content in a scrolling box; `put` replaces it and goes back to the top if it is another text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_lines(1)", "Down", show=False, id="text.down"),
        Binding("k,up", "scroll_lines(-1)", "Up", show=False, id="text.up"),
        Binding("g,home", "scroll_home", "To the top", show=False, id="text.first"),
        Binding("G,end", "scroll_end", "To the end", show=False, id="text.last"),
        Binding("pagedown,ctrl+d", "scroll_lines(10)", "Page down", show=False, id="text.page_down"),
        Binding("pageup,ctrl+u", "scroll_lines(-10)", "Page up", show=False, id="text.page_up"),
    ]

    DEFAULT_CSS = """
    TextPanel { padding: 0 1; scrollbar-size-vertical: 1; }
    TextPanel > TextBlock { width: 1fr; height: auto; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 (Textual's own name)
        super().__init__(id=id, classes="panel")
        self._shown: Content | None = None

    def compose(self) -> ComposeResult:
        yield TextBlock()

    def put(self, text: Content) -> None:
        if text is not self._shown:
            self._shown = text
            self.query_one(TextBlock).put(text)
            self.scroll_home(animate=False)

    def action_scroll_lines(self, step: int) -> None:
        self.scroll_relative(y=step, animate=False)

    def action_scroll_home(self) -> None:
        self.scroll_home(animate=False)

    def action_scroll_end(self) -> None:
        self.scroll_end(animate=False)
