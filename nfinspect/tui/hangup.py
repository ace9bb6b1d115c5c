"""A dropped SSH link must end the app: Textual installs no SIGHUP handler, and its threads would spin on
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


def leave(farewell: Callable[[], None]) -> None:
    """Run `farewell`, but not for long, and end the process without touching the terminal."""

    def last_words() -> None:
        with contextlib.suppress(Exception):
            farewell()

    thread = threading.Thread(target=last_words, daemon=True)
    thread.start()
    thread.join(GRACE_SECONDS)
    os._exit(HUNG_UP)


def watch_terminal(fd: int, quit_app: Callable[[], None], farewell: Callable[[], None]) -> Callable[[], None]:
    """Returns what ends the watch: a thread left running would hold the app, and its database, past the end.

    Install the SIGHUP handler (main thread only) and a thread that looks whether the terminal is still there.

    A SIGHUP with the terminal still alive (kill -HUP) leaves through `quit_app`, so that the screen is
    restored.
    """

    def on_hangup(signum: int, frame: FrameType | None) -> None:
        if terminal_lost(fd):
            leave(farewell)
        watchdog = threading.Timer(GRACE_SECONDS, leave, [farewell])
        watchdog.daemon = True
        watchdog.start()
        quit_app()

    over = threading.Event()

    def look() -> None:
        while not over.wait(POLL_SECONDS):
            if terminal_lost(fd):
                leave(farewell)

    before = None
    with contextlib.suppress(ValueError):  # not the main thread: someone else owns the signals
        before = signal.signal(signal.SIGHUP, on_hangup)
    thread = threading.Thread(target=look, name="nfinspect-terminal", daemon=True)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()
        if before is not None:
            signal.signal(signal.SIGHUP, before)

    return stop
