"""What is marked, as the app shows it: at once when a key is pressed, and in the store's file a moment later.

The app's loop owns `shown`: what the file holds, and the changes that are not in it yet. A worker writes them, in
order, and brings back what other processes have marked. If the file cannot be written, everything goes on without it:
the changes wait, are tried again with the next one, and the status line says that they are of this session only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from nfinspect_store.errors import NfinspectError, RequestError
from nfinspect_store.marks import MARKED, KnownModel, Made, Marks, Neuron, Subject, brief, check_set_name

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address
    from nfinspect_store.marks_file import MarksFile, Written

SESSION_ONLY = "marks and notes are of this session only: "


class Screenside(Protocol):
    """What the marks need of the app."""

    @property
    def pane(self) -> Any: ...
    def say(self, text: str, tone: str = "", *, keep: bool = False) -> None: ...
    def run_worker(self, work: Any, *, group: str, thread: bool, exit_on_error: bool) -> Any: ...
    def call_later(self, callback: Callable[..., Any], *args: Any) -> bool: ...


class MarkKeeper:
    """The marks of the app's store. All but what is named `_in_worker` is called on the app's loop."""

    def __init__(self, app: Screenside, file: MarksFile) -> None:
        self._app = app
        self._file = file
        self.shown = Marks()
        self.problem = ""
        """Why changes are not in the file, in one line; empty if they are."""

        self._waiting: list[Written] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._serial = 0
        self._owners: dict[str, str] = {}
        self._asked = False

    # reading

    def owner(self, session: Session) -> str:
        """Whose neurons those of a run are."""
        run = session.name
        if run not in self._owners:
            self._owners[run] = self.shown.owner(Subject.of(session.info, run))
        return self._owners[run]

    def members(self, session: Session, site: str, name: str = MARKED) -> Mapping[Neuron, Made]:
        """The neurons of a set, in order of marking."""
        return self.shown.members(name, self.owner(session), site)

    def names(self, session: Session) -> tuple[str, ...]:
        """The sets that have neurons of a run or its model."""
        return self.shown.names(self.owner(session))

    def set_of(self, session: Session, text: str) -> str:
        """The name of the set that is written `@name`; nothing may be marked yet. Raises RequestError for one without a
        neuron of the run.
        """
        name, names = check_set_name(text), self.names(session)
        if name not in (MARKED, *names):
            raise RequestError(f"no set @{name}: this run has {', '.join(f'@{one}' for one in names) or 'none'}")
        return name

    def about(self, session: Session, site: str, neuron: Neuron) -> tuple[tuple[str, ...], str]:
        """A neuron's tags and its note."""
        of = self.owner(session)
        return self.shown.tags(of, site, neuron), self.shown.note(of, site, neuron)

    # changing

    def put(self, session: Session, addresses: Sequence[Address], *, added: bool, name: str = MARKED) -> None:
        """Put neurons, each with its site, into a set, or take them out of it."""
        from nfinspect_store.marks_file import changed

        if addresses:
            subject = Subject.of(session.info, session.name)
            self._change(changed(subject, name, addresses, added=added, of=self.owner(session)))

    def note(self, session: Session, address: Address, text: str, was: str) -> None:
        """Write a note on a neuron; empty deletes it. Raises RequestError for one that is too long."""
        from nfinspect_store.marks_file import noted

        subject = Subject.of(session.info, session.name)
        self._change(noted(subject, address, text, was, of=self.owner(session)))

    def _change(self, written: Written) -> None:
        subject, change = written
        if subject.fingerprint is not None:
            self.shown.apply(KnownModel(change.of, subject.model, brief(subject.fingerprint)))
        self.shown.apply(change)
        with self._guard:
            self._waiting.append(written)
        self._work(self._write_in_worker)

    def look(self) -> None:
        """Bring in what other processes have marked."""
        if not self._asked:
            self._asked = True
            self._work(self._read_in_worker)

    def _work(self, work: Callable[[], None]) -> None:
        self._app.run_worker(work, group="marks", thread=True, exit_on_error=False)

    # in workers

    def _read_in_worker(self) -> None:
        self._tell(self._file.read)

    def _write_in_worker(self) -> None:
        self._tell(self._written)

    def _tell(self, work: Callable[[], Marks]) -> None:
        """Have the loop show what the file holds. Where a later worker has read it too, its answer is on the way."""
        marks, problem = None, ""
        with self._writing:
            try:
                marks = work()
            except NfinspectError as error:
                problem = str(error)
            with self._guard:
                self._serial += 1
                serial = self._serial
        self._app.call_later(self._put, marks, problem, serial)

    def _written(self) -> Marks:
        with self._guard:
            batch = tuple(self._waiting)
        marks = self._file.write(batch) if batch else self._file.read()
        with self._guard:
            del self._waiting[: len(batch)]
        return marks

    def flush(self) -> None:
        """Write what is waiting. Called in any thread, when the app ends."""
        with self._writing, suppress(NfinspectError):
            if self._waiting:
                self._written()

    # back on the loop

    def _put(self, marks: Marks | None, problem: str, serial: int) -> None:
        self._asked = False
        if problem and problem != self.problem:
            self._app.say(SESSION_ONLY + problem, "warn", keep=True)
        self.problem = problem
        with self._guard:
            waiting, newest = tuple(self._waiting), serial == self._serial
        if marks is None or not newest:
            return
        for subject, change in waiting:
            if subject.fingerprint is not None:
                marks.apply(KnownModel(change.of, subject.model, brief(subject.fingerprint)))
            marks.apply(change)
        before, self.shown = self.shown, marks
        self._owners.clear()
        if before != marks:
            self._app.pane.marks_changed()
