"""A few lines of text that change often: redrawn only if they differ, laid out again only if the height may change."""

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from nfinspect.tui.cells import shown
from nfinspect.tui.glyphs import UNICODE


class TextBlock(Static):
    """Content that is made visible, never markup."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 (Textual's own name)
        super().__init__("", id=id, markup=False)
        self._shown = Content("")

    def put(self, text: Content) -> None:
        text = shown(text, getattr(self.app, "glyphs", UNICODE))
        old, self._shown = self._shown, text
        if (old.plain, old.spans) != (text.plain, text.spans):
            grown = self.styles.is_auto_height and self._shape(old) != self._shape(text)
            self.update(text, layout=grown or not old.plain)

    def _shape(self, text: Content) -> tuple[int, ...]:
        """What the height depends on: how many lines there are, and the lengths of those that are wrapped."""
        width = max(1, self.content_size.width)
        lengths = (cell_len(line) for line in text.plain.split("\n"))
        return tuple(length if length > width else 0 for length in lengths)
