"""Captures in backends, for the app: which there are, how far one is, and what is told to it. No torch, no DuckDB.

A capture that is begun here is not attached: it outlives the app, and whoever opens the store again finds it.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect.backend import client
from nfinspect.backend.directory import NoBackend, NotAnswering, living
from nfinspect.backend.protocol import JobState, Token, makes_a_run
from nfinspect.model_files import lasting_name
from nfinspect_store.byte_limits import needed_limit
from nfinspect_store.errors import NfinspectError
from nfinspect_store.heartbeat import read_heartbeat
from nfinspect_store.names import RUN_SUFFIX

if TYPE_CHECKING:
    from nfinspect.backend.protocol import Action, Status

MODEL_OPTIONS = ("--revision", "--dtype", "--device")
"""Options of `capture` that say which model a backend is to hold; each has a value."""

MODEL_FLAGS = ("--allow-pickle",)

LIMIT = "--limit-bytes"

FROM_FILE = -1
"""The number of a capture that only its run tells of."""

KEPT_TOKENS = 400
"""Of the text that a capture writes."""


@dataclass(frozen=True)
class JobAt:
    """Where a job is: the id of its backend and its number there."""

    backend: str
    job: int


@dataclass(frozen=True)
class Seen:
    """A capture as its backend tells of it. status: None if the backend did not live to tell; lost: why, in one line;
    silent: of a backend that lives, and says nothing.

    committed: whether its run can be read; tokens: the last that it has written, if it generates. needed: the byte
    limit that finishes its run, if its own has ended it: `job` has it already.
    """

    at: JobAt
    job: JobState
    status: Status | None = None
    lost: str = ""
    silent: str = ""
    committed: bool = False
    tokens: tuple[Token, ...] = ()
    needed: str = ""

    @property
    def run(self) -> str:
        """The run's name; empty while it has none."""
        return Path(self.job.run).name.removesuffix(RUN_SUFFIX) if self.job.run else ""

    @property
    def over(self) -> bool:
        return bool(self.lost) or self.job.ended


class Watch:
    """One connection to the backend of a job. `look` is called by one worker at a time; `close` by any thread."""

    def __init__(self, captures: Captures, store: Path, at: JobAt, job: JobState | None = None) -> None:
        """job: what is known of it already."""
        self._captures = captures
        self._store = store
        self._backend: client.Backend | None = None
        self._closed = False
        self._seen = Seen(at, job or JobState(at.job, (), "", "waiting", version=-1))

    def look(self) -> Seen:
        """How far the job is; while it waits for a model or for other jobs, as soon as that changes. Once this is
        closed, what was known before.
        """
        try:
            self._seen = self._look()
        except NotAnswering as error:
            self._seen = replace(self._seen, silent=str(error))
        except (client.Lost, NoBackend) as error:
            if not self._seen.over and not self._closed:
                why = error.short if isinstance(error, client.Lost) else str(error)
                self._seen = replace(self._seen, status=None, silent="", lost=why)
        return self._seen

    def _look(self) -> Seen:
        if self._backend is None:
            self._backend = client.Backend.connect(self._store, self._seen.at.backend)
            if self._closed:
                self._backend.close()
        known = self._seen.job
        if known.state == "waiting" and known.version >= 0:
            job = self._backend.wait(known)
        else:
            job = self._backend.wait(replace(known, version=-1))
        seen = replace(self._seen, job=job, silent="")
        self._captures.remember(job)
        if job.ended:  # the backend may have ended with it
            with contextlib.suppress(NfinspectError):
                seen = replace(seen, status=self._backend.status())
            needed = needed_by(job)
            return replace(seen, job=with_limit(job, needed), needed=needed)
        self._seen = seen
        seen = replace(seen, status=self._backend.status(), committed=seen.committed or self._is_committed(job))
        return replace(seen, tokens=self._tokens(seen))

    def _is_committed(self, job: JobState) -> bool:
        from nfinspect.backend.remote import run_under_way

        if not job.run or not job.done:
            return False
        try:
            found = run_under_way(Path(job.run))
        except NfinspectError:
            return False
        if found is not None:
            found.close()
        return found is not None

    def _tokens(self, seen: Seen) -> tuple[Token, ...]:
        assert self._backend is not None
        if seen.job.state == "waiting" or not any(word.startswith("--generate") for word in seen.job.arguments):
            return ()
        tokens = seen.tokens
        while True:
            told = self._backend.tokens(seen.job.id, tokens[-1].index + 1 if tokens else 0)
            tokens = (*tokens, *told.rows)[-KEPT_TOKENS:]
            if not told.rows or told.start + len(told.rows) >= told.count:
                return tokens

    def close(self) -> None:
        self._closed = True
        if self._backend is not None:
            self._backend.close()


