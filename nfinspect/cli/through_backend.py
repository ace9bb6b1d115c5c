"""--backend: a command runs in a backend that holds its model, instead of loading it here."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.backend.hosting import hosted
from nfinspect.cli.options import GIVEN, full_name, opened
from nfinspect.present.numbers import duration, percent
from nfinspect_store.catalog import store_path

if TYPE_CHECKING:
    from nfinspect.backend.client import Backend
    from nfinspect.backend.protocol import JobState

Options = dict[str, Any]
Function = Callable[..., Any]


def usual_model(options: Options) -> str:
    """The model of a command that takes MODEL."""
    return full_name(options["model"], options["revision"])


def model_of_run(options: Mapping[str, Any], what: str) -> str:
    """The model of a command that takes RUN: --model, else the run's own. what: what needs it."""
    model = options["model"]
    if not model:  # to open a run takes longer than to ask a backend
        from nfinspect.experiments.run_model import named_model

        with opened(options["store"], options["run"]) as file:
            model = named_model(file, None, what)
    return full_name(model, options.get("revision"))


def backend_option(model_of: Callable[[Options], str] = usual_model) -> Callable[[Function], Function]:
    """--backend. model_of: the model that the command needs, from its options; it may refuse them."""

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def run(*, in_backend: bool, **options: Any) -> Any:
            if not in_backend or hosted() is not None:
                return command(**options)
            return _run_there(model_of(options), options.get("store"))

        told = "Run in the backend of the store that holds the model (nfinspect backend)."
        decorated: Function = click.option("--backend", "in_backend", is_flag=True, help=told)(run)
        return decorated

    return decorate


def _run_there(model: str, store: str | None) -> int:
    """Run the command that this process was called with in a backend; returns its exit status."""
    from nfinspect.backend.client import Backend
    from nfinspect.backend.directory import NotAnswering

    given = click.get_current_context().meta[GIVEN]
    with Backend.find(store_path(store).absolute(), model) as backend:
        job = _Followed(backend, backend.submit(given, attached=True))
        try:
            output.pass_on(job.printed())
        except KeyboardInterrupt:
            with contextlib.suppress(NotAnswering):  # then it is cancelled because this connection ends
                backend.act(job.state.id, "cancel")
            raise
    return job.state.status or 0


class _Followed:
    """A job that is followed until it has ended."""

    def __init__(self, backend: "Backend", state: "JobState") -> None:
        self._backend = backend
        self.state = state

    def printed(self) -> Iterator[bytes]:
        """What it prints, as it prints it; its lines, and how far it is, go to stderr meanwhile."""
        from nfinspect.backend.directory import NotAnswering

        line, offset = output.ProgressLine(), 0
        try:
            while not self.state.ended:
                try:
                    self.state = job = self._backend.wait(self.state)
                except NotAnswering as error:
                    line.show(str(error), time.monotonic())
                    continue
                if job.notes:
                    line.end()
                    for note in job.notes:
                        output.note(note)
                for piece in self._rest(offset, line):
                    line.end()
                    offset += len(piece)
                    yield piece
                if job.state == "running" and job.total:
                    line.show(_progress(job), time.monotonic())
                elif job.state != "running" and not job.ended:
                    line.show(f"{job.state} in the backend {self._backend.id}", time.monotonic())
        finally:
            line.end()

    def _rest(self, offset: int, line: output.ProgressLine) -> Iterator[bytes]:
        """What it has printed from a byte on, however long the backend takes to say so."""
        from nfinspect.backend.directory import NotAnswering

        while True:
            try:
                for piece in self._backend.output(self.state.id, offset):
                    offset += len(piece)
                    yield piece
                return
            except NotAnswering as error:
                line.show(str(error), time.monotonic())


def _progress(job: "JobState") -> str:
    left = f"  {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
    return f"{job.phase}  {job.done:,}/{job.total:,} ({percent(job.done / (job.total or 1), places=0)}){left}"
