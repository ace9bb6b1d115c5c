"""Pressing keys in the app and reading what is on the screen."""

from dataclasses import dataclass
from typing import Any

from textual.pilot import Pilot

from nfinspect.tui.app import NfinspectApp
from nfinspect.tui.chrome import Breadcrumbs, StatusLine


@dataclass
class Driven:
    """A running app. `press` waits until the work that a key began is on the screen."""

    app: NfinspectApp
    pilot: Pilot[Any]

    async def settle(self) -> None:
        """Until no worker is busy and what they posted has been handled; a pane may ask again while it
        is mounted.
        """
        quiet = 0
        while quiet < 2:
            await self.pilot.pause()
            pending = [w for w in self.app.workers if not w.is_finished]
            quiet = 0 if pending else quiet + 1
            if pending:
                await self.app.workers.wait_for_complete(pending)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.settle()

    async def type(self, text: str) -> None:
        """Characters into an input that has the focus, without waiting after each."""
        names = {
            " ": "space",
            "/": "slash",
            ":": "colon",
            ";": "semicolon",
            "=": "equals_sign",
            ">": "greater_than_sign",
        }
        await self.pilot.press(*(names.get(c, c) for c in text))
        await self.settle()

    @property
    def lines(self) -> list[str]:
        return [strip.text for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def crumbs(self) -> str:
        return " > ".join(self.app.screen_stack[0].query_one(Breadcrumbs).trail)

    @property
    def status(self) -> str:
        return self.app.screen_stack[0].query_one(StatusLine).cell.text

    @property
    def pane(self) -> Any:
        return self.app.pane
