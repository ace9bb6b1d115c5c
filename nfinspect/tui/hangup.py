"""A dropped SSH link, or a kill, must end the app: Textual installs no handlers, and its threads would spin on
the dead tty.

When the terminal is gone, nothing can be drawn or restored, and Textual's own way out writes to the
terminal and joins threads that wait for it. So the way out is short: `farewell` (interrupt queries, close
files), then leave the process.
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
"""For the last words, once the terminal is gone."""

PATIENCE_SECONDS = 6.0
"""For the ordinary way out, which ends commands and gives the terminal back."""


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
    """Run `farewell`, but not for long, and end the process without touching the terminal."""

    def last_words() -> None:
        with contextlib.suppress(Exception):
            farewell()

    thread = threading.Thread(target=last_words, daemon=True)
    thread.start()
    thread.join(GRACE_SECONDS)
    os._exit(status)


def watch_terminal(fd: int, quit_app: Callable[[int], None], farewell: Callable[[], None]) -> Callable[[], None]:
    """Returns what ends the watch: a thread left running would hold the app, and its database, past the end.

    Install the handlers of SIGHUP and SIGTERM (main thread only) and a thread that looks whether the terminal is still
    there.

    A signal with the terminal still alive (kill) leaves through `quit_app`, which is told the exit status, so that the
    screen is restored.
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
    with contextlib.suppress(ValueError):  # not the main thread: someone else owns the signals
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
