"""The last filter before the terminal: no drawn line, whichever widget it is from, holds what a terminal would act on.

Our widgets make text visible before they measure it (`nfinspect.tui.cells`), so that nothing is left to do here. It is
for Textual's own, which hold what was typed, pasted or offered (inputs, the editor, the palette, notifications).
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from nfinspect.text import is_plain, pieces

SIGN = "?"
"""Drawn in each cell of what cannot be shown: the line is laid out already and must keep its length."""


class Harmless(LineFilter):
    """The app's filter. plain: only ASCII passes."""

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
