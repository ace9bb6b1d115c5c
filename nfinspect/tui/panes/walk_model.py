"""The command that reads a run's model for the token walk: the app itself loads none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.present.numbers import duration
from nfinspect.tui.commands import by_backend
from nfinspect.tui.panes.command import Runner

if TYPE_CHECKING:
    from nfinspect.tui.jobs import Job
    from nfinspect.tui.panes.run_pane import RunPane
    from nfinspect.tui.requests import JobState


class ModelReading:
    """`nfinspect walk RUN`; what it finds is saved with the run."""

    def __init__(self, pane: RunPane) -> None:
        self._pane = pane
        self._runner = Runner(pane, (pane.session.name, "walk"), self._say)

    def start(self) -> None:
        hub, session = self._pane.hub, self._pane.session
        if self._runner.under_way:
            self._runner.say_under_way()
            return
        command = ("walk", session.name, "--store", str(hub.engine.store))
        hub.journal.ran(self._pane.crumb, command)

        def start() -> Job:
            return hub.engine.start(by_backend(command, session, hub.engine.captures.holds))

        self._runner.start(start, lambda state: None, lambda line: None, key=self._runner.key, busy="starting walk")

    def cancel(self) -> None:
        if not self._runner.cancel():
            self._pane.hub.say("nothing is being computed here; :lab leads to the lab", "dim")

    def news(self, state: JobState) -> None:
        """From the board: how far it is, and how it ended."""
        if state.status is None:
            self._say()
        elif state.status:
            self._pane.hub.say(state.line, "warn" if state.cancelled else "bad")
        else:
            self._pane.hub.say("the model was read: c colours by surprisal, r ranks by contribution", "good")

    def _say(self) -> None:
        if (state := self._runner.state) is not None:
            self._pane.hub.say(
                f"reading the model, {duration(state.seconds)}: {state.line}  (x cancels)", "dim", of=self._runner.key
            )
