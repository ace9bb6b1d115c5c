"""A lost SSH connection, or a kill, must end the app: Textual installs no handlers, and its threads would spin on the
dead tty.

When the terminal is gone, nothing can be drawn or restored, and Textual's own exit writes to the terminal and joins
threads that wait for it. So this exit is short: `farewell` (interrupt queries, end commands), then end the process.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

HUNG_UP = 128 + signal.SIGHUP
POLL_SECONDS = 2.0
GRACE_SECONDS = 2.0
"""Time for `farewell`, once the terminal is gone."""

PATIENCE_SECONDS = 6.0
"""Time for the ordinary exit, which ends commands and restores the terminal; after it the short exit is taken."""


def terminal_lost(fd: int) -> bool:
    """Whether the terminal behind `fd` has gone (its other end is closed)."""
    poller = select.poll()
    poller.register(fd, select.POLLHUP)
    try:
        events = poller.poll(0)
    except OSError:
        return True
    if any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in events):
        return True
    try:
        os.tcgetpgrp(fd)
    except OSError as error:
        import errno

        return error.errno in (errno.EIO, errno.ENXIO, errno.EBADF)
    return False


def leave(farewell: Callable[[], None], status: int = HUNG_UP) -> None:
    """Run `farewell`, for GRACE_SECONDS at most, and end the process without touching the terminal."""

    def last_words() -> None:
        with contextlib.suppress(Exception):
            farewell()

    thread = threading.Thread(target=last_words, daemon=True)
    thread.start()
    thread.join(GRACE_SECONDS)
    os._exit(status)


def watch_terminal(fd: int, quit_app: Callable[[int], None], farewell: Callable[[], None]) -> Callable[[], None]:
    """Handle SIGHUP and SIGTERM (main thread only), and check in a thread whether the terminal is still there.

    If a signal comes while the terminal is alive (kill), `quit_app` is called with the exit status, so that the screen
    is restored. Returns a function that ends the watch: a thread left running would keep the app, and its database,
    alive.
    """

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if terminal_lost(fd):
            leave(farewell, 128 + signum)
        watchdog = threading.Timer(PATIENCE_SECONDS, leave, [farewell, 128 + signum])
        watchdog.daemon = True
        watchdog.start()
        quit_app(128 + signum)

    over = threading.Event()

    def look() -> None:
        while not over.wait(POLL_SECONDS):
            if terminal_lost(fd):
                leave(farewell)

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: another one owns the signals
        for number in (signal.SIGHUP, signal.SIGTERM):
            before[number] = signal.signal(number, on_signal)
    thread = threading.Thread(target=look, name="nfinspect-terminal", daemon=True)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)

    return stop
