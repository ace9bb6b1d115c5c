"""Pressing keys in the app and reading what is on the screen."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from textual import events
from textual.keys import _character_to_key, key_to_character
from textual.pilot import Pilot

from nfinspect.tui.app import NfinspectApp
from nfinspect.tui.chrome import Breadcrumbs, StatusLine
from nfinspect.tui.painting import HeldScreen

SMALL, LARGE = (80, 24), (200, 50)
SIZES = [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)]
"""Of tests that look at both: `make test` tries the small one, in which there is least room."""

SETTLED = 120.0
"""Seconds after which what a key began is taken for stuck."""


@dataclass
class Driven:
    """A running app. `press` waits until the work that a key began is on the screen."""

    app: NfinspectApp
    pilot: Pilot[Any]

    async def settle(self) -> None:
        """Until no worker is busy, no message waits and nothing is left to draw.

        Textual's own pause looks at the processor time of the process, which costs 40 ms a key and, on a busy
        machine, is not enough.
        """
        quiet, deadline = 0, time.monotonic() + SETTLED
        while quiet < 5:
            await asyncio.sleep(0.002)
            quiet = 0 if self.at_work() else quiet + 1
            assert time.monotonic() < deadline, f"still at work; keys waiting: {self.app._typed.busy}\n{self.text}"

    def at_work(self) -> bool:
        screen = self.app.screen
        nodes = [
            self.app,
            *self.app.screen_stack,
            *(n for s in self.app.screen_stack for n in s.walk_children()),
        ]
        return (
            any(not worker.is_finished for worker in self.app.workers)
            or any(not node._message_queue.empty() for node in nodes)
            or bool(screen._layout_required or screen._dirty_widgets or screen._repaint_required)
            or (isinstance(screen, HeldScreen) and screen.paint_is_due)
            or self.app._typed.busy
        )

    async def press(self, *keys: str) -> None:
        for key in keys:
            self._send(key)
            await self.settle()

    async def type(self, text: str) -> None:
        """Characters into an input that has the focus, without waiting after each."""
        for character in text:
            self._send(character)
        await self.settle()

    def _send(self, key: str) -> None:
        name = _character_to_key(key) if len(key) == 1 else key
        character = key if len(key) == 1 else key_to_character(name)
        self.app.post_message(events.Key(name, character))

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


Start = Callable[..., AbstractAsyncContextManager[Driven]]
"""The fixture `start` of conftest.py."""
