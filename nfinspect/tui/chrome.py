"""The three lines around every pane: breadcrumbs, messages (or a line to type in), and the keys that work here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len
from textual.binding import Binding
from textual.content import Content
from textual.keys import format_key
from textual.widget import Widget

from nfinspect.tui.cells import Cell, content, fit, shown_cell, visible_in

if TYPE_CHECKING:
    from textual.app import App

    from nfinspect.tui.glyphs import Glyphs
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.panes.base import Pane

KEY_NAMES = {
    "enter": "Enter",
    "tab": "Tab",
    "shift+tab": "S-Tab",
    "up": "Up",
    "down": "Down",
    "left": "Left",
    "right": "Right",
    "home": "Home",
    "end": "End",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "space": "Space",
    "backspace": "Bksp",
    "escape": "Esc",
    "question_mark": "?",
}


class Breadcrumbs(Widget):
    """The way from the list of runs to here; at the right end the pane's hint."""

    DEFAULT_CSS = "Breadcrumbs { height: 1; background: $bar; }"

    trail: tuple[str, ...] = ()
    hint: str = ""

    def put(self, trail: Sequence[str], hint: str) -> None:
        if (tuple(trail), hint) != (self.trail, self.hint):
            self.trail, self.hint = tuple(trail), hint
            self.refresh()

    def render(self) -> Content:
        glyphs = cast("Hub", self.app).glyphs
        width = self.size.width
        between = f" {glyphs.crumb} "
        hint = visible_in(self.hint, glyphs)
        hint = fit(hint, min(cell_len(hint), width // 2), glyphs)
        room = width - cell_len(hint) - 3
        trail = [visible_in(name, glyphs) for name in self.trail]
        while len(trail) > 2 and cell_len(between.join(trail)) > room:
            # the oldest steps can be guessed, the newest cannot
            trail[:2] = [glyphs.more]
        before = between.join(trail[:-1]) + (between if len(trail) > 1 else "")
        here = trail[-1] if trail else ""
        here = fit(here, max(1, min(cell_len(here), room - cell_len(before))), glyphs)
        gap = " " * max(1, width - cell_len(before) - cell_len(here) - cell_len(hint) - 2)
        return content(" ", Cell(before, "dim"), Cell(here, "bold"), gap, Cell(hint, "dim"))


class StatusLine(Widget):
    """One line: an error, an answer, or the work in progress. A long one takes more rows rather than lose its end,
    which mostly says what to do; beyond MOST_ROWS it ends in an ellipsis.
    """

    MOST_ROWS = 8
    DEFAULT_CSS = f"StatusLine {{ height: auto; min-height: 1; max-height: {MOST_ROWS}; width: 1fr; padding: 0 1; }}"

    cell: Cell = Cell("")
    standing: Cell = Cell("")
    """What is said while there is nothing else to say."""

    command: str = ""
    """The command that answers what is on screen: shown, in one row, while there is not even that."""

    def put(self, cell: Cell) -> None:
        self._change(cell, self.standing)

    def stand(self, cell: Cell) -> None:
        self._change(self.cell, cell)

    def _change(self, cell: Cell, standing: Cell) -> None:
        glyphs = cast("Hub", self.app).glyphs
        before = self._shown
        self.cell, self.standing = shown_cell(cell, glyphs), shown_cell(standing, glyphs)
        if before != self._shown:
            width = max(1, self.size.width)
            taller = cell_len(self._shown.text) + 2 > width or cell_len(before.text) + 2 > width
            self.refresh(layout=taller)

    def put_command(self, command: str) -> None:
        if command != self.command:
            self.command = command
            if not self._shown.text:
                self.refresh()

    @property
    def _shown(self) -> Cell:
        return self.cell if self.cell.text else self.standing

    def render(self) -> Content:
        cell, glyphs = self._shown, cast("Hub", self.app).glyphs
        if not cell.text and self.command:
            room = max(1, self.app.size.width - 2)
            return content(Cell(fit(visible_in(f"$ {self.command}", glyphs), room, glyphs), "dim"))
        text = ("! " if cell.tone == "bad" else "") + cell.text
        width = max(1, self.app.size.width - 2)
        room = self.MOST_ROWS * (width - width // 8)  # lines are broken between words
        if cell_len(text) > room:
            text = fit(text, room, glyphs)
        return content(Cell(text, cell.tone))


class KeyLine(Widget):
    """The keys of this place, the most used first, with their words as far as there is room; `?` explains all."""

    DEFAULT_CSS = "KeyLine { height: 1; background: $bar; }"

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: object) -> None:
        self.refresh()

    def render(self) -> Content:
        shown: dict[str, tuple[int, tuple[str, str]]] = {}
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and enabled and binding.action not in shown:
                shown[binding.action] = (
                    _rank(binding),
                    (self.app.get_key_display(binding), binding.description),
                )
        order = [words for _, words in sorted(shown.values(), key=lambda item: item[0])]
        return content(*key_cells(order, self.size.width, cast("Hub", self.app).glyphs))


def why_idle(app: App[Any], pane: Pane, key: str) -> str:
    """Why a key does nothing here: what its action lacks, or that it is none of this place's."""
    for _, bindings in app.screen._modal_binding_chain:
        for binding in bindings.key_to_bindings.get(key, ()):
            action = binding.action.partition("(")[0].rpartition(".")[2]
            shown = app.get_key_display(binding)
            return pane.why_idle(action) or f"{shown} ({binding.description}) has nothing to do here"
    return f"{KEY_NAMES.get(key) or format_key(key)} is no key of this place; ? shows them"


def key_cells(order: Sequence[tuple[str, str]], width: int, glyphs: Glyphs) -> list[Cell | str]:
    """Keys with their words, as many as fit; those after them as bare keys; an ellipsis if there is no room for all."""
    named = next(n for n in range(len(order), -1, -1) if n == 0 or _need(order, n) <= width)
    cells: list[Cell | str] = [" "]
    for key, words in order[:named]:
        cells += [Cell(key, "bold"), Cell(f" {words}  ", "dim")]
    left = width - sum(cell_len(x if isinstance(x, str) else x.text) for x in cells)
    bare = [key for key, _ in order[named:]]
    if not bare:
        return cells
    text = " ".join(bare)
    if cell_len(text) > left:
        text = fit(text, max(0, left), glyphs)
    return [*cells, Cell(text, "bold")]


def _need(order: Sequence[tuple[str, str]], named: int) -> int:
    """Cells that the first `named` keys with their words take, and the others without."""
    words = sum(cell_len(key) + cell_len(said) + 3 for key, said in order[:named])
    return words + sum(cell_len(key) + 1 for key, _ in order[named:])


def _rank(binding: Binding) -> int:
    """Help first, then the table's keys, the pane's own, those to other panes of the run, and the app's."""
    place = (binding.id or "").split(".")[0]
    if binding.id == "app.help":
        return 0
    return {"table": 1, "classes": 3, "run": 3, "app": 4}.get(place, 2)
