"""Talking to backends: for the app and for commands. Nothing here needs torch, or DuckDB.

    with Backend.find(store, model) as backend:         # or Backend.connect(store, id), or start(store, model)
        job = backend.submit(["capture", model, "--text", "words.txt"])
        job = backend.wait(job)                          # a JobState, whenever something changes
        backend.act(job.id, "pause")                     # "go on", "cancel"

A Backend may be used by one thread at a time, except `close`. Every method raises NfinspectError: `Lost` if the backend
has ended or was killed, with the line that resumes a capture; `NotAnswering` if it lives and says nothing: whoever goes
on waiting calls the method again.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from nfinspect.backend.directory import ANSWER, FOLDER, Entry, NoBackend, NotAnswering, connected, living, silence
from nfinspect.backend.protocol import (
    Act,
    Action,
    AskStatus,
    BadMessage,
    Bytes,
    JobState,
    Message,
    ReadOutput,
    ReadTokens,
    Refused,
    RunEnded,
    Status,
    Stop,
    Submit,
    Terminal,
    Tokens,
    Wait,
    makes_a_run,
)
from nfinspect.backend.wire import Gone, NotAllowed, Wire
from nfinspect.model_files import lasting_name
from nfinspect_store import errors
from nfinspect_store.catalog import ENVIRONMENT
from nfinspect_store.errors import NfinspectError, StorageFull

Kind = TypeVar("Kind")

COMMAND = ("-P", "-m", "nfinspect")

STARTING = 60.0
"""Seconds until a new backend's socket is there; the model is loaded after that."""


PATIENCE = 10.0
"""Seconds that an answer may take: the longest that a backend waits before it gives one is two (server.py)."""

AGAIN = 1.0
"""Seconds for which an answer that is late already is waited for, each time."""


class Lost(NfinspectError):
    """The backend has ended, or was killed. short: that alone, without the command that goes on."""

    def __init__(self, line: str, short: str = "") -> None:
        super().__init__(line)
        self.short = short or line


class Declined(NfinspectError):
    """A backend's refusal that is of no class known here."""


OWN: dict[str, type[NfinspectError]] = {kind.__name__: kind for kind in (BadMessage, NotAllowed, RunEnded)}


class Backend:
    """A connection to a backend."""

    def __init__(self, store: Path, name: str, wire: Wire) -> None:
        self.store = store
        self.id = name
        self._wire = wire
        self._job: JobState | None = None
        self._asked_at: float | None = None
        """Since when an answer is outstanding."""

    @classmethod
    def connect(cls, store: Path, name: str) -> Self:
        """Raises NoBackend, NotAnswering, NotAllowed, BadMessage for one of another version."""
        return cls(store, name, connected(store, name))

    @classmethod
    def find(cls, store: Path, model: str) -> Self:
        """The backend of the store that holds a model: the first by name. Raises NoBackend, naming those that run."""
        alive, _ = living(store)
        wanted = lasting_name(model)
        for entry in alive:
            if entry.model == wanted:
                return cls.connect(store, entry.id)
        others = ", ".join(f"{entry.id} ({entry.model})" for entry in alive) or "none"
        raise NoBackend(
            f"expected a backend that holds {wanted} in {store}, found {others}: "
            f"nfinspect backend {shlex.quote(model)} --store {shlex.quote(str(store))} starts one"
        )

    # Asking

    def status(self) -> Status:
        return self._ask(AskStatus(), Status)

    def submit(self, arguments: Sequence[str], directory: Path | None = None, *, attached: bool = False) -> JobState:
        """Queue a command: the arguments of `nfinspect`. attached: it is cancelled when this connection ends."""
        where = str(Path.cwd() if directory is None else directory)
        self._job = self._ask(Submit(tuple(arguments), where, this_terminal(), attached), JobState)
        return self._job

    def wait(self, job: JobState) -> JobState:
        """The job once it has changed, or after two seconds; `notes` has the lines since `job`."""
        self._job = self._ask(Wait(job.id, job.version, job.noted), JobState)
        return self._job

    def act(self, job: int, action: Action) -> JobState:
        return self._ask(Act(job, action), JobState)

    def output(self, job: int, offset: int = 0) -> Iterator[bytes]:
        """What a job has printed so far, from byte `offset` on, in pieces."""
        while True:
            told = self._ask(ReadOutput(job, offset), Bytes)
            data = self._wire.frame(told)
            if not data:
                return
            offset += len(data)
            yield data

    def tokens(self, job: int, start: int = 0) -> Tokens:
        """The tokens that a job has written, from number `start` on, some hundreds at most; at once, if only none.

        The next call's `start` is `found.start + len(found.rows)`. `wait` returns when there are more.
        """
        return self._ask(ReadTokens(job, start), Tokens)

    def stop(self) -> None:
        """End it, and wait until it has ended: a capture finishes its batch and commits, and can be resumed."""
        pid = self._ask(Stop(), Status).pid
        # Its description goes before its lock does: then its process is not known.
        while any(entry.id == self.id and entry.pid in (pid, 0) for entry in living(self.store)[0]):
            time.sleep(0.05)

    def _ask(self, request: Message, kind: type[Kind]) -> Kind:
        try:
            self._skip_late_answer()
            self._wire.send(request)
            self._asked_at = time.monotonic()
            self._await(PATIENCE)
            self._asked_at = None
            return answered(self._wire, kind)
        except Gone as error:
            raise self._lost() from error

    def _skip_late_answer(self) -> None:
        """Of what was asked before, and not waited for to its end."""
        if self._asked_at is None:
            return
        self._await(AGAIN)
        self._asked_at = None
        late = self._wire.receive_any()
        if isinstance(late, Bytes):
            self._wire.frame(late)

    def _await(self, seconds: float) -> None:
        if not self._wire.answers(seconds):
            waited = time.monotonic() - (self._asked_at or 0.0)
            raise NotAnswering(silence(self.store, self.id, waited))

    def _lost(self) -> Lost:
        said = f"the backend {self.id} has ended or was killed (out of memory?)"
        if self._job is not None and not self._job.ended and makes_a_run(self._job.arguments):
            kept = f"{said}; what it had committed is kept"
            return Lost(f"{kept}: {resume_line(self._job.arguments)} continues", kept)
        return Lost(f"{said}: nfinspect backend starts another", said)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def answered(wire: Wire, kind: type[Kind], timeout: float | None = None) -> Kind:
    """The answer to what was asked. Raises Gone, BadMessage, and the error that a refusal names."""
    found = answer(wire, timeout)
    if not isinstance(found, kind):
        raise BadMessage(f"expected {kind.__name__}, found {type(found).__name__}")
    return found


