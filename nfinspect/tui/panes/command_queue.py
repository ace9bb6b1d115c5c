"""Having one analysis made of several runs, one run after the other, each by its own command in its own process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.commands import make_command
from nfinspect.tui.comparing import TOPICS, Topic
from nfinspect.tui.panes.base import Pane

if TYPE_CHECKING:
    from nfinspect.tui.engine import Job, JobState


class CommandQueuePane(Pane):
    """The commands go on when the pane is left, like those of a run's own panes, which show them, too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "make", "Make what is missing", id="compare.make"),
        Binding("x", "cancel", "Cancel", id="compare.cancel"),
    ]

    job_key = ("", "")
    """The run and the analysis of the command that is under way, or of the last one."""

    _to_make: tuple[str, ...] = ()
    _asked: tuple[Topic, str | None] = (TOPICS[0], None)
    _starting = False
    _problems: frozenset[str] = frozenset()
    """Runs whose command has failed."""

    # what the pane says for itself

    def runs_without_result(self) -> tuple[str, ...]:
        """The runs of which the analysis can be made."""
        raise NotImplementedError

    def asked(self) -> tuple[Topic, str | None]:
        """The analysis, and the site; None: each run's default one."""
        raise NotImplementedError

    def draw_about(self) -> None:
        """Say how far the command is."""
        raise NotImplementedError

    def changed(self) -> None:
        """A command has ended: there may be more to show."""
        raise NotImplementedError

    # from the key to the last run

    @property
    def under_way(self) -> bool:
        return self._starting or bool(self._to_make) or self.hub.board.state(self.job_key) is not None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "make":
            return bool(self.runs_without_result())
        if action == "cancel":
            return self.hub.board.state(self.job_key) is not None
        return super().check_action(action, parameters)

    def action_make(self) -> None:
        if self.under_way:
            self.hub.say("it is being made already; x cancels it", "dim")
        else:
            self._to_make, self._asked, self._problems = self.runs_without_result(), self.asked(), frozenset()
            self._make_next()

    def _make_next(self) -> None:
        if not self._to_make:
            return
        (name, *rest), (topic, site) = self._to_make, self._asked
        self._to_make = tuple(rest)
        session, key = self.hub.sessions.get(name), (name, topic.analysis)
        if session is None or self.hub.board.state(key) is not None:
            self._make_next()
            return

        def start() -> tuple[tuple[str, str], Job]:
            store = self.hub.engine.store
            where = site or session.default_site
            command = make_command(topic.analysis, session, store, where, choices=topic.options)
            return key, self.hub.engine.start(command)

        self._starting = True
        self.load("started", start, busy=f"starting {topic.analysis} of {name}")

    def show_started(self, answer: tuple[tuple[str, str], Job]) -> None:
        self._starting = False
        self.job_key, job = answer
        self.hub.board.put(self.job_key, job, partial(self._ended, self.job_key[0]))
        self.refresh_bindings()
        self.draw_about()

    def failed(self, what: str, line: str) -> None:
        super().failed(what, line)
        if what == "started":
            self._to_make, self._starting = (), False

    def job_news(self, state: JobState) -> None:
        """From the board, twice a second."""
        self.draw_about()

    def _ended(self, run: str, state: JobState) -> None:
        """From the board, once, wherever the user is: it is the next run's turn."""
        if not self.is_attached:
            return
        if state.cancelled:
            self._to_make = ()
        elif state.status:
            self._problems |= {run}
            self.hub.say(f"{run}: {state.line}", "bad")
        self._make_next()
        self.refresh_bindings()
        if self.hub.pane is self:
            self.changed()

    def action_cancel(self) -> None:
        self.hub.board.cancel(self.job_key)
        self.draw_about()

    def cancel_work(self) -> bool:
        if self.hub.board.cancel(self.job_key):
            self.draw_about()
            return True
        return super().cancel_work()
