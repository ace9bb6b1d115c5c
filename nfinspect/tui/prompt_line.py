"""The line in which `/`, `:` and names are typed: what was typed before comes back, and Tab completes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.widgets.input import Selection

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.chrome import StatusLine
from nfinspect.tui.requests import Completer
from nfinspect.tui.typed_history import append_history, history_file, read_history
from nfinspect.tui.widgets.text_block import TextBlock

LASTING = ("goto", "filter", "command")
"""Kinds of lines that are remembered across sessions."""


class PromptInput(Input):
    """The line's input: Esc gives up, up and down recall what was typed before, Tab completes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", "Give up", id="prompt.cancel"),
        Binding("up", "recall(-1)", "Earlier", show=False, id="prompt.earlier"),
        Binding("down", "recall(1)", "Later", show=False, id="prompt.later"),
        Binding("tab", "complete(1)", "Complete", show=False, id="prompt.complete"),
        Binding("shift+tab", "complete(-1)", "Completion before", show=False, id="prompt.complete_back"),
    ]

    @property
    def _line(self) -> PromptLine:
        return self.screen.query_one(PromptLine)

    def action_give_up(self) -> None:
        self._line.close()

    def action_recall(self, step: int) -> None:
        self._line.recall(step)

    def action_complete(self, step: int) -> None:
        self._line.complete(step)


class PromptLine(Widget):
    """Where `/` and `:` are typed, in place of the status line."""

    DEFAULT_CSS = """
    PromptLine { height: auto; display: none; }
    PromptLine Horizontal { height: 1; }
    PromptLine #offered { height: 1; padding: 0 1; display: none; }
    PromptLine #sign { width: auto; padding: 0 1; color: $text-accent; text-style: bold; }
    PromptLine Input, PromptLine Input:focus { border: none; height: 1; padding: 0; width: 1fr; background:
    $bar; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self._history: dict[str, list[str]] = {}
        self._place = 0
        self._draft = ""
        """What was typed before earlier lines were looked at."""

        self._then: Callable[[str], None] = lambda text: None
        self._back: Widget | None = None
        self._completer: Completer = lambda text: ("", ())
        self._offered: Sequence[str] = ()
        self._offer = 0

    def compose(self) -> ComposeResult:
        yield TextBlock(id="offered")
        with Horizontal():
            yield Static("", id="sign", markup=False)
            line = PromptInput(id="line", compact=True, select_on_focus=False)
            line.cursor_blink = False  # a blinking cursor sends bytes twice a second for nothing
            yield line

    def open(
        self,
        kind: str,
        sign: str,
        then: Callable[[str], None],
        text: str = "",
        select: str = "",
        completer: Completer | None = None,
    ) -> None:
        """then: gets the line, stripped. select: the part of `text` that typing replaces; if empty, all of a filter or
        a name, and nothing of a command, which is long and to be edited. completer: what Tab offers. While something is
        being typed, a line that an answer brings does not take its place.
        """
        if self.display:
            return
        self.kind, self._then = kind, then
        self._completer = completer or (lambda text: ("", ()))
        self._withdraw()
        self._back = self.screen.focused
        if kind not in self._history:
            self._history[kind] = read_history(history_file(kind)) if kind in LASTING else []
        self._place = len(self._history[kind])
        self.query_one("#sign", Static).update(sign)
        line = self.query_one(PromptInput)
        line.value = text
        if kind == "command":
            line.cursor_position = len(text)
        else:
            line.select_all()  # typing replaces what is there, arrows edit it
        if select and (start := text.rfind(select)) >= 0:
            line.selection = Selection(start, start + len(select))
        # not by a class: styles follow classes only when idle, and what is not displayed takes no focus
        self.display = True
        self.screen.query_one(StatusLine).display = False
        self.screen.set_focus(line)

    def focus_behind(self, widget: Widget) -> None:
        """Another place is on screen: a line after `:` keeps the keys, any other one was about the old place and
        closes.
        """
        if self.display and self.kind == "goto":
            self._back = widget
            return
        if self.display:
            self.close()
        self.screen.set_focus(widget)

    def close(self) -> None:
        self.display = False
        self.screen.query_one(StatusLine).display = True
        self.screen.set_focus(self._back if self._back is not None and self._back.is_attached else None)

    def recall(self, step: int) -> None:
        earlier = self._history[self.kind]
        place = max(0, min(len(earlier), self._place + step))
        if place == self._place:
            return
        line = self.query_one(PromptInput)
        if self._place == len(earlier):
            self._draft = line.value
        self._place = place
        line.value = earlier[place] if place < len(earlier) else self._draft
        line.cursor_position = len(line.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        earlier = self._history[self.kind]
        if text and (not earlier or earlier[-1] != text):
            earlier.append(text)
            if self.kind in LASTING:
                append_history(history_file(self.kind), text)
        self.close()
        self._then(text)

    # completion

    def complete(self, step: int) -> None:
        """Put the next completion, or the one before, in place of the unfinished word; above, all of them."""
        line = self.query_one(PromptInput)
        before, after = line.value[: line.cursor_position], line.value[line.cursor_position :]
        if self._offered and before.endswith(self._offered[self._offer]):
            old, self._offer = self._offered[self._offer], (self._offer + step) % len(self._offered)
        else:
            old, self._offered = self._completer(before)
            self._offer = 0
        if not self._offered:
            return
        new = before[: len(before) - len(old)] + self._offered[self._offer]
        with self.prevent(Input.Changed):
            line.value = new + after
        line.cursor_position = len(new)
        self._show_offered()

    def _show_offered(self) -> None:
        """From the chosen one on, so that it is always seen."""
        block = self.query_one("#offered", TextBlock)
        block.display = len(self._offered) > 1
        cells: list[Cell | str] = []
        for place in range(self._offer, len(self._offered)):
            cells += [Cell(self._offered[place], "bold" if place == self._offer else "dim"), "  "]
        cells.append(Cell(f"({self._offer + 1} of {len(self._offered)})", "dim"))
        block.put(content(*cells))

    def _withdraw(self) -> None:
        self._offered, self._offer = (), 0
        self.query_one("#offered").display = False

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._offered:
            self._withdraw()

    def on_input_blurred(self, event: events.Event) -> None:
        event.stop()
