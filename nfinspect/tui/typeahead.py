"""Keys typed faster than the app moves: each goes to what the one before it has brought on screen.

Textual hands a key to whatever has the focus when the key arrives. Over a slow link `:sql` or `n` `Enter` arrives at
once, and its second half would go to the pane that is being left. So one key is handled at a time: a marker follows it
on the same route (focused widget, its ancestors, the app), twice, because an action may post a message to its pane,
which then changes the place. The next key is let in only when the second marker has arrived. While a run is being
opened, keys wait for its layers, for which they are meant.
"""

from __future__ import annotations

import time
from collections import deque

from textual import events
from textual.message import Message
from textual.message_pump import MessagePump

from nfinspect.tui.painting import PaintedApp

STUCK_SECONDS = 1.0
"""A marker can get lost with a widget that is removed: then keys are let in again after this."""

AT_ONCE = ("escape", "ctrl+c", "ctrl+q")
"""Keys that are never meant for a place that is still being opened."""


class KeyDone(Message):
    """Follows a key. `target` is the widget that the key was handed to."""

    def __init__(self, target: MessagePump, serial: int, again: bool) -> None:
        super().__init__()
        self.target = target
        self.serial = serial
        self.again = again


class TypeAhead:
    """Which key is under way, and the ones that wait."""

    def __init__(self) -> None:
        self._waiting: deque[events.Key] = deque()
        self._since: float | None = None
        self._serial = 0

    @property
    def busy(self) -> bool:
        """Whether a key is under way or waits."""
        return bool(self._waiting) or self._since is not None

    def hold(self, event: events.Key, *, on_the_way: bool) -> bool:
        """Whether the key has to wait, behind those that wait already; otherwise it may be let in.

        on_the_way: a place is being opened.
        """
        if on_the_way and (event.key in AT_ONCE or (event.key == "q" and not self._waiting)):
            self._waiting.clear()  # what was typed for that place
            return False
        if on_the_way or self._waiting or (self._since is not None and time.monotonic() - self._since < STUCK_SECONDS):
            self._waiting.append(event)
            return True
        return False

    def begin(self) -> None:
        """A key is under way now."""
        self._since = time.monotonic()
        self._serial += 1

    def follow(self, target: MessagePump) -> None:
        """Send the first marker after the key."""
        target.post_message(KeyDone(target, self._serial, again=True))

    def done(self, marker: KeyDone, *, on_the_way: bool) -> events.Key | None:
        """A marker has arrived: the key that may go now, if one waits and no place is being opened."""
        if marker.serial != self._serial:
            return None
        if marker.again and marker.target.post_message(KeyDone(marker.target, marker.serial, again=False)):
            return None
        self._since = None
        return self._waiting.popleft() if self._waiting and not on_the_way else None

    def next(self) -> events.Key | None:
        """The next key, unless one is under way: its marker may have been lost."""
        if self._waiting and (self._since is None or time.monotonic() - self._since >= STUCK_SECONDS):
            self._since = None
            return self._waiting.popleft()
        return None


class TypeAheadApp(PaintedApp):
    """An app that lets keys in one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._typed = TypeAhead()

    @property
    def opening(self) -> bool:
        """Whether the place on screen is waiting for another, for which the keys are meant."""
        return False

    def give_up_opening(self) -> None:
        """Esc was typed meanwhile."""

    def before_key(self) -> None:
        """A key is let in now."""

    def after_key(self) -> None:
        """It has done all that it does at once."""

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif self._typed.hold(event, on_the_way=self.opening):
            self.set_timer(STUCK_SECONDS, self.let_in_next)
        else:
            await self._let_in(event)

    async def _let_in(self, event: events.Key) -> None:
        if self.opening and event.key == "escape":
            self.give_up_opening()
            return
        self._typed.begin()
        self.before_key()
        target = self.focused or self.screen
        await super().on_event(event)
        self._typed.follow(target)

    async def on_key_done(self, message: KeyDone) -> None:
        message.stop()
        event = self._typed.done(message, on_the_way=self.opening)
        if event is not None or not self._typed.busy:
            self.after_key()
        if event is not None:
            await self._let_in(event)

    async def let_in_next(self) -> None:
        """The next key that waits, unless it has to wait on."""
        if not self.opening and (event := self._typed.next()) is not None:
            await self._let_in(event)
