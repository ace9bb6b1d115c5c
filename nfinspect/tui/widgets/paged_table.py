"""A table of any length: only the lines on screen exist, and rows come in pages from the pane that owns them.

Textual's DataTable takes 30 s for 100,000 rows. This one draws visible lines, keeps a few pages, and asks for missing
ones with `PageWanted`; the pane reads them in a worker and hands them to `put_page`. The first line is the header; the
cursor's row has a glyph besides its colour, so that it is seen without colour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from nfinspect.tui.cells import TONES, Cell, fit, shown_cell
from nfinspect.tui.glyphs import UNICODE, Glyphs

PAGE = 200
"""Rows asked for at a time: two full screens of a tall terminal."""

KEPT_PAGES = 12

LONGEST = 12
"""Characters that a cell of the terminal can take: a letter with all the marks that are drawn on it."""


@dataclass(frozen=True)
class Column:
    """How one column is drawn. `cell(row, width)` gets the width it has, for bars and text windows."""

    title: str
    width: int
    cell: Callable[[Any, int], Cell]
    align: str = "left"
    flex: bool = False  # takes the width that is left over
    key: str = ""  # name for sorting; empty if rows cannot be sorted by it


class PagedTable(ScrollView, can_focus=True):
    """Rows in columns with a cursor. `frozen` columns stay while h and l move the others."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "cursor(1)", "Next row", show=False, id="table.down"),
        Binding("k,up", "cursor(-1)", "Previous row", show=False, id="table.up"),
        Binding("g,home", "first", "First row", show=False, id="table.first"),
        Binding("G,end", "last", "Last row", show=False, id="table.last"),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, id="table.page_down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="table.page_up"),
        Binding("h,left", "columns(-1)", "Columns to the left", show=False, id="table.left"),
        Binding("l,right", "columns(1)", "Columns to the right", show=False, id="table.right"),
        Binding("enter", "choose", "Open", id="table.enter"),
    ]

    DEFAULT_CSS = """
    PagedTable { height: 1fr; overflow: hidden hidden; }
    """

    @dataclass
    class Chosen(Message):
        """Enter on a row."""

        table: "PagedTable"
        row: Any

        @property
        def control(self) -> "PagedTable":
            return self.table

    @dataclass
    class Moved(Message):
        """The cursor is on another row."""

        table: "PagedTable"
        row: Any

        @property
        def control(self) -> "PagedTable":
            return self.table

    @dataclass
    class PageWanted(Message):
        """Rows from `offset` on are needed. Answer with `put_page`."""

        table: "PagedTable"
        offset: int
        limit: int

        @property
        def control(self) -> "PagedTable":
            return self.table

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        glyphs: Glyphs = UNICODE,
        frozen: int = 0,
        empty: str = "nothing here",
        id: str | None = None,  # noqa: A002 (Textual's own name)
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.glyphs = glyphs
        self.frozen = frozen
        self.empty = empty
        self.total = 0
        self.cursor = 0
        self.marked: Callable[[Any], bool] = lambda row: False
        self.sorted_by: tuple[str, bool] = ("", True)  # key, descending
        self._first_column = 0
        self._pages: dict[int, Sequence[Any]] = {}
        self._asked: set[int] = set()
        self._failed: dict[int, str] = {}
        self._early: list[Callable[[], None]] = []
        self._loaded = False
        self._styles: dict[tuple[str, bool], RichStyle] = {}

    # rows

    def put_rows(self, rows: Sequence[Any]) -> None:
        """All rows at once, for short lists. The cursor stays where it is."""
        self._pages = {offset: rows[offset : offset + PAGE] for offset in range(0, len(rows), PAGE)}
        self._asked.clear()
        self._failed.clear()
        self._kept_all = True
        self._set_total(len(rows))

    def put_page(self, offset: int, rows: Sequence[Any], total: int) -> None:
        """One page, as asked for with PageWanted."""
        self._asked.discard(offset)
        self._failed.pop(offset, None)
        self._pages.pop(offset, None)
        self._pages[offset] = rows
        self._kept_all = False
        while len(self._pages) > KEPT_PAGES:
            self._pages.pop(next(iter(self._pages)))
        self._set_total(total, range(offset, offset + PAGE))

    def reset(self) -> None:
        """Forget every row (another filter, another order) and ask for the first page again."""
        self.forget()
        self.cursor = 0
        self.scroll_to_top()
        self._want(0)

    def scroll_to_top(self) -> None:
        self.scroll_to(y=0, animate=False, force=True)

    def keep_in_sight(self) -> list[int]:
        """Forget the pages that are not on screen; returns those that are, shown until they are read again."""
        top = round(self.scroll_y)
        seen = {place - place % PAGE for place in (self.cursor, top, top + self.body_height - 1)}
        self._pages = {offset: rows for offset, rows in self._pages.items() if offset in seen}
        self._asked.clear()
        return sorted(self._pages)[:2]

    def forget(self) -> None:
        """Forget every row; the owner puts the next ones unasked."""
        self._pages.clear()
        self._asked.clear()
        self._failed.clear()

    def grow(self, total: int) -> None:
        """The number of rows is known now."""
        self._set_total(total, range(0))

    def lost(self, offset: int) -> None:
        """A page that was asked for will not come: it may be asked for again."""
        self._asked.discard(offset)

    def fail(self, offset: int, why: str) -> None:
        """A page could not be read: its rows say why, and it is asked for again when the user comes back to it."""
        self._asked.discard(offset)
        if not self._kept_all and offset not in self._pages:
            self._failed[offset] = why
            self._loaded = True
            self._early.clear()
            self.refresh()

    def _set_total(self, total: int, new: range | None = None) -> None:
        """new: the rows that are, if not all; the table is drawn again if one of them is in sight, or was the last."""
        top, old = round(self.scroll_y), self.total
        bottom = top + self.body_height
        same = new is not None and self._loaded and (total == old or min(total, old) >= bottom)
        self.total = total
        self._loaded = True
        if bool(old) != bool(total):
            self.refresh_bindings()
        self._set_height(self.size.width)
        self._move_to(min(self.cursor, max(0, total - 1)), always=True)
        if not same or new is None or (new.start < bottom and new.stop > top):
            self.refresh()
        early, self._early = self._early, []
        for action in early:
            action()
        if self._choose_later and self.current is not None:
            self.action_choose()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there is no row, Enter says so. Rows that have not come yet, or could not be read, it waits for."""
        return action != "choose" or not self._loaded or self.total > 0 or bool(self._failed)

    @property
    def every_row(self) -> Sequence[Any] | None:
        """All rows, in order; None if they are read page by page."""
        if not self._kept_all:
            return None
        return [row for offset in sorted(self._pages) for row in self._pages[offset]]

    def _set_height(self, width: int) -> None:
        """How far it scrolls; no layout depends on that."""
        self.set_reactive(PagedTable.virtual_size, Size(width, self.total + 1))
        self.scroll_y = self.validate_scroll_y(self.scroll_y)

    _kept_all = False

    def row_at(self, index: int) -> Any | None:
        """The row, or None if its page is not here yet (it is asked for)."""
        if not 0 <= index < self.total:
            return None
        page = self._pages.get(index - index % PAGE)
        if page is None:
            if index - index % PAGE not in self._failed:
                self._want(index - index % PAGE)
            return None
        return page[index % PAGE] if index % PAGE < len(page) else None

    @property
    def current(self) -> Any | None:
        return self.row_at(self.cursor)

    def _want(self, offset: int) -> None:
        if self._kept_all or offset in self._asked or offset in self._pages or offset < 0:
            return
        self._failed.pop(offset, None)
        if self.total and offset >= self.total:
            return
        self._asked.add(offset)
        self.post_message(self.PageWanted(self, offset, PAGE))

    # movement

    @property
    def body_height(self) -> int:
        return max(1, self.size.height - 1)

    def move_to(self, index: int) -> None:
        self._move_to(index)

    def _move_to(self, index: int, always: bool = False) -> None:
        index = max(0, min(index, self.total - 1))
        if index == self.cursor and not always:
            return
        self._choose_later = self._choose_later and always
        old, self.cursor = self.cursor, index
        top = round(self.scroll_y)
        if index < top:
            self.scroll_to(y=index, animate=False, force=True)
        elif index >= top + self.body_height:
            self.scroll_to(y=index - self.body_height + 1, animate=False, force=True)
        if index != old and round(self.scroll_y) == top:
            self._refresh_row(old)
            self._refresh_row(index)
        page = index - index % PAGE
        # the page that the cursor is walking towards, before it is needed
        self._want(page + PAGE if index >= old else page - PAGE)
        self.post_message(self.Moved(self, self.row_at(index)))

    def _refresh_row(self, index: int) -> None:
        self.refresh_line(index + 1)

    def action_cursor(self, step: int) -> None:
        self._go(lambda: self.cursor + step)

    def action_first(self) -> None:
        self._go(lambda: 0)

    def action_last(self) -> None:
        self._go(lambda: self.total - 1)

    def action_page(self, step: int) -> None:
        self._go(lambda: self.cursor + step * self.body_height)

    def _go(self, to: Callable[[], int]) -> None:
        """Move as a key asks. One pressed before the rows have come is carried out when they do: every press counts."""
        if not self._loaded:
            self._early.append(lambda: self._move_to(to()))
            return
        self._move_to(to())
        self._look_again()

    def _look_again(self) -> None:
        """The user looks at this row: if its page could not be read, it is asked for once more."""
        page = self.cursor - self.cursor % PAGE
        if page in self._failed:
            self._want(page)
            self.refresh()

    def action_columns(self, step: int) -> None:
        movable = len(self.columns) - self.frozen
        first = max(0, min(self._first_column + step, movable - 1))
        if step > 0 and not self._cut_right:
            return
        if first != self._first_column:
            self._first_column = first
            self.refresh()

    def action_choose(self) -> None:
        """Enter on a row. Pressed before the rows have come, it is carried out when they do."""
        if (row := self.current) is not None:
            self._choose_later = False
            self.post_message(self.Chosen(self, row))
        elif not self._loaded:
            self._early.append(self.action_choose)
        else:
            self._choose_later = self.total > 0
            self._look_again()

    _choose_later = False

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y > 0 and 0 <= index < self.total:
            again = index == self.cursor
            self._move_to(index)
            if again or event.chain > 1:
                self.action_choose()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move_to(self.cursor + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move_to(self.cursor - 3)

    # drawing

    _cut_right = False

    def set_columns(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self._first_column = 0
        self.refresh()

    def widen(self, columns: Sequence[Column]) -> None:
        """The same columns, as wide as they are or as these: later rows may hold longer figures; or others."""
        if [one.title for one in columns] != [one.title for one in self.columns]:
            self.set_columns(columns)
            return
        wider = tuple(new if new.width > old.width else old for old, new in zip(self.columns, columns, strict=True))
        if wider != self.columns:
            self.columns = wider
            self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def on_resize(self, event: events.Resize) -> None:
        self._set_height(event.size.width)
        self._move_to(self.cursor, always=True)

    def _style(self, tone: str, on_cursor: bool) -> RichStyle:
        key = (tone, on_cursor)
        if key not in self._styles:
            style = self.visual_style
            if on_cursor:
                name = "$row-focus" if self.has_focus else "$row"
                style += self.app.stylesheet.parse_style(f"on {name}")
            if TONES[tone]:
                style += self.app.stylesheet.parse_style(TONES[tone])
            self._styles[key] = style.rich_style
        return self._styles[key]

    def on_focus(self) -> None:
        self._styles.clear()
        self.refresh()

    def on_blur(self) -> None:
        self._styles.clear()
        self.refresh()

    def _layout(self, width: int) -> list[tuple[Column, int]]:
        """Which columns are drawn, and how wide. The first two cells are the cursor's and the mark's."""
        movable = self.columns[self.frozen :]
        order = [*self.columns[: self.frozen], *movable[self._first_column :]]
        left = width - 2
        drawn: list[tuple[Column, int]] = []
        for column in order:
            need = column.width + (1 if drawn else 0)
            if need > left:
                if not drawn:
                    drawn.append((column, left))
                break
            drawn.append((column, column.width))
            left -= need
        self._cut_right = len(drawn) < len(order)
        flexible = [place for place, (column, _) in enumerate(drawn) if column.flex]
        for number, place in enumerate(flexible):
            column, old = drawn[place]
            drawn[place] = (
                column,
                old + left // len(flexible) + (left % len(flexible) if number == 0 else 0),
            )
        return drawn

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._header(width)
        index = y - 1 + round(self.scroll_y)
        if index >= self.total and index == 0 and 0 in self._failed:
            return Strip([Segment(fit(f"  ! {self._failed[0]}", width, self.glyphs), self._style("bad", False))], width)
        if index >= self.total:
            text = self.empty if self._loaded and self.total == 0 and index == 0 else ""
            return Strip([Segment(fit("  " + text, width, self.glyphs), self._style("dim", False))], width)
        row = self.row_at(index)
        on_cursor = index == self.cursor
        cursor = self.glyphs.cursor if self.has_focus else self.glyphs.cursor_away
        head = cursor if on_cursor else " "
        if row is None:
            why = self._failed.get(index - index % PAGE)
            text = fit(f"{head} {self.glyphs.more if why is None else '! ' + why}", width, self.glyphs)
            return Strip([Segment(text, self._style("dim", on_cursor))], width)
        marked = self.glyphs.mark if self.marked(row) else " "
        signs = head + marked
        segments = [Segment(signs, self._style("" if signs.isspace() else "accent", on_cursor))]
        for column, cells in self._layout(width):
            segments += self._segments(column.cell(row, cells), cells, column.align, on_cursor)
        # every segment costs about 40 bytes of styles, so neighbours of one style become one
        return Strip(segments).adjust_cell_length(width, self._style("", on_cursor)).simplify()

    def _segments(self, cell: Cell, width: int, align: str, on_cursor: bool) -> list[Segment]:
        if not cell.spans:  # of a cell of a million characters no more is looked at than can be seen
            cell = Cell(cell.text[: LONGEST * (width + 1)], cell.tone)
        cell = shown_cell(cell, self.glyphs)
        text = fit(cell.text, width, self.glyphs, align) + " "
        if not cell.spans:
            # figures in plain text join the space before the next column
            return [Segment(text, self._style(cell.tone, on_cursor))]
        segments: list[Segment] = []
        position = 0
        for start, end, tone in cell.spans:
            start, end = min(start, len(text)), min(end, len(text))
            if start > position:
                segments.append(Segment(text[position:start], self._style(cell.tone, on_cursor)))
            if end > start:
                segments.append(Segment(text[start:end], self._style(tone, on_cursor)))
            position = max(position, end)
        if position < len(text):
            segments.append(Segment(text[position:], self._style(cell.tone, on_cursor)))
        return segments

    def _header(self, width: int) -> Strip:
        key, descending = self.sorted_by
        text = "  "
        cut_left = self.frozen if self._first_column else None
        for place, (column, cells) in enumerate(self._layout(width)):
            title = column.title
            if column.key and column.key == key:
                sign = self.glyphs.down if descending else self.glyphs.up
                title = sign + title if column.align == "right" else title + sign  # next to its own title only
            text += (self.glyphs.back if place == cut_left else " " if place else "") + fit(
                title, cells, self.glyphs, column.align
            )
        text = fit(text, width, self.glyphs)
        if self._cut_right:
            text = text[:-1] + self.glyphs.crumb
        return Strip([Segment(text, self._style("title", False))], width)
