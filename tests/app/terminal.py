"""The app in a real pseudo-terminal:

what it sends, how soon, and what it does when the terminal goes away.
"""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

RUN = (
    "import sys; from pathlib import Path; from nfinspect.tui.start import run_app; "
    "sys.exit(run_app(Path(sys.argv[1]), sys.argv[2] or None, **eval(sys.argv[3])))"
)


def _own_terminal() -> None:
    """In the child: a session of its own with stdin as its terminal, so that a hang-up reaches it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A child process with `run_app` on the other side of a pseudo-terminal, and a screen that follows
    its output.
    """

    def __init__(
        self,
        store: Path,
        run: str = "",
        *,
        size: tuple[int, int] = (80, 24),
        options: str = "{}",
        code: str = RUN,
        **environment: str,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        variables = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
        variables.pop("COLUMNS", None)
        variables.pop("LINES", None)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(store), run, options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=variables,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def read(self, seconds: float) -> bytes:
        """What comes within `seconds`; returns early only when the process has closed its side."""
        end = time.perf_counter() + seconds
        got = b""
        while (left := end - time.perf_counter()) > 0:
            if not select.select([self.master], [], [], left)[0]:
                break
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            got += data
            self.raw += data
            # pyte knows no private-marker SGR and kitty sequences; they draw nothing
            with contextlib.suppress(Exception):
                self._stream.feed(data)
        return got

    def wait_for(self, text: str, seconds: float = 20.0) -> float:
        """Seconds since the start until `text` stands on the screen, on one line or as words over the ends of lines:
        where a command is broken depends on the lengths of paths.
        """
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.read(0.01)
            if text in self.text or text in self.words:
                return time.perf_counter() - self.started
        raise AssertionError(f"{text!r} did not come; the screen is:\n{self.text}")

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    @property
    def words(self) -> str:
        """The screen's text with one space for any white space."""
        return " ".join(self.text.split())

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def settle(self, quiet: float = 0.2, most: float = 10.0) -> None:
        """Until nothing has come for `quiet` seconds."""
        end = time.perf_counter() + most
        while time.perf_counter() < end and self.read(quiet):
            pass

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.master >= 0:
            os.close(self.master)
