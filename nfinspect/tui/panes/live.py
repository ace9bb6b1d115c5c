"""A run that is being captured: how far it is, from the small file that its capture keeps next to it.

DuckDB lets no other process read a file that one writes, so this is all there is to see of a capture in a process of
its own until it has finished; then the run opens by itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.live import RESUME, capture_lines, sentence
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.types import Progress

SECONDS = 0.5
"""Seconds between two looks: shorter ones would be felt on a slow link."""


class LivePane(Pane):
    """Looks twice a second, and draws only what has changed."""

    help_text = (
        "The capture writes down how far it is; nothing else of a run can be read while it is written. When it has "
        "finished, the run opens here by itself."
    )

    BINDINGS: ClassVar[list[BindingType]] = [Binding("p", "pause", "Pause the view", id="live.pause")]

    _progress: Progress | None = None
    _paused = False
    _over = False

    def __init__(self, run: str) -> None:
        super().__init__(f"{run} (capturing)")
        self._run = run

    def compose(self) -> ComposeResult:
        yield TextPanel(id="progress")

    @property
    def hint(self) -> str:
        return "paused" if self._paused else ""

    def entered(self) -> None:
        self._over = False
        self.look_every(SECONDS, self._look)
        self._look()

    def on_resize(self) -> None:
        self._draw()

    def _look(self) -> None:
        if not self._paused and not self._over and self.app.screen is self.screen:
            self.load("progress", partial(self.hub.engine.progress, self._run), self._show)

    # answers

    def _show(self, progress: Progress | None) -> None:
        if progress is None:  # the capture has deleted its file: it has ended, in one way or another
            self._over = True
            opened = partial(self.hub.engine.open, self._run)
            self.load("opened", opened, self._opened, self._not_opened, busy=f"opening {self._run}")
            return
        self._progress = progress
        self._draw()

    def _opened(self, session: Session) -> None:
        status, here = session.info.status, self.hub.pane is self
        self.hub.opened(session, show=here)
        if status != "complete" and here:
            self.hub.say(f"{session.name} is {status}: {RESUME}", "warn", keep=True)

    def _not_opened(self, line: str) -> None:
        self.say_failed(line)
        pieces = [Cell(f"The capture of {self._run} has ended, and saved no run.", "bad")]
        self.query_one(TextPanel).put(content(*pieces, f"\n{sentence(line)}\n"))

    def _draw(self) -> None:
        if self._progress is None:
            return
        shown = content("\n", *capture_lines(self._progress, self.size.width - 4, self.glyphs))
        panel = self.query_one(TextPanel)
        if shown.plain != self._drawn:
            self._drawn = shown.plain
            panel.put(shown)

    _drawn = ""

    # keys

    def action_pause(self) -> None:
        self._paused = not self._paused
        self.hub.say("this view is paused, the capture goes on; p follows it again" if self._paused else "", "dim")
        self.hub.update_trail()
        self._look()
