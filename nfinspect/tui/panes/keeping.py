"""A generation of the lab kept as a run: a capture of its prompt with its edits, by the backend of its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.backend.protocol import JobState
    from nfinspect.tui.captures import JobAt, Seen, Watch
    from nfinspect.tui.panes.base import Pane


class Keeping:
    """The run that a pane is keeping, or has kept. The capture goes on when the pane is left."""

    def __init__(self, pane: Pane, changed: Callable[[], None]) -> None:
        """changed: called on the app's loop whenever there is news."""
        self._pane, self._changed = pane, changed
        self.run = ""
        """Its name; empty while nothing is kept."""

        self.done = False
        self.failed = ""
        self._watch: Watch | None = None
        self._begun: tuple[JobAt, JobState] | None = None

    @property
    def under_way(self) -> bool:
        return self._begun is not None or any(work.group == "keep" for work in self._pane.asked)

    def start(self, run: str, command: Sequence[str], write: Callable[[], None]) -> None:
        """Have the backend of the model make a capture. write: called before it, in the worker."""
        self.forget()
        self.run = run
        captures = self._pane.hub.engine.captures

        def begin() -> tuple[JobAt, JobState]:
            write()
            return captures.begin(command, Path.cwd())

        self._pane.load("keep", begin, self._has_begun, self._ended_badly, busy=f"keeping {run}", lasting=True)
        self._changed()

    def _has_begun(self, begun: tuple[JobAt, JobState]) -> None:
        self._begun = begun
        self.look()
        self._changed()

    def look(self) -> None:
        """How far it is, in a worker."""
        if self._begun is None or any(work.group == "kept" for work in self._pane.asked):
            return
        if self._watch is None:
            self._watch = self._pane.hub.engine.captures.watch(*self._begun)
        self._pane.load("kept", self._watch.look, partial(self._looked, self._watch), self._ended_badly)

    def _looked(self, watch: Watch, seen: Seen) -> None:
        if watch is not self._watch or not seen.over:
            return
        self.let_go()
        self._begun = None
        if seen.job.state == "done":
            self.done = True
            self._pane.hub.say(f"kept as {self.run}: Enter on its line opens it", "good")
        else:
            self.failed = seen.lost or seen.job.line.removeprefix("nfinspect: ") or seen.job.state
            self._pane.hub.say(self.failed, "bad")
        self._changed()

    def _ended_badly(self, line: str) -> None:
        self.let_go()
        self._begun, self.failed = None, line
        self._pane.say_failed(line)
        self._changed()

    def go(self) -> None:
        """To the run, or to how far it is."""
        hub = self._pane.hub
        if self.done:
            hub.open_run(self.run)
        elif self._begun is not None:
            hub.follow(self.run, *self._begun)
        elif self.failed:
            hub.say(self.failed, "bad")

    @property
    def told(self) -> str:
        """What is to be said of it, in a few words."""
        if self.failed:
            return f"not {self.run}: {self.failed}"
        return f"{self.run}  (Enter opens it)" if self.done else f"{self.run}  (capturing: Enter shows how far it is)"

    def forget(self) -> None:
        """Another generation is on screen, or will be."""
        self.let_go()
        self.run, self.done, self.failed, self._begun = "", False, "", None

    def let_go(self) -> None:
        """Look no longer; the capture goes on."""
        if self._watch is not None:
            self._pane.hub.engine.captures.forget(self._watch)
            self._watch = None
