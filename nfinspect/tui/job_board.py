"""The commands that are under way, one for each analysis of a run, and the clock that looks at them.

A command goes on while the user looks elsewhere; the pane of its analysis shows how far it is. Nothing is looked at,
and nothing sent, while no command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from textual.timer import Timer

if TYPE_CHECKING:
    from nfinspect.tui.engine import Job, JobState

SECONDS = 0.5
"""Between two looks."""

Key = tuple[str, str]
"""A run and the name of an analysis."""


class Screenside(Protocol):
    """What the board asks of the app."""

    @property
    def pane(self) -> Any: ...
    def say(self, text: str, tone: str = "", *, keep: bool = False) -> None: ...
    def set_interval(self, interval: float, callback: Callable[[], Any]) -> Timer: ...


class JobBoard:
    """Lives on the app's event loop."""

    def __init__(self, hub: Screenside) -> None:
        self._hub = hub
        self._jobs: dict[Key, Job] = {}
        self._then: dict[Key, Callable[[JobState], None]] = {}
        self._timer: Timer | None = None
        self.ended = 0
        """How many commands have ended well: what was kept may have changed since."""
        self.models: dict[str, str] = {}
        """Where the user has said that a run's model is."""
        self.problems: dict[Key, str] = {}
        """Why the last command of an analysis failed, until it is tried again or something else is asked for."""
        self.printed: dict[Key, str] = {}
        """What commands have printed that ended well."""

    def put(self, key: Key, job: Job, then: Callable[[JobState], None] | None = None) -> None:
        """then: is told how the command ended, whichever pane is on screen by then."""
        self._jobs[key] = job
        self.problems.pop(key, None)
        if then is not None:
            self._then[key] = then
        if self._timer is None:
            self._timer = self._hub.set_interval(SECONDS, self.look)

    def state(self, key: Key) -> JobState | None:
        """How far a command is; None where none is under way."""
        return self._jobs[key].state() if key in self._jobs else None

    @property
    def under_way(self) -> tuple[str, ...]:
        """The commands that run, in words; not those that have been cancelled."""
        return tuple(f"{name} of {run}" for (run, name), job in self._jobs.items() if not job.state().cancelled)

    def cancel(self, key: Key) -> bool:
        """Whether there is one to cancel."""
        if key in self._jobs:
            self._jobs[key].cancel()
        return key in self._jobs

    def forget_run(self, run: str) -> None:
        """A run is being deleted: nothing more is made of it."""
        for key in list(self._jobs):
            if key[0] == run:
                self._jobs[key].cancel()
        self.printed = {key: text for key, text in self.printed.items() if key[0] != run}
        self.problems = {key: line for key, line in self.problems.items() if key[0] != run}

    def close(self) -> None:
        for job in self._jobs.values():
            job.cancel()

    def look(self) -> None:
        """Tell the pane on screen about its command, or the user that another one has ended."""
        for key, job in list(self._jobs.items()):
            state = job.state()
            if state.status is not None:
                del self._jobs[key]
                if state.status == 0:
                    self.ended += 1
                    self.printed[key] = job.output()
                elif not state.cancelled:
                    self.problems[key] = state.line
            pane: Any = self._hub.pane
            if getattr(pane, "job_key", None) == key and pane.is_attached:  # not while the app ends
                pane.job_news(state)
            elif state.status is not None:
                self._tell(key, state)
                if hasattr(pane, "other_job_ended"):
                    pane.other_job_ended()
            if state.status is not None and (then := self._then.pop(key, None)) is not None:
                then(state)
        if not self._jobs and self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _tell(self, key: Key, state: JobState) -> None:
        run, name = key
        if state.status == 0:
            self._hub.say(f"{name} of {run} is done", "good", keep=True)
        else:
            self._hub.say(f"{name} of {run}: {state.line}", "warn" if state.cancelled else "bad", keep=True)
