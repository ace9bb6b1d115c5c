"""How the app paints: a new pane once, with its first answers, instead of empty first and then again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from textual._compositor import CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.geometry import Size
from textual.screen import Screen
from textual.theme import Theme
from textual.timer import Timer

from nfinspect.tui import theme as colours
from nfinspect.tui.frames import Cells, Changed

HOLD_SECONDS = 0.1
"""How long a pane's answers are waited for: a pane that is slower is painted as it is [own]."""

NEXT_UPDATE = 0.02
"""Seconds within which Textual paints what it knows to be dirty."""


class HeldScreen(Screen[Any]):
    """A screen whose painting can be put off; layouts go on, so that a pane's widgets know their sizes.

    A paint of 200 x 50 cells takes longer than most answers do, and holds up the thread that works on them.
    """

    _hold: Timer | None = None
    _expected: set[object] | None = None

    def hold(self) -> None:
        """Paint nothing until `answered` has seen the first answers, or for HOLD_SECONDS."""
        if self._hold is None:
            self._hold = self.set_timer(HOLD_SECONDS, self.release)
        self._expected = None

    def answered(self, work: object, others: Iterable[object]) -> None:
        """An answer for the pane on screen. others: what else is asked for. Once everything has come that was asked for
        before the first answer, the screen is painted.
        """
        if self._hold is None:
            return
        if self._expected is None:
            self._expected = set(others)
        self._expected.discard(work)
        if not self._expected:
            self.release()

    def release(self) -> None:
        """Paint with the next update, which the answers bring about, or else soon."""
        if self._hold is not None:
            self._hold.stop()
            self._hold, self._expected = None, None
            self.set_timer(NEXT_UPDATE, self._late_refresh)

    def _late_refresh(self) -> None:
        """Where a layout is due, it paints."""
        if not self._layout_required:
            self._compositor_refresh()

    def _compositor_refresh(self) -> None:
        """What is not painted stays dirty. A paint takes all that widgets have asked for, also before their first
        layout: Textual forgets who asked then, and the next line that changes would bring the whole widget again.
        """
        if self._hold is None:
            self._compositor.update_widgets(set(self._compositor.visible_widgets))
            super()._compositor_refresh()


class PaintedApp(App[int]):
    """An app in our colours, whose first screen is a HeldScreen, and whose frames are sent as what they change."""

    _theme: Theme | None = None

    def __init__(self) -> None:
        sixteen = colours.few_colours(os.environ)
        # passed here, not set by the theme below: Textual chooses its NO_COLOR filter in the constructor
        super().__init__(ansi_color=True if sixteen else None)
        self._cells = Cells()
        self._painted = Size()
        self.register_theme(colours.OWN)
        self.theme = "ansi-dark" if sixteen else colours.NAME

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(colours.SIXTEEN)

    def paint_whole(self) -> None:
        """The next frame is sent whole."""
        self._cells.forget()

    def repaint(self, cause: object = None) -> None:
        """Paint everything now: something else may have written to the terminal."""
        self.paint_whole()
        self.screen.refresh()

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate):
            if isinstance(renderable, LayoutUpdate) and renderable.region.size != self._painted:
                self._painted = renderable.region.size  # what was sent between the resize and this is of the old size
                self._cells.forget()
            renderable = Changed(renderable, self._cells)
        elif renderable is not None:
            self._cells.forget()
        super()._display(screen, renderable)

    def get_default_screen(self) -> HeldScreen:
        return HeldScreen(id="_default")

    @property
    def current_theme(self) -> Theme:
        """Textual asks for it at each line that it draws, and copies all themes to find it."""
        if self._theme is None or self._theme.name != self.theme:
            self._theme = super().current_theme
        return self._theme
