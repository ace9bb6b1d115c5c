"""The store, for the app: DuckDB is imported by the first worker that needs it, after the frame is on screen."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect_store.marks_file import MarksFile

if TYPE_CHECKING:
    from nfinspect.analysis.history import LiveHistory
    from nfinspect.tui.captures import Captures
    from nfinspect.tui.jobs import Job
    from nfinspect.tui.lab import Setup
    from nfinspect.tui.lab_job import Experiment
    from nfinspect.tui.session import Session
    from nfinspect_store.types import Progress, RunEntry


class Engine:
    """One store. Its methods may be called from any worker, may block, and raise NfinspectError.

    Listing runs needs no DuckDB if the catalog's cache knows them all.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.marks = MarksFile(store)
        self._lock = threading.Lock()
        self._open: list[Session] = []
        self._jobs: list[Job] = []
        self._captures: Captures | None = None

    def runs(self) -> tuple[RunEntry, ...]:
        from nfinspect_store.catalog import list_everything

        return tuple(list_everything(self.store))

    def open(self, run: str) -> Session:
        from nfinspect_store.catalog import run_path

        with self._lock:  # two first imports at once would wait for each other's half-made modules
            from nfinspect.tui.session import Session
        session = Session.open(run_path(self.store, run))
        gc.freeze()  # modules stay: a full collection that walks them holds up a key for 0.1 s
        self._open.append(session)
        return session

    def progress(self, run: str) -> Progress | None:
        """How far the capture of `run` is; None when nothing is being captured under that name."""
        from nfinspect_store.heartbeat import read_heartbeat
        from nfinspect_store.names import RUN_SUFFIX

        return read_heartbeat(self.store / (run + RUN_SUFFIX))

    @property
    def captures(self) -> Captures:
        """What backends of this store capture."""
        from nfinspect.tui.captures import Captures

        if self._captures is None:
            self._captures = Captures(self.store)
        return self._captures

    def experiment(self, setup: Setup) -> Experiment:
        """An experiment of the lab, not begun yet."""
        from nfinspect.tui.lab_job import Experiment

        return Experiment(self.store, setup)

    def history(self, run: str) -> LiveHistory:
        """The history of a watched training, nothing of it read yet."""
        from nfinspect.analysis.history import LiveHistory
        from nfinspect_store.history import history_path

        return LiveHistory(history_path(self.store, run))

    def delete_history(self, run: str) -> None:
        from nfinspect_store.history import delete_history, history_path

        delete_history(history_path(self.store, run))

    def delete(self, run: str) -> None:
        from nfinspect_store.catalog import delete_run, run_path

        delete_run(run_path(self.store, run), force=True)

    def start(self, arguments: Sequence[str]) -> Job:
        """Run a command in a process of its own."""
        from nfinspect.tui.jobs import Job

        job = Job(arguments)
        self._jobs.append(job)
        return job

    def end_jobs(self) -> None:
        """No command outlives the app; backends do."""
        from nfinspect.tui.jobs import end_all

        if self._captures is not None:
            self._captures.close()
        jobs, self._jobs = self._jobs, []
        end_all(jobs)

    def close(self) -> None:
        gc.unfreeze()  # what is frozen is never freed, and nanobind prints that as a leak when the process ends
        self.end_jobs()
        for session in self._open:
            session.interrupt()
            session.close()
        self._open.clear()
