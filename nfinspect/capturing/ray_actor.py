"""The process of a Ray cluster that captures a part, as its class.

In the process that began the capture Ray keeps that class for ever, and with it the names of this module, whatever
they lead to: with DuckDB among them, nanobind would print at the end what of it was never freed. So what a worker needs
is imported where it is used.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see above
    from pathlib import Path

    from nfinspect.capturing.plan import Files
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect.capturing.session import Capture, EditsIn
    from nfinspect.capturing.shard import Shard
    from nfinspect.models import LoadedModel


@dataclass(frozen=True)
class Manifest:
    """What a worker made. path: on its own machine. error: why there is no part, '' if there is."""

    host: str
    path: str
    prompts: int = 0
    tokens: int = 0
    error: str = ""


class Worker:
    """One process with one model. It becomes a Ray actor."""

    def __init__(self, request: "CaptureRequest", files: "Files", edits_in: "EditsIn | None") -> None:
        self._request = request
        self._edits_in = edits_in
        self._files = files
        self._loaded: LoadedModel | None = None

    def where(self) -> tuple[str, int]:
        """The machine, and the process."""
        return socket.gethostname(), os.getpid()

    def capture(self, shard: "Shard", *, again: bool) -> Manifest:
        """Capture a part. again: it may have been begun, or done, before."""
        from nfinspect.capturing.session import Capture, Listener, load
        from nfinspect.capturing.shard import part_name
        from nfinspect_store.catalog import new_run_path
        from nfinspect_store.errors import NfinspectError
        from nfinspect_store.reader import RunFile

        run = self._request.run or ""
        path = new_run_path(self._request.store, part_name(run, shard))
        request = replace(self._request, shard=shard, resume=again and path.exists())
        try:
            if self._loaded is None:
                self._loaded = load(request)
            capture = Capture(request, self._loaded, Listener(), self._files, self._edits_in)
            if not (request.resume and _is_done(path, capture)):
                capture.run()
            with RunFile.open(path) as part:
                return Manifest(socket.gethostname(), str(path), part.prompts, part.tokens)
        except NfinspectError as error:
            return Manifest(socket.gethostname(), str(path), error=str(error))


def _is_done(path: "Path", capture: "Capture") -> bool:
    """Whether the file at `path` is this very part, and complete."""
    from nfinspect_store.errors import NfinspectError
    from nfinspect_store.part_settings import SHARD
    from nfinspect_store.reader import RunFile

    with suppress(NfinspectError), RunFile.open(path) as run:
        return run.info.status == "complete" and run.info.settings.get(SHARD) == capture.settings[SHARD]
    return False
