"""The last thing before the terminal: no line that is drawn, by whichever widget, holds what a terminal would act on.

Widgets of ours make text visible before they measure it (`nfinspect.tui.cells`), and this finds nothing to do. What is
left are those of Textual that hold what was typed, pasted or offered (inputs, the editor, the palette, notifications).
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from nfinspect.text import is_plain, pieces

SIGN = "?"
"""Stands in each cell of what cannot be shown: the line is laid out already, so it can be no longer than that."""


class Harmless(LineFilter):
    """Of every app of ours. plain: nothing but ASCII passes."""

    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self._plain = plain

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if all(is_plain(segment.text, ascii_only=self._plain) for segment in segments):
            return segments
        return [
            Segment(self._harmless(text), style, control) if not control else Segment(text, style, control)
            for text, style, control in segments
        ]

    def _harmless(self, text: str) -> str:
        every = pieces(text, ascii_only=self._plain)
        return "".join(shown if shown == own else SIGN * cell_len(own) for own, shown in every)
