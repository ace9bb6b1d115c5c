"""What the lab has asked of its model: what is being written, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nfinspect.tui.cells import Cell
from nfinspect.tui.lab import command

if TYPE_CHECKING:
    from nfinspect.tui.lab import Setup
    from nfinspect.tui.lab_job import Experiment, Written
    from nfinspect.tui.panes.base import Pane


class Experimenting:
    """One experiment at a time, looked at by its pane.

    made_by: the setup of the newest one; written: how far it is; document: what came of it; failed: why nothing did.
    """

    def __init__(self, pane: Pane, changed: Callable[[], None]) -> None:
        """changed: called on the app's loop whenever there is news."""
        self._pane, self._changed = pane, changed
        self._experiment: Experiment | None = None
        self.made_by: Setup | None = None
        self.written: Written | None = None
        self.document: Mapping[str, Any] | None = None
        self.failed = ""

    @property
    def writing(self) -> bool:
        return self._experiment is not None

    @property
    def under_way(self) -> bool:
        return self.writing or any(work.group == "begin" for work in self._pane.asked)

    def start(self, setup: Setup) -> None:
        """Raises RequestError for a setup that makes no command."""
        asked = command(setup)
        hub = self._pane.hub
        self.made_by, self.written, self.document, self.failed = setup, None, None, ""
        experiment, flush = hub.engine.experiment(setup), hub.marks.flush
        hub.journal.ran(self._pane.crumb, asked)

        def begin() -> Experiment:
            flush()  # the backend reads what is marked from its file
            try:
                experiment.begin()
            except BaseException:
                experiment.close()
                raise
            return experiment

        self._pane.load("begin", begin, self._begun, self._ended_badly, busy="starting a backend",
                        unwanted=lambda made: made.close())  # fmt: skip
        self._changed()

    def _begun(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._changed()
        self.look()

    def look(self) -> None:
        """How far it is, in a worker."""
        if self._experiment is not None and not any(work.group == "look" for work in self._pane.asked):
            self._pane.load("look", self._experiment.look, self._looked, self._ended_badly)

    def _looked(self, written: Written) -> None:
        self.written = written
        job = written.job
        if job.ended:
            self.close()
            if written.document is not None:
                self.document = written.document
                self._pane.hub.say("")
            else:
                said = job.line.removeprefix("nfinspect: ")
                if job.state == "cancelled":  # by a key, or by a backend that ends, which says why
                    self.failed = f"cancelled: {said}" if said else "cancelled"
                else:
                    self.failed = said or f"it ended with status {job.status}"
                self._say_failed("warn" if job.state == "cancelled" else "bad")
        self._changed()

    def _ended_badly(self, line: str) -> None:
        self.close()
        self.failed = line
        self._say_failed("bad")
        self._changed()

    def _say_failed(self, tone: str) -> None:
        """Why, where it does not stand in the pane anyway."""
        here = self._pane.hub.pane is self._pane
        self._pane.hub.say(f"{self._pane.key('start')} runs it again" if here else self.failed, tone)

    def cancel(self) -> None:
        if self._experiment is not None:
            self._pane.load("cancel", self._experiment.cancel, lambda none: None)

    def close(self) -> None:
        """What has not ended is cancelled."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None

    @property
    def state(self) -> Cell:
        """Where it is, before there is a result."""
        if self.failed:
            return Cell(f"! {self.failed}", "warn" if self.failed.startswith("cancelled") else "bad")
        if not self.under_way:
            return Cell("r runs it: both texts, the likely next tokens, and what the edits cost", "dim")
        written = self.written
        if written is None or (written.job.state == "waiting" and written.loading):
            return Cell("loading the model; x cancels", "dim")
        if written.silent:
            return Cell(f"{written.silent}; x cancels", "warn")
        if written.job.state == "waiting":
            return Cell("waiting for another job of the backend; x cancels", "dim")
        job = written.job
        if job.phase == "controls":
            return Cell(f"random edits {job.done} of {job.total}; x cancels", "dim")
        count = sum(one.generated for one in written.tokens)
        return Cell(f"writing, {count:,} tokens so far; x cancels", "dim")
