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
