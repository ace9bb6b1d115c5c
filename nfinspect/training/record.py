"""The history file of one monitor: begins with facts about the training, and ends early if the disk is full."""

import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nfinspect_store.errors import StorageFull
from nfinspect_store.history import FORMAT, HistoryWriter, timestamp


def status_of(error: BaseException | None) -> str:
    """How a training ended, given the exception that ended it, if any.

    sys.exit() and sys.exit(0) count as a normal end. What is not an Exception (KeyboardInterrupt, GeneratorExit of an
    abandoned generator, a cancelled task) interrupts a training.
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "complete"
    return "failed" if isinstance(error, Exception | SystemExit) else "interrupted"


class Record:
    """Writes lines until it is closed. A full disk ends the history, not the training.

    In a forked child (a loader's worker, multiprocessing) the copy of it does nothing: the history is the parent's.
    """

    def __init__(self, path: Path, model: str, facts: Mapping[str, Any], *, resume: bool) -> None:
        """facts: of the monitor (`every`, `first_step`, `settings`). Raises RunExists, StorageFull."""
        from nfinspect.version import VERSION

        writer = HistoryWriter(path, model, resume=resume)
        head = {
            "history_version": FORMAT,
            "run_id": uuid.uuid4().hex,
            "kind": "monitor",
            "model": model,
            "created_at": timestamp(),
            "nfinspect_version": VERSION,
            "torch_version": torch.__version__,
            **facts,
        }
        try:
            writer.add("run", head)
        except BaseException:
            writer.give_up()
            raise
        self._writer: HistoryWriter | None = writer
        self._process = os.getpid()

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        if self._writer is None or self._is_copy():
            return
        try:
            self._writer.add(kind, content)
        except StorageFull as error:
            warnings.warn(f"nfinspect: the history ends here: {error}", RuntimeWarning, stacklevel=4)
            self._writer.close()
            self._writer = None

    def beat(self, step: int) -> None:
        """Record that the training is at this step. Cheap: written at most once a second."""
        if self._writer is not None and not self._is_copy():
            self._writer.beat(step)

    def close(self, status: str, step: int) -> None:
        """Write the last line and close the file. May be called again."""
        self.add("end", {"status": status, "time": timestamp(), "step": step})
        if self._writer is not None and not self._is_copy():
            self._writer.close()
        self._writer = None

    def _is_copy(self) -> bool:
        return os.getpid() != self._process
