"""Having a command carried out for a pane: from the key, through the line that may be edited, to how it ended."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.commands import analysis_of, incomplete, make_command
from nfinspect.tui.engine import JobState, Session
from nfinspect.tui.panes.run_pane import RunPane

if TYPE_CHECKING:
    from nfinspect.tui.engine import Job
    from nfinspect_store.results import Result


class CommandPane(RunPane):
    """A pane of one analysis. Its command goes on when the pane is left (job_board)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "make", "Make", id="analysis.make"),
        Binding("R", "make_edited", "Edit the command", show=False, id="analysis.edit"),
        Binding("x", "cancel", "Cancel", id="analysis.cancel"),
    ]

    command_name: str
    """Which of commands.analysis_of this is."""

    _problem = ""
    """Why a command could not be started, or a kept result not be read."""

    _starting = False

    def __init__(self, crumb: str, session: Session, site: str | None = None) -> None:
        super().__init__(crumb, session, site)
        self.job_key = (session.name, self.command_name)

    # what the pane says for itself

    def options(self) -> tuple[str, ...]:
        """The choices as options of the command."""
        return ()

    def kept(self) -> tuple[Result, ...]:
        """In a worker: every kept result of this analysis, the newest first."""
        kind = analysis_of(self.command_name).kind
        return self.session.results(kind) if kind else ()

    @property
    def has_result(self) -> bool:
        """Whether what is kept already is to be made again."""
        raise NotImplementedError

    def draw_about(self) -> None:
        """Say how far the command is."""
        raise NotImplementedError

    def show_made(self, results: tuple[Result, ...]) -> None:
        """The command has ended well. results: as `kept`."""
        raise NotImplementedError

    def command(self, choices: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """In a worker: the command that makes what the choices ask for, those of `options` if none are given."""
        return make_command(
            self.command_name,
            self.session,
            self.hub.engine.store,
            self.site,
            model=self.hub.board.models.get(self.session.name, ""),
            marked=len(self.marks),
            choices=self.options() if choices is None else choices,
        )

    @property
    def problem(self) -> str:
        """What went wrong last, here or while the user was elsewhere."""
        return self._problem or self.hub.board.problems.get(self.job_key, "")

    def forget_problem(self) -> None:
        self._problem = ""
        self.hub.board.problems.pop(self.job_key, None)

    # from the key to the process

    @property
    def _under_way(self) -> bool:
        return self._starting or self.hub.board.state(self.job_key) is not None

    def action_make(self) -> None:
        if self._under_way:
            self.hub.say("it is being made already; x cancels it", "dim")
        else:
            self.load("command", self.command)

    def show_command(self, command: tuple[str, ...]) -> None:
        if incomplete(command):
            self.show_edited(command)
        else:
            self._start(
                (*command, "--recompute") if self.has_result and analysis_of(self.command_name).kind else command
            )

    def action_make_edited(self) -> None:
        self.load("edited", self.command)

    def show_edited(self, command: tuple[str, ...]) -> None:
        if self.hub.pane is self:
            self.hub.ask(self, "command", "nfinspect", shlex.join(command), select=incomplete(command))

    def entered_command(self, text: str) -> None:
        try:
            command = tuple(shlex.split(text))
        except ValueError as error:
            self.hub.say(f"this command cannot be read: {error}", "bad")
            return
        if not command:
            return
        word = analysis_of(self.command_name).command
        if command[0] != word or incomplete(command):
            self.hub.say(f"expected the command {word} with nothing left in capitals", "bad")
            return
        self._start(command)

    def _start(self, command: tuple[str, ...]) -> None:
        if self._under_way:
            self.hub.say("it is being made already; x cancels it", "dim")
            return
        self._starting = True
        self.forget_problem()
        marked = [str(self.address(layer, neuron)) for layer, neuron in self.marks]

        def start() -> tuple[tuple[str, ...], Job]:
            self.session.write_inputs(command, marked)
            return command, self.hub.engine.start(command)

        self.load("start", start, busy=f"starting {self.command_name}")

    def show_start(self, started: tuple[tuple[str, ...], Job]) -> None:
        self._starting = False
        command, job = started
        self.hub.board.put(self.job_key, job, partial(self._ended, command))
        self.refresh_bindings()
        self.draw_about()

    def failed(self, what: str, line: str) -> None:
        super().failed(what, line)
        if what == "start":
            self._starting, self._problem = False, line
            self.draw_about()

    # how it goes

    def _ended(self, command: tuple[str, ...], state: JobState) -> None:
        """From the board, once, wherever the user is: the run has the model that did what was asked."""
        if state.status == 0 and analysis_of(self.command_name).of_model:
            self.hub.board.models[self.session.name] = command[1]

    def job_news(self, state: JobState) -> None:
        """From the board, twice a second while the command runs, and once when it has ended."""
        if state.status is not None:
            self.refresh_bindings()
            if state.status == 0:
                self.load("made", self.kept)
                return
            self.hub.say(state.line, "warn" if state.cancelled else "bad")
        self.draw_about()

    def action_cancel(self) -> None:
        self.hub.board.cancel(self.job_key)
        self.draw_about()

    def cancel_work(self) -> bool:
        if self.hub.board.cancel(self.job_key):
            self.draw_about()
            return True
        return super().cancel_work()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "cancel":
            return self.hub.board.state(self.job_key) is not None
        return True
