"""One experiment of the lab in the backend of its model. No torch, no DuckDB.

The job is attached: it is cancelled when the connection ends, and with it the app.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfinspect.backend import client
from nfinspect.backend.directory import NoBackend, NotAnswering
from nfinspect.backend.protocol import JobState, Token
from nfinspect.tui.lab import Setup, backend_options, command


@dataclass(frozen=True)
class Written:
    """How far it is. tokens: what both sides have read and written so far; loading: the model is not there yet;
    document: what the command printed with --json, once it has ended well; silent: of a backend that says nothing.
    """

    job: JobState
    tokens: tuple[Token, ...] = ()
    loading: bool = False
    document: Mapping[str, Any] | None = None
    silent: str = ""


class Experiment:
    """`begin` and `look` are called by one worker at a time, and may block; `close` and `cancel` by any thread."""

    def __init__(self, store: Path, setup: Setup) -> None:
        self._store = store.resolve()
        self.setup = setup
        self._backend: client.Backend | None = None
        self._closed = False
        self._given_up = ""
        """Why it is not waited for any more."""

        self._seen = Written(JobState(-1, (), "", "waiting", version=-1))

    def begin(self) -> Written:
        """Ask the backend of the model, which is started if there is none. Raises NfinspectError."""
        setup = self.setup
        try:
            backend = client.Backend.find(self._store, setup.model)
        except NoBackend:
            backend = client.start(self._store, setup.model, backend_options(setup))
        self._backend = backend
        if self._closed:
            backend.close()
        arguments = command(setup)
        job = backend.submit((*arguments[:2], "--json", "--store", str(self._store), *arguments[2:]), attached=True)
        self._seen = replace(self._seen, job=job)
        return self._seen

    def look(self) -> Written:
        """How far it is now. Raises Lost if its backend has ended."""
        try:
            return self._look()
        except NotAnswering as error:
            self._seen = replace(self._seen, silent=str(error))
            return self._seen
        except client.Lost as error:
            if self._given_up:
                return replace(self._seen, job=replace(self._seen.job, state="cancelled", line=self._given_up))
            raise client.Lost(error.short) from error  # the lab has a key for what a command line would do

    def _look(self) -> Written:
        assert self._backend is not None
        seen, backend = self._seen, self._backend
        known = seen.job
        job = backend.wait(known if known.state == "waiting" else replace(known, version=-1))
        tokens = seen.tokens
        while True:
            told = backend.tokens(job.id, tokens[-1].index + 1 if tokens else 0)
            tokens = (*tokens, *told.rows)
            if not told.rows or told.start + len(told.rows) >= told.count:
                break
        loading = job.state == "waiting" and backend.status().state == "loading"
        document = None
        if job.state == "done":
            document = json.loads(b"".join(backend.output(job.id)))
        self._seen = Written(job, tokens, loading, document)
        return self._seen

    def cancel(self) -> None:
        if self._backend is not None and self._seen.job.id >= 0:
            try:
                with client.Backend.connect(self._store, self._backend.id) as other:
                    other.act(self._seen.job.id, "cancel")
            except NotAnswering as error:  # it is cancelled once the backend notices that nobody waits for it
                self._given_up = str(error)
                self.close()

    def close(self) -> None:
        """What has not ended is cancelled."""
        self._closed = True
        if self._backend is not None:
            self._backend.close()