class Captures:
    """The backends of a store and what they capture. Its methods may be called from any worker, and may block."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._watches: set[Watch] = set()
        self._known: dict[str, JobState] = {}
        """By run, the captures that have been seen: one whose backend was killed can be resumed."""

        self._guard = threading.Lock()

    def statuses(self) -> tuple[Status, ...]:
        """The backends that live."""
        found, dead = client.statuses(self._store)
        for status in found:
            if status.job is not None:
                self.remember(status.job)
        for entry in dead:
            if entry.directory and (run := run_of(entry.job)):
                path = str(self._store / (run + RUN_SUFFIX))
                self.remember(JobState(0, entry.job, entry.directory, "failed", run=path))
        return found

    def holds(self, model: str, dtype: str, device: str) -> bool:
        """Whether a backend that has nothing else to do holds a model: another process would have to load it again."""
        name = lasting_name(model)
        return any(
            (one.model, one.dtype, one.device, one.state) == (name, dtype, device, "ready")
            and one.job is None
            and not one.queue
            for one in self.statuses()
        )

    def estimating(self, arguments: Sequence[str], directory: Path) -> tuple[str, ...]:
        """The command that estimates a capture, as it is run: in the backend of its model, if that is idle."""
        wanted = lasting_name(_name(directory, arguments[1], model_options(arguments)))
        idle = any(
            one.model == wanted and one.state == "ready" and one.job is None and not one.queue
            for one in self.statuses()
        )
        return (*arguments, "--estimate", *(["--backend"] if idle else []))

    def remember(self, job: JobState) -> None:
        """A capture that has a run."""
        if job.run and makes_a_run(job.arguments):
            self._known[Path(job.run).name.removesuffix(RUN_SUFFIX)] = job

    def left(self, run: str) -> Seen | None:
        """The capture of a run whose backend was killed, or that failed, was cancelled or interrupted; None if nobody
        knows.
        """
        beat, job = read_heartbeat(self._store / (run + RUN_SUFFIX)), self._known.get(run)
        if beat is not None and beat.alive:
            return None
        if job is None:
            return self._told_by(run)
        if beat is None and job.state not in ("failed", "cancelled"):
            return None
        return _ended(
            job, needed_by(job), job.line or f"the backend of {run} was killed; what it had committed is kept"
        )

    def _told_by(self, run: str) -> Seen | None:
        """The capture of an unfinished run, as the run tells of it; None if it does not, or is complete."""
        from nfinspect_store.reader import RunFile

        path = self._store / (run + RUN_SUFFIX)
        try:
            with RunFile.open(path) as file:
                info, tokens = file.info, file.tokens
        except NfinspectError:
            return None
        command, directory = info.settings.get("command"), info.settings.get("directory")
        words = tuple(command) if isinstance(command, list) and all(isinstance(w, str) for w in command) else ()
        if info.status == "complete" or words[:1] != ("capture",) or len(words) < 2 or not isinstance(directory, str):
            return None
        arguments = (*words, "--store", str(self._store.resolve()))
        status = "interrupted" if info.status == "capturing" else info.status
        needed = needed_limit(info)
        stopped = f"has reached its --limit-bytes, and needs {needed} for all of it" if needed else f"is {status}"
        line = f"{run} {stopped}; what it had committed is kept"
        return _ended(JobState(FROM_FILE, arguments, directory, "failed", run=str(path), done=tokens), needed, line)

    def resume_line(self, run: str) -> str:
        """What a shell is told to go on with an unfinished run; empty if nobody knows."""
        left = self.left(run)
        if left is None:
            return ""
        job = left.job
        elsewhere = job.directory and Path(job.directory) != Path.cwd()
        there = f"cd {shlex.quote(job.directory)} && " if elsewhere else ""
        return there + shlex.join(("nfinspect", *resuming(job)))

    def knows(self, run: str) -> bool:
        return run in self._known

    def of_run(self, run: str) -> JobAt | None:
        """The job that writes a run; None if no backend does. Raises NotAnswering."""
        path = self._store / (run + RUN_SUFFIX)
        beat = read_heartbeat(path)
        if beat is None or not beat.alive:
            return None
        for entry in living(self._store)[0]:
            if entry.pid == beat.pid:
                try:
                    with client.Backend.connect(self._store, entry.id) as backend:
                        job = backend.status().job
                except NotAnswering:
                    raise
                except NfinspectError:
                    continue
                if job is not None and job.run and Path(job.run).resolve() == path.resolve():
                    self.remember(job)
                    return JobAt(entry.id, job.id)
        return None

    def begin(self, arguments: Sequence[str], directory: Path) -> tuple[JobAt, JobState]:
        """Have a capture made by the backend of its model, which is started if there is none. arguments: of
        `nfinspect`; the model is the second. Raises Lost, NoBackend, RequestError.
        """
        model, options = arguments[1], model_options(arguments)
        name = _name(directory, model, options)
        try:
            backend = client.Backend.find(self._store.resolve(), name)
        except NoBackend:
            backend = client.start(self._store, name, options)
        with backend:
            job = backend.submit(arguments, directory)
        return JobAt(backend.id, job.id), job

    def watch(self, at: JobAt, job: JobState | None = None) -> Watch:
        """Close it when it is no longer looked at."""
        made = Watch(self, self._store, at, job)
        with self._guard:
            self._watches.add(made)
        return made

    def forget(self, watch: Watch) -> None:
        with self._guard:
            self._watches.discard(watch)
        watch.close()

    def act(self, at: JobAt, action: Action) -> JobState:
        with client.Backend.connect(self._store, at.backend) as backend:
            return backend.act(at.job, action)

    def close(self) -> None:
        """No worker waits for an answer any more. The backends go on."""
        with self._guard:
            left, self._watches = set(self._watches), set()
        for watch in left:
            watch.close()


def resuming(job: JobState) -> tuple[str, ...]:
    """The command that goes on with a capture, or makes it again if it had not even begun its run."""
    arguments = tuple(word for word in job.arguments if word != "--resume")
    if not job.run or not Path(job.run).exists():
        return arguments
    run = () if value_of(arguments, "--run") else ("--run", Path(job.run).name.removesuffix(RUN_SUFFIX))
    return (*arguments, *run, "--resume")


def _ended(job: JobState, needed: str, line: str) -> Seen:
    """A capture that nobody works at. needed: see Seen; line: how it ended."""
    return Seen(JobAt("", job.id), with_limit(replace(job, line=line), needed), lost=line, needed=needed)


def needed_by(job: JobState) -> str:
    """The byte limit that finishes the run of a capture that has ended by its own; empty if something else ended it."""
    from nfinspect_store.reader import RunFile

    if not any(word.partition("=")[0] == LIMIT for word in job.arguments) or not job.run:
        return ""
    try:
        with RunFile.open(Path(job.run)) as file:
            return needed_limit(file.info)
    except NfinspectError:
        return ""


def with_limit(job: JobState, needed: str) -> JobState:
    """The capture with another byte limit; unchanged if none is needed."""
    if not needed:
        return job
    words, left = [], iter(job.arguments)
    for word in left:
        if word == LIMIT:
            next(left, None)
        elif not word.startswith(f"{LIMIT}="):
            words.append(word)
    return replace(job, arguments=(*words, LIMIT, needed))


def options_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word of a command before its equals sign, and what it is given if it is an option."""
    for word, after in pairwise((*arguments, "")):
        name, equals, value = word.partition("=")
        yield name, value if equals else after


def value_of(arguments: Sequence[str], option: str) -> str:
    """What a command is given for an option; empty if it is not."""
    return next((value for name, value in options_of(arguments) if name == option), "")


def run_of(arguments: Sequence[str]) -> str:
    """The run that a capture was told to make; empty if it names none."""
    return value_of(arguments, "--run") if makes_a_run(arguments) else ""


def model_options(arguments: Sequence[str]) -> tuple[str, ...]:
    """The options of a capture that its backend has to be started with."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        name, sign, _ = word.partition("=")
        if word in MODEL_FLAGS or (sign and name in MODEL_OPTIONS):
            found.append(word)
        elif word in MODEL_OPTIONS and place + 1 < len(arguments):
            found += [word, arguments[place + 1]]
    return tuple(found)


def _name(directory: Path, model: str, options: Sequence[str]) -> str:
    """A model's directory, seen from `directory`, or a hub name with its revision."""
    from nfinspect_store.paths import expanded

    path = directory / expanded(model)
    if path.exists():
        return str(path)
    revision = value_of(options, "--revision")
    return f"{model}@{revision}" if revision else model
