"""Running a pane's commands: from the key, through the line that may be edited, to how they ended.

A command goes on when its pane is left (jobs): the board tells the pane on screen how far it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from nfinspect.analyses import command_of, spec
from nfinspect.tui.commands import MODEL, TEXT, by_backend, incomplete, make_command
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.panes.run_pane import RunPane

if TYPE_CHECKING:
    from nfinspect.tui.jobs import Job
    from nfinspect.tui.requests import JobState
    from nfinspect_store.results import Result

UNDER_WAY = "it is being computed already; x cancels it"


class Runner:
    """The command of a pane. key: its run and its analysis, as on the board; draw: shows how far it is."""

    def __init__(self, pane: Pane, key: tuple[str, str], draw: Callable[[], None]) -> None:
        self._pane = pane
        self._draw = draw
        self._starting = False
        self.key = pane.job_key = key

    @property
    def state(self) -> JobState | None:
        """How far the command is, None where none runs."""
        return self._pane.hub.board.state(self.key)

    @property
    def under_way(self) -> bool:
        return self._starting or self.state is not None

    def say_under_way(self) -> None:
        self._pane.hub.say(UNDER_WAY, "dim", of=self.key)

    def start(
        self,
        start: Callable[[], Job],
        ended: Callable[[JobState], None],
        failed: Callable[[str], None],
        *,
        key: tuple[str, str],
        busy: str,
    ) -> None:
        """start: called in a worker. ended: gets how the command ended, wherever the user is; failed: gets the reason
        if it could not be started.
        """
        self._starting = True

        def started(job: Job) -> None:
            self._starting, self.key, self._pane.job_key = False, key, key
            self._pane.hub.board.put(key, job, ended)
            self._pane.refresh_bindings()
            self._draw()

        def not_started(line: str) -> None:
            self._starting = False
            self._pane.hub.over(self.key)
            self._pane.say_failed(line)
            failed(line)

        self._pane.load("start", start, started, not_started, busy=busy, lasting=True)

    def cancel(self) -> bool:
        """Cancel the command. Returns whether there is one."""
        found = self._pane.hub.board.cancel(self.key)
        if found:
            self._draw()
        return found


class AnalysisCommand:
    """The command that computes an analysis of a run.

    name: of the analysis; options: the pane's choices as options of the command; remakes: whether there is a result
    already, which is then recomputed; draw: shows how far the command is; made: gets the saved results once the command
    has succeeded.
    """

    def __init__(
        self,
        pane: RunPane,
        name: str,
        key: str,
        *,
        options: Callable[[], tuple[str, ...]],
        remakes: Callable[[], bool],
        draw: Callable[[], None],
        made: Callable[[tuple[Result, ...]], None],
    ) -> None:
        self._pane = pane
        self._analysis = spec(name)
        self._options = options
        self._remakes = remakes
        self._draw = draw
        self._made = made
        self.runner = Runner(pane, (pane.session.name, key), draw)
        self._problem = ""
        self._typed = ""
        """The command as it was edited, until it has succeeded: an error does not lose it."""

    @property
    def kept(self) -> Callable[[], tuple[Result, ...]]:
        """For a worker: what reads every saved result of this analysis, the run's first, then the newest first."""
        return partial(self._pane.session.results, self._analysis.result_kind) if self._analysis.result_kind else tuple

    def asked(self) -> Callable[..., tuple[str, ...]]:
        """For a worker: what gives the command that computes what the choices ask for."""
        pane = self._pane
        return partial(
            make_command,
            self._analysis.name,
            pane.session,
            pane.hub.engine.store,
            pane.site,
            model=pane.hub.board.models.get(pane.session.name, ""),
            marked=len(pane.marks),
            choices=self._options(),
        )

    # what went wrong

    @property
    def problem(self) -> str:
        """Why a command failed, or a saved result could not be read, here or while the user was elsewhere."""
        return self._problem or self._pane.hub.board.problems.get(self.runner.key, "")

    @problem.setter
    def problem(self, line: str) -> None:
        self._problem = line

    def forget_problem(self) -> None:
        self._problem = ""
        self._pane.hub.board.problems.pop(self.runner.key, None)

    def choices_changed(self) -> None:
        """Another command is asked for: what was typed and what went wrong belong to the old one."""
        self._typed = ""
        self.forget_problem()

    # from the key to the process

    def make(self) -> None:
        if self.runner.under_way:
            self.runner.say_under_way()
        else:
            self._pane.load("command", self.asked(), self._make)

    def _make(self, command: tuple[str, ...]) -> None:
        if incomplete(command):
            self._edit(command)
        else:
            again = self._remakes() and self._analysis.result_kind
            self._start((*command, "--recompute") if again else command)

    def edit(self) -> None:
        self._pane.load("edited", self.asked(), self._edit)

    def _edit(self, command: tuple[str, ...]) -> None:
        line, select = self._typed or shlex.join(command), incomplete(command)
        self._pane.hub.ask(self._pane, "command", "nfinspect", self._start_edited, line, select)

    def _start_edited(self, text: str) -> None:
        self._typed = text
        try:
            command = tuple(shlex.split(text))
        except ValueError as error:
            self._pane.hub.say(f"this command cannot be read: {error}", "bad")
            return
        if not command:
            return
        word = command_of(self._analysis.name)
        if command[0] != word or incomplete(command):
            self._pane.hub.say(f"expected the command {word}, with {MODEL} and {TEXT} filled in", "bad")
            return
        self._start(command)

    def _start(self, command: tuple[str, ...]) -> None:
        if self.runner.under_way:
            self.runner.say_under_way()
            return
        self.forget_problem()
        self._pane.hub.journal.ran(self._pane.crumb, command)
        session, engine = self._pane.session, self._pane.hub.engine
        marked = [str(self._pane.address(layer, neuron)) for layer, neuron in self._pane.marks]

        def start() -> Job:
            session.write_inputs(command, marked)
            return engine.start(by_backend(command, session, engine.captures.holds))

        ended, busy = partial(self._ended, command), f"starting {self._analysis.name}"
        self.runner.start(start, ended, self._not_started, key=self.runner.key, busy=busy)

    def _not_started(self, line: str) -> None:
        self._problem = line
        self._draw()

    # how it goes

    def _ended(self, command: tuple[str, ...], state: JobState) -> None:
        """Remember for the run the model with which the command succeeded."""
        if state.status == 0:
            self._typed = ""
        if state.status == 0 and self._analysis.needs == "model":
            self._pane.hub.board.models[self._pane.session.name] = command[1]

    def news(self, state: JobState) -> None:
        if state.status is not None:
            self._pane.refresh_bindings()
            if state.status == 0:
                self._pane.load("made", self.kept, self._made)
                return
            self._pane.hub.say(state.line, "warn" if state.cancelled else "bad")
        self._draw()


