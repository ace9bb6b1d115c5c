"""Where a chart stands: it says when there is another size to draw for."""

from textual.message import Message

from nfinspect.tui.widgets.text_block import TextBlock


class ChartBox(TextBlock):
    """Where the histogram stands. It is drawn anew, in a worker, for whatever size the layout gives it."""

    DEFAULT_CSS = "ChartBox { width: 1fr; height: 1fr; padding: 0 1; text-wrap: nowrap; }"

    class Resized(Message):
        """There is another size to draw for."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())
