"""Stopping a capture between two batches when the user, the terminal or the system asks to."""

import signal
import threading
from types import FrameType

SIGNALS = {"SIGINT": "Ctrl-C", "SIGTERM": "the system asked for it", "SIGHUP": "the terminal hung up"}


class StopRequest:
    """Inside this context the last signal is recorded in `reason`; Ctrl-C after another raises KeyboardInterrupt.

    Ignored signals stay ignored: `nohup` lets a capture outlive its terminal. Outside the main thread, where Python
    delivers no signals, no handler is installed.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = SIGNALS[signal.Signals(number).name]
