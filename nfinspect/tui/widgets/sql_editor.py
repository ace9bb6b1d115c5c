"""The console's editor: Enter after a semicolon runs, Tab completes, Up and Down at the edges recall statements."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class SqlEditor(TextArea):
    """Keeps to keys that every terminal sends; ctrl+enter is not one of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "run", "Run", key_display="^r", id="sql.run"),
        Binding("tab", "complete", "Complete", id="sql.complete"),
        Binding("up", "up", "Earlier statement", show=False, id="sql.earlier"),
        Binding("down", "down", "Later statement", show=False, id="sql.later"),
    ]

    DEFAULT_CSS = """
    SqlEditor, SqlEditor:focus { border: none; padding: 0 1; background: $panel; }
    """

    class Run(Message):
        """Run the statement."""

    class Complete(Message):
        """Complete the word before the cursor."""

    class Recall(Message):
        """An earlier (-1) or later (1) statement is wanted."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self, text: str = "", *, id: str | None = None) -> None:  # noqa: A002 (Textual's own name)
        super().__init__(text, id=id, compact=True, highlight_cursor_line=False)
        self.cursor_blink = False  # a blinking cursor sends bytes twice a second for nothing

    def action_run(self) -> None:
        self.post_message(self.Run())

    def action_complete(self) -> None:
        self.post_message(self.Complete())

    def action_up(self) -> None:
        if self.cursor_location[0] == 0:
            self.post_message(self.Recall(-1))
        else:
            self.action_cursor_up()

    def action_down(self) -> None:
        if self.cursor_location[0] == self.document.line_count - 1:
            self.post_message(self.Recall(1))
        else:
            self.action_cursor_down()

    async def _on_key(self, event: events.Key) -> None:
        at_end = self.cursor_location == self.document.end
        if event.key == "enter" and at_end and self.text.rstrip().endswith(";"):
            event.stop()
            event.prevent_default()
            self.action_run()
            return
        await super()._on_key(event)

    async def _on_paste(self, event: events.Paste) -> None:
        # what a paste hides (escape sequences) must not reach the terminal by way of the editor
        event.text = "".join(c if c in "\n\t" or c.isprintable() else " " for c in event.text)
        await super()._on_paste(event)

    @property
    def text_before_cursor(self) -> str:
        return self.get_text_range((0, 0), self.cursor_location)

    def put(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)
