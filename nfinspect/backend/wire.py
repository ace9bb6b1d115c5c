"""A connection to a backend, from either side: messages and frames of bytes over a Unix socket. No torch."""

import contextlib
import os
import select
import socket
import struct
import threading
from typing import TypeVar

from nfinspect.backend.protocol import FRAME, LINE, VERSION, BadMessage, Bytes, Hello, Message, decoded, encoded
from nfinspect_store.errors import NfinspectError

Kind = TypeVar("Kind")

SENDING = 60.0
"""Seconds that the other side may take to read what is sent to it: one that has stopped must not hold up a capture."""


class Gone(NfinspectError):
    """The other side has ended, or was cut off."""


class Silent(Gone):
    """The other side has sent nothing for as long as it was waited for."""


class NotAllowed(NfinspectError):
    """A process of another user."""


class Wire:
    """Messages over one socket. One thread at a time asks; `close` may be called by any."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._read = connection.makefile("rb")
        self._closing = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def peer(self) -> int:
        """The user id of the process on the other side."""
        size = struct.calcsize("3i")
        found = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(found[1])

    def check_peer(self, what: str) -> None:
        """Raises NotAllowed unless the process on the other side is this user's."""
        if (found := self.peer()) != os.getuid():
            raise NotAllowed(f"expected a {what} of user {os.getuid()}, found one of user {found}: it is not talked to")

    def greet(self, timeout: float | None = None) -> None:
        """Exchange Hello. Raises BadMessage for another version, Silent after `timeout` seconds."""
        self.send(Hello())
        found = self.receive(Hello, timeout, limit=4096).version
        if found != VERSION:
            raise BadMessage(
                f"expected version {VERSION} of the backend's protocol, found {found}: a backend and its clients must "
                "be of one version of nfinspect; nfinspect backends --stop ID ends an old one"
            )

    def send(self, message: Message, data: bytes = b"") -> None:
        """Send a message, with the frame that belongs to a Bytes. Raises Gone."""
        try:
            self._socket.settimeout(SENDING)
            self._socket.sendall(encoded(message) + data)
        except (OSError, ValueError) as error:
            raise Gone(f"the connection was lost: {getattr(error, 'strerror', None) or error}") from error

    def answers(self, seconds: float) -> bool:
        """Whether an answer to what was asked has begun to come, within so many seconds. Nothing may be left of the
        answer before. Raises Gone.
        """
        poller = select.poll()
        try:
            poller.register(self._socket, select.POLLIN)
            return bool(poller.poll(seconds * 1000))
        except (OSError, ValueError) as error:  # closed meanwhile
            raise Gone("the connection has ended") from error

    def receive(self, kind: type[Kind], timeout: float | None = None, limit: int = LINE) -> Kind:
        """The next message. Raises Gone at the end or after `timeout` seconds, and BadMessage for another kind."""
        message = self.receive_any(timeout, limit)
        if not isinstance(message, kind):
            raise BadMessage(f"expected {kind.__name__}, found {type(message).__name__}")
        return message

    def receive_any(self, timeout: float | None = None, limit: int = LINE) -> Message:
        """The next message, whichever it is. Raises Gone, BadMessage."""
        try:
            self._socket.settimeout(timeout)
            line = self._read.readline(limit + 1)
        except TimeoutError as error:
            raise Silent(f"nothing came for {timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise Gone(f"the connection was lost: {getattr(error, 'strerror', None) or error}") from error
        if not line:
            raise Gone("the connection has ended")
        if not line.endswith(b"\n"):
            if len(line) > limit:
                raise BadMessage(f"expected a message of at most {limit} bytes, found a longer one")
            raise Gone("the connection ended within a message")
        return decoded(line)

    def frame(self, told: Bytes, timeout: float | None = None) -> bytes:
        """The bytes that follow a Bytes. Raises Gone, BadMessage."""
        if not 0 <= told.bytes <= FRAME:
            raise BadMessage(f"expected a frame of at most {FRAME} bytes, found {told.bytes}")
        try:
            self._socket.settimeout(timeout)
            data = self._read.read(told.bytes)
        except (OSError, ValueError) as error:
            raise Gone(f"the connection was lost: {getattr(error, 'strerror', None) or error}") from error
        if len(data) < told.bytes:
            raise Gone("the connection ended within a frame")
        return data

    def shut(self) -> None:
        """End the conversation: both sides notice, whatever they are doing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.shut()
        with contextlib.suppress(OSError):
            self._read.close()
        self._socket.close()
