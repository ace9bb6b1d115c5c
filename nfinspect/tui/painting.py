"""How the app paints: a new pane once, with its first answers, instead of empty first and then again."""

from __future__ import annotations

import os
from functools import partial
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

SETTLED_SECONDS = 0.002
"""How long messages that may change what is shown are waited for, again and again until there are none."""

MOST_LOOKS, MOST_LAYOUTS = 10, 3
"""How often they are looked for, and layouts without a paint between: what changes all the time is painted, too."""


class HeldScreen(Screen[Any]):
    """A screen whose painting waits until what it shows is there: the first answers of a new pane, and the sizes that
    a layout gives its widgets.

    A paint of 200 x 50 cells takes longer than most answers do, and holds up the thread that works on them.
    """

    _hold: Timer | None = None
    _soon: Timer | None = None
    _laying_out = False
    _unpainted = 0
    """Layouts since the last paint."""

    @property
    def paint_is_due(self) -> bool:
        """Whether a paint has been put off."""
        return self._hold is not None or self._soon is not None

    def hold(self) -> None:
        """Paint nothing until `release`, or for HOLD_SECONDS. Layouts go on, so that widgets know their sizes."""
        if self._hold is None:
            self._hold = self.set_timer(HOLD_SECONDS, self.release)

    def release(self) -> None:
        """Paint what there is, and what the last answers bring about."""
        if self._hold is not None:
            self._hold.stop()
            self._hold = None
            self._paint_soon()

    def _refresh_layout(self, size: Size | None = None, scroll: bool = False) -> None:
        """Textual paints here. What widgets change when they learn their sizes would be painted a second time."""
        self._laying_out = True
        try:
            super()._refresh_layout(size, scroll)
        finally:
            self._laying_out = False

    def _compositor_refresh(self) -> None:
        """What is not painted stays dirty. A paint takes all that widgets have asked for, also before their first
        layout: Textual forgets who asked then, and the next line that changes would bring the whole widget again.
        """
        if self._hold is not None:
            return
        if self._laying_out and self._unpainted < MOST_LAYOUTS:
            self._unpainted += 1
            self._paint_soon()
        if self._soon is None:
            self._unpainted = 0
            self._compositor.update_widgets(set(self._compositor.visible_widgets))
            super()._compositor_refresh()

    def _paint_soon(self, looks: int = MOST_LOOKS) -> None:
        if self._soon is None:
            self._soon = self.set_timer(SETTLED_SECONDS, partial(self._paint_settled, looks - 1))

    def _paint_settled(self, looks: int) -> None:
        """Paint, or lay out again, once no widget has a message left that may change what it shows."""
        self._soon = None
        widgets = (self, *self._compositor.visible_widgets)
        if looks and any(not widget._message_queue.empty() for widget in widgets):
            self._paint_soon(looks)
            return
        self._on_timer_update()
        if self._soon is None and self._compositor._dirty_regions:
            self._compositor_refresh()


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
