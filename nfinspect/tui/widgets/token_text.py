"""A prompt's text with a cursor that goes from token to token. Only the parts of it that are near the screen exist.

The pane that owns it reads parts in a worker, as asked for with `PartWanted`, and hands them to `put_part`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from nfinspect.tui.cells import TONES
from nfinspect.tui.glyphs import UNICODE, Glyphs
from nfinspect.tui.token_lines import Line, laid_out

if TYPE_CHECKING:
    from nfinspect.analysis.prompt_text import TextPart

KEPT_PARTS = 24
"""Parts of 512 tokens: several times what the largest terminal shows."""

STEPS = 4
"""Steps of strength above nothing; each has a tone, and a level in the line's margin."""

MARGIN = 2
"""Cells left of the text: the strongest step of the line, and a space."""

Where = tuple[int, int]
"""A part, and a line of it."""


@dataclass(frozen=True)
class Laid:
    """A part in lines. line_of: the line of each of its tokens."""

    part: TextPart
    lines: list[Line]
    line_of: dict[int, int]


class TokenText(Widget, can_focus=True):
    """The text of one prompt at a time. step: of a token by its place, 0 to STEPS; None where nothing is known."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h,left", "token(-1)", "Previous token", show=False, id="walk.previous"),
        Binding("l,right", "token(1)", "Next token", key_display="h l", id="walk.next"),
        Binding("b", "word(-1)", "Back by a word", show=False, id="walk.word_back"),
        Binding("e", "word(1)", "End of the word", key_display="b e", show=False, id="walk.word_end"),
        Binding("j,down", "line(1)", "Line down", show=False, id="walk.down"),
        Binding("k,up", "line(-1)", "Line up", show=False, id="walk.up"),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, id="walk.page_down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="walk.page_up"),
        Binding("g,home", "to(0)", "First token", show=False, id="walk.first"),
        Binding("G,end", "to(-1)", "Last token", show=False, id="walk.last"),
        Binding("enter", "choose", "Neuron", id="walk.enter"),
    ]

    @dataclass
    class PartWanted(Message):
        """The part of this number is needed."""

        number: int

    @dataclass
    class Moved(Message):
        """The cursor is on another token."""

        place: int

    class Chosen(Message):
        """Enter."""

    def __init__(self, *, glyphs: Glyphs = UNICODE, id: str | None = None) -> None:  # noqa: A002 (Textual's own name)
        super().__init__(id=id)
        self.glyphs = glyphs
        self.step: Callable[[int], int | None] = lambda place: None
        self.size_of_prompt = 0
        self.cursor = 0
        self._parts: dict[int, Laid] = {}
        self._asked: set[int] = set()
        self._top: Where = (0, 0)
        self._rows: list[Where | None] = []
        self._styles: dict[str, RichStyle] = {}

    # the text

    def open(self, size: int, cursor: int) -> None:
        """Another prompt, of `size` tokens."""
        self._parts.clear()
        self._asked.clear()
        self._rows = []
        self.size_of_prompt, self.cursor = size, max(0, min(cursor, size - 1))
        self._top = (self._number(self.cursor), 0)
        self._follow()

    def put_part(self, number: int, part: TextPart) -> None:
        """A part that was asked for."""
        self._asked.discard(number)
        self._lay_out(number, part)
        for far in sorted(self._parts, key=lambda one: -abs(one - self._top[0]))[: len(self._parts) - KEPT_PARTS]:
            del self._parts[far]
        self._follow()

    def part_at(self, place: int) -> TextPart | None:
        """The part that holds a token, if it is here."""
        laid = self._parts.get(self._number(place))
        return None if laid is None else laid.part

    @property
    def parts(self) -> dict[int, TextPart]:
        """Those that are here, by number."""
        return {number: laid.part for number, laid in self._parts.items()}

    def _number(self, place: int) -> int:
        from nfinspect.analysis.prompt_text import part_of

        number = part_of(place)
        laid = self._parts.get(number)
        return number - 1 if laid is not None and place < laid.part.start else number

    def _lay_out(self, number: int, part: TextPart) -> None:
        # What the model writes follows the prompt: where a part begins with it, the one before tells.
        generated = part.rows.generated
        before = self._parts.get(number - 1)
        wrote = bool(before.part.rows.generated[-1]) if before is not None and before.part.rows.token else False
        if before is None and number > 0:
            wrote = bool(len(generated) and generated[0])
        lines = laid_out(part, max(1, self.size.width - MARGIN - 1), self.glyphs, wrote_before=wrote)
        line_of: dict[int, int] = {}
        for i, line in enumerate(lines):
            for cell in line:
                if cell.first >= 0:
                    for place in range(cell.first, cell.last + 1):
                        line_of.setdefault(place, i)
        self._parts[number] = Laid(part, lines, line_of)

    def _want(self, number: int) -> None:
        from nfinspect.analysis.prompt_text import part_of

        if 0 <= number <= part_of(self.size_of_prompt - 1) and number not in self._asked and number not in self._parts:
            self._asked.add(number)
            self.post_message(self.PartWanted(number))

    def lost(self, number: int) -> None:
        """A part could not be read; it is asked for again when it is needed."""
        self._asked.discard(number)

    # where things are

    def _where(self, place: int) -> Where | None:
        number = self._number(place)
        laid = self._parts.get(number)
        if laid is None:
            self._want(number)
            return None
        return (number, laid.line_of.get(place, 0))

    def _moved(self, where: Where, step: int) -> Where | None:
        """One line further, or back; None if that is beyond the text, or not here yet."""
        number, line = where[0], where[1] + step
        if line < 0:
            number -= 1
            if number < 0:
                return None
            if number not in self._parts:
                self._want(number)
                return None
            return (number, len(self._parts[number].lines) - 1)
        if number not in self._parts:
            self._want(number)
            return None
        if line < len(self._parts[number].lines):
            return (number, line)
        following = self._parts.get(number + 1)
        if following is None:
            self._want(number + 1)
            return None
        return (number + 1, 0) if following.part.rows.token else None

    def _back(self, where: Where, lines: int) -> Where:
        for _ in range(lines):
            before = self._moved(where, -1)
            if before is None:
                break
            where = before
        return where

    def _arrange(self) -> None:
        """Which lines are on screen, from the top on."""
        rows: list[Where | None] = []
        where: Where | None = self._top
        while len(rows) < self.size.height and where is not None and where[0] in self._parts:
            rows.append(where)
            where = self._moved(where, 1)
        self._rows = [*rows, *[None] * (self.size.height - len(rows))]

    def _follow(self) -> None:
        """Have the cursor's line on screen, and as many lines as there are."""
        height = self.size.height
        if height < 1 or not self.size_of_prompt:
            return
        here = self._where(self.cursor)
        if here is not None:
            self._arrange()
            if here not in self._rows:
                near = self._moved(self._rows[0], -1) == here if self._rows and self._rows[0] is not None else False
                last = next((row for row in reversed(self._rows) if row is not None), None)
                below = last is not None and self._moved(last, 1) == here
                self._top = here if near else self._back(here, height - 1 if below else height // 3)
                self._arrange()
            if None in self._rows and self._number(self.size_of_prompt - 1) in self._parts:
                empty = self._rows.count(None)
                self._top = self._back(self._top, empty)
                self._arrange()
        self.refresh()

    # moving

    def move_to(self, place: int) -> None:
        place = max(0, min(place, self.size_of_prompt - 1))
        if place == self.cursor or not self.size_of_prompt:
            return
        old, self.cursor = self.cursor, place
        top = self._top
        before, after = self._where(old), self._where(place)
        if after is None or after not in self._rows or top != self._top:
            self._follow()
        else:
            for row in {*self._rows_of(before, old), *self._rows_of(after, place)}:
                self.refresh(Region(0, row, self.size.width, 1))
        self.post_message(self.Moved(place))

    def _rows_of(self, where: Where | None, place: int) -> list[int]:
        """The rows of the screen that a token is on: two where a line is broken within it."""
        if where not in self._rows or where is None:
            return []
        row = self._rows.index(where)
        below = self._rows[row + 1] if row + 1 < len(self._rows) else None
        line = self._parts[below[0]].lines[below[1]] if below is not None else ()
        return [row, row + 1] if line and line[0].first <= place <= line[0].last else [row]

    def action_token(self, step: int) -> None:
        self.move_to(self.cursor + step)

    def action_to(self, place: int) -> None:
        self.move_to(place if place >= 0 else self.size_of_prompt - 1)

    def action_line(self, step: int) -> None:
        if (to := self._place_in_line(step)) is not None:
            self.move_to(to)

    def action_page(self, step: int) -> None:
        if (to := self._place_in_line(step * max(1, self.size.height - 1))) is not None:
            self.move_to(to)

    def _place_in_line(self, step: int) -> int | None:
        """The token as far from the left as the cursor's, so many lines further."""
        here = where = self._where(self.cursor)
        if where is None:
            return None
        for _ in range(abs(step)):
            further = self._moved(where, 1 if step > 0 else -1)
            if further is None:
                break
            where = further
        if where == here:  # the end of the text, or of what is here
            return None
        assert here is not None
        x = 0
        for cell in self._parts[here[0]].lines[here[1]]:
            if cell.first <= self.cursor <= cell.last:
                break
            x += cell.width
        found, at = None, 0
        for cell in self._parts[where[0]].lines[where[1]]:
            if cell.first >= 0 and (found is None or at <= x):
                found = cell.first
            at += cell.width
        return found

    def action_word(self, step: int) -> None:
        """To the beginning of this word or of the one before; to the end of this word or of the next."""
        place = self.cursor + step
        while 0 < place < self.size_of_prompt - 1:
            edge = place if step < 0 else place + 1
            begins = self._begins_word(edge)
            if begins is None or begins:  # None: as far as the text is here
                break
            place += step
        self.move_to(place)

    def _begins_word(self, place: int) -> bool | None:
        """Whether a word begins with a token; None if its text is not here. Every wide character is a word."""
        part, before = self.part_at(place), self.part_at(place - 1)
        if part is None or before is None:
            self._want(self._number(place if part is None else place - 1))
            return None
        text = part.whole.token(place - part.start)
        previous = before.whole.token(place - 1 - before.start)
        if part is before and part.whole.spans[place - part.start][0] < part.whole.spans[place - 1 - part.start][1]:
            return False  # within a character
        return bool(text) and (
            text[0].isspace()
            or (bool(previous) and (previous[-1].isspace() or cell_len(previous[-1]) == 2))
            or cell_len(text[0]) == 2
        )

    def action_choose(self) -> None:
        self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        where = self._rows[event.y] if 0 <= event.y < len(self._rows) else None
        if where is None:
            return
        x = MARGIN
        for cell in self._parts[where[0]].lines[where[1]]:
            if x <= event.x < x + cell.width and cell.first >= 0:
                self.move_to(cell.first)
            x += cell.width

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_line(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_line(-3)

    # drawing

    def on_resize(self) -> None:
        parts = self.parts
        self._parts.clear()
        for number in sorted(parts):
            self._lay_out(number, parts[number])
        self._top = (self._number(self.cursor), 0)
        self._rows = []
        self._follow()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def _style(self, tone: str) -> RichStyle:
        if tone not in self._styles:
            style = self.visual_style
            if TONES[tone]:
                style += self.app.stylesheet.parse_style(TONES[tone])
            self._styles[tone] = style.rich_style
        return self._styles[tone]

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        where = self._rows[y] if y < len(self._rows) else None
        if where is None or where[0] not in self._parts:
            waits = y == 0 and bool(self._asked)
            text = f"  {self.glyphs.more}" if waits else ""
            return Strip([Segment(text.ljust(width), self._style("dim"))], width)
        line = self._parts[where[0]].lines[where[1]]
        strongest = 0
        pieces: list[tuple[str, str]] = []
        used = MARGIN
        for cell in line:
            tone = "accent"
            if cell.first >= 0:
                known = [step for place in range(cell.first, cell.last + 1) if (step := self.step(place)) is not None]
                step = max(known, default=0)
                strongest = max(strongest, step)
                tone = "hit" if cell.first <= self.cursor <= cell.last else f"heat{step}" if step else ""
            if pieces and pieces[-1][1] == tone:
                pieces[-1] = (pieces[-1][0] + cell.text, tone)
            else:
                pieces.append((cell.text, tone))
            used += cell.width
        mark = self.glyphs.levels[2 * strongest] if strongest else " "
        segments = [Segment(mark + " ", self._style(f"heat{strongest}" if strongest else ""))]
        segments += [Segment(text, self._style(tone)) for text, tone in pieces]
        if used < width:
            segments.append(Segment(" " * (width - used), self._style("")))
        return Strip(segments, max(used, width)).crop(0, width)