def answer(wire: Wire, timeout: float | None = None) -> Message:
    """The next answer, of any kind. Raises Gone, and the error that a refusal names."""
    found = wire.receive_any(timeout)
    if isinstance(found, Refused):
        raise refusal(found)
    return found


def refusal(told: Refused) -> NfinspectError:
    """The error that a backend tells of."""
    kind = OWN.get(told.error) or getattr(errors, told.error, None)
    if isinstance(kind, type) and issubclass(kind, NfinspectError):
        found = kind(told.line)
        if isinstance(found, errors.QueryError):
            found.place = told.place
        return found
    return Declined(told.line)


def resume_line(arguments: Sequence[str]) -> str:
    """The command that continues a capture."""
    resume = () if "--resume" in arguments else ("--resume",)
    return shlex.join(["nfinspect", *arguments, *resume])


def this_terminal() -> Terminal:
    """Where this process prints."""
    found = shutil.get_terminal_size((80, 24))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Terminal(os.environ.get(ENVIRONMENT, ""), found.columns, found.lines, encoding)


def statuses(store: Path) -> tuple[tuple[Status, ...], tuple[Entry, ...]]:
    """The backends of a store, and those that were killed since somebody looked last, whose files are removed.

    One that does not answer is left out.
    """
    alive, dead = living(store)
    found = []
    for entry in alive:
        with contextlib.suppress(NfinspectError), Backend.connect(store, entry.id) as backend:
            found.append(backend.status())
    return tuple(found), dead


def silent(store: Path, answered: Collection[str]) -> list[str]:
    """A line of each backend of a store that lives and is not among those that have answered."""
    return [silence(store, one.id, ANSWER) for one in living(store)[0] if one.pid and one.id not in answered]


def start(store: Path, model: str, options: Sequence[str] = (), *, name: str | None = None) -> Backend:
    """Start a backend in a session of its own, which outlives this process and its terminal.

    options: of `nfinspect backend`. It answers at once, and loads the model meanwhile (`status().state`). Raises
    Lost with its own line if it could not start.
    """
    folder = store / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = folder / f"starting-{os.getpid()}-{time.monotonic_ns()}"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, *COMMAND, "backend", model, "--store", str(store.resolve()), *options]
                + (["--id", name] if name else []),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        raise StorageFull(f"cannot start a backend in {store}: {getattr(error, 'strerror', None) or error}") from error
    # Its end is waited for, or a dead backend would stay in the list of processes as long as this one lives.
    threading.Thread(target=process.wait, name="nfinspect-backend-end", daemon=True).start()
    try:
        return _started(store, process, log)
    finally:
        with contextlib.suppress(OSError):
            log.unlink()


def _started(store: Path, process: "subprocess.Popen[bytes]", log: Path) -> Backend:
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if process.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("nfinspect: ") if lines else f"it ended with status {process.returncode}"
            raise Lost(f"the backend could not start: {said}")
        for entry in living(store)[0]:
            if entry.pid == process.pid:
                with contextlib.suppress(NoBackend):
                    return Backend.connect(store, entry.id)
        time.sleep(0.05)
    process.kill()
    raise Lost(f"the backend did not start within {STARTING:g} s: it was ended")