class CommandQueue:
    """One analysis of several runs, computed for one after the other, each by its own command in its own process.

    draw: shows how far the command is; changed: called when one has ended, as there may be more to show.
    """

    def __init__(self, pane: Pane, draw: Callable[[], None], changed: Callable[[], None]) -> None:
        self._pane = pane
        self._changed = changed
        self.runner = Runner(pane, ("", ""), draw)
        self._waiting: tuple[tuple[str, Callable[[], Job]], ...] = ()
        self._analysis = ""
        self.problems: frozenset[str] = frozenset()
        """Runs whose command has failed."""

    @property
    def under_way(self) -> bool:
        return bool(self._waiting) or self.runner.under_way

    def make(self, analysis: str, runs: tuple[tuple[str, Callable[[], Job]], ...]) -> None:
        """runs: each with what starts its command, called in a worker."""
        if self.under_way:
            self.runner.say_under_way()
        else:
            self._analysis, self._waiting, self.problems = analysis, runs, frozenset()
            self._next()

    def _next(self) -> None:
        hub = self._pane.hub
        while self._waiting:
            (run, start), *rest = self._waiting
            self._waiting, key = tuple(rest), (run, self._analysis)
            if run in hub.sessions and hub.board.state(key) is None:
                busy = f"starting {self._analysis} of {run}"
                self.runner.start(start, partial(self._ended, run), self._not_started, key=key, busy=busy)
                return

    def _not_started(self, line: str) -> None:
        self._waiting = ()

    def _ended(self, run: str, state: JobState) -> None:
        """Go on with the next run, unless the command was cancelled."""
        if not self._pane.is_attached:
            return
        if state.cancelled:
            self._waiting = ()
        elif state.status:
            self.problems |= {run}
            self._pane.hub.say(f"{run}: {state.line}", "bad")
        self._next()
        self._pane.refresh_bindings()
        if self._pane.hub.pane is self._pane:
            self._changed()
