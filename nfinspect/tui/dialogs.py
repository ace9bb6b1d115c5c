"""Small questions on top of a pane: yes or no, and one of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock


class Confirm(ModalScreen[bool]):
    """A question that only `y` answers with yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape,enter,q", "answer(False)", "No", id="confirm.no"),
    ]

    DEFAULT_CSS = """
    Confirm { align: center middle; background: $background 50%; }
    Confirm TextBlock { width: auto; max-width: 76; height: auto; padding: 1 2; background: $panel; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield TextBlock()

    def on_mount(self) -> None:
        answers = ("\n\n", Cell("y", "bold"), " yes   ", Cell("n", "bold"), " no")
        self.query_one(TextBlock).put(content(Cell(self._question), *answers))

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Picker(ModalScreen[str | None]):
    """Choose one of several words with the arrows, or by typing a part of it; Enter takes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "give_up", "Give up", id="picker.cancel"),
        Binding("backspace", "erase", "Erase", show=False, id="picker.erase"),
    ]

    DEFAULT_CSS = """
    Picker { align: center middle; background: $background 50%; }
    Picker Vertical {
        width: 44; max-width: 100%; height: auto; max-height: 80%; padding: 0 1; background: $panel;
    }
    Picker TextBlock { width: 1fr; height: 1; }
    Picker PagedTable { height: auto; max-height: 16; background: $panel; }
    """

    def __init__(
        self, title: str, options: Sequence[str], glyphs: Glyphs, chosen: str | None = None, *, width: int = 44
    ) -> None:
        """width: cells of the list; longer options are cut."""
        super().__init__()
        self._width = width
        self._title = title
        self._options = list(options)
        self._glyphs = glyphs
        self._chosen = chosen
        self._typed = ""

    def compose(self) -> ComposeResult:
        column = Column(self._title, 20, lambda row, width: Cell(row), flex=True)
        with Vertical():
            yield _PickerTable([column], glyphs=self._glyphs, empty="nothing contains that")
            yield TextBlock()

    def on_mount(self) -> None:
        self.query_one(Vertical).styles.width = self._width
        table = self.query_one(PagedTable)
        table.styles.height = min(16, len(self._options) + 1)
        self.query_one(TextBlock).put(self._words())
        table.put_rows(self._options)
        if self._chosen in self._options:
            table.call_after_refresh(table.move_to, self._options.index(self._chosen))

    def _words(self) -> Content:
        return content(Cell(f"type to find: {self._typed}" if self._typed else "type to find, Enter takes it", "dim"))

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        self.dismiss(cast(str, message.row))

    def typed(self, character: str) -> None:
        self._typed += character
        self._narrow()

    def action_erase(self) -> None:
        self._typed = self._typed[:-1]
        self._narrow()

    def _narrow(self) -> None:
        wanted = self._typed.lower()
        starts = [o for o in self._options if o.lower().startswith(wanted)]
        table = self.query_one(PagedTable)
        table.cursor = 0
        table.put_rows(starts or [o for o in self._options if wanted in o.lower()])
        self.query_one(TextBlock).put(self._words())

    def action_give_up(self) -> None:
        self.dismiss(None)


class _PickerTable(PagedTable):
    """Arrows move, letters search: the letters that move in other tables do not move here."""

    def on_key(self, event: events.Key) -> None:
        if event.character and event.is_printable:
            event.stop()
            event.prevent_default()
            cast(Picker, self.screen).typed(event.character)

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return character is not None and character.isprintable()
