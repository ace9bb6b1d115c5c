"""The resident model: start a backend, list those of a store, end one."""

import datetime as dt
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.options import full_name, json_option, model_options, store_option
from nfinspect.present.numbers import duration, percent, size
from nfinspect.present.tables import Column, table
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.backend.protocol import JobState, Status
    from nfinspect.backend.server import Ran
    from nfinspect.models import LoadedModel

COLUMNS = (
    Column("id", text=True, whole=True),
    Column("model", text=True),
    Column("device", text=True, whole=True),
    Column("pid"),
    Column("memory"),
    Column("idle"),
    Column("job", text=True),
    Column("waiting"),
)

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--id", "name", metavar="NAME", help="Its name in the list; made of the model's if not given.")
@click.option("--idle", metavar="TIME", default="30m", show_default=True,
              help="End after so long without a job, such as 90s, 30m or 2h; 0: never.")  # fmt: skip
@model_options
@store_option
def backend(
    model: str,
    name: str | None,
    idle: str,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    store: str | None,
) -> int:
    """Keep MODEL loaded for the app and for commands with --backend.

    MODEL is a hub name or a local directory. It outlives its terminal; Ctrl-C or `nfinspect backends --stop` ends it.
    """
    seconds = idle_seconds(idle)
    model = full_name(model, revision)

    from nfinspect.backend.directory import Place, check_id
    from nfinspect.backend.server import Model, Server
    from nfinspect.experiments.run_model import loaded_model
    from nfinspect.model_files import lasting_name

    options = {"revision": revision, "dtype": dtype, "device": device, "allow_pickle": allow_pickle}
    place = Place(store_path(store).absolute(), check_id(name or _usual_id(lasting_name(model))))

    def load() -> "LoadedModel":
        return loaded_model(model, **options)

    def hold(loaded: "LoadedModel") -> AbstractContextManager[object]:
        from nfinspect.models.resident import staying

        return staying(loaded, model, revision, dtype, device)

    try:
        server = Server(place, Model(lasting_name(model), load, hold), _run, seconds)
        return server.serve(_unless_hung_up(output.note))
    finally:
        place.close()


def _run(arguments: tuple[str, ...]) -> "Ran":
    """A command, in this process."""
    from nfinspect.backend.server import Ran
    from nfinspect.cli import main
    from nfinspect.cli.errors import is_gpu_failure

    broken = []
    status = main(arguments, lambda error: broken.append(is_gpu_failure(error)))
    return Ran(status, any(broken))


def _unless_hung_up(say: Callable[[str], None]) -> Callable[[str], None]:
    def said(text: str) -> None:
        try:
            say(text)
        except OSError:  # the terminal has gone; the backend stays
            sys.stderr = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)

    return said


def _usual_id(model: str) -> str:
    """From the model's name: what a file may be called."""
    from nfinspect.backend.directory import ID

    last = re.sub(r"[^A-Za-z0-9._@+-]+", "-", model.rstrip("/").rpartition("/")[2]).lstrip("._@+-")[:60]
    return last if ID.fullmatch(last) else "model"


def idle_seconds(text: str) -> float:
    """`90s`, `30m`, `2h`; a plain number is in seconds. Raises RequestError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if match is None:
        raise RequestError(f"expected --idle such as 90s, 30m or 2h, found {text!r}")
    return float(match[1]) * UNITS[match[2] or "s"]


@click.command()
@click.option("--stop", "stopped", metavar="ID", help="End a backend; a capture that it makes can be resumed.")
@store_option
@json_option
def backends(stopped: str | None, store: str | None, as_json: bool) -> None:
    """List the backends of a store, or end one."""
    from nfinspect.backend.client import Backend, resume_line, silent, statuses
    from nfinspect.backend.protocol import makes_a_run

    place = store_path(store).absolute()
    if stopped is not None:
        with Backend.connect(place, stopped) as found:
            found.stop()
        output.note(f"{stopped} has ended")
    living, killed = statuses(place)
    for entry in killed:
        doing = f" while it ran {entry.job[0]}" if entry.job else ""
        further = f": {resume_line(entry.job)} continues" if makes_a_run(entry.job) else ""
        output.note(f"the backend {entry.id} was killed{doing}{further}")
    for line in silent(place, {one.id for one in living}):
        output.note(line)
    if as_json:
        output.document([document(one) for one in living])
    elif living:
        output.lines(table(COLUMNS, [_row(one) for one in living]))
    elif stopped is None:
        output.line(f"no backend runs in {place}: nfinspect backend MODEL starts one")


def document(status: "Status") -> dict[str, Any]:
    """A backend as `backends --json` prints it: docs/json.md."""
    found = asdict(status)
    found["since"] = dt.datetime.fromtimestamp(status.since, dt.UTC).replace(tzinfo=None).isoformat()
    found["job"] = None if status.job is None else job_document(status.job)
    found["queue"] = [job_document(job) for job in status.queue]
    return found


def job_document(job: "JobState") -> dict[str, Any]:
    """A job as `backends --json` prints it."""
    found = asdict(job)
    return {name: value for name, value in found.items() if name not in ("version", "notes", "noted")}


def _row(status: "Status") -> tuple[object, ...]:
    job = "loading" if status.state == "loading" else "-" if status.job is None else job_line(status.job)
    memory = size(status.memory_bytes + status.device_bytes)
    idle = duration(status.idle_seconds)
    return status.id, status.model, status.device or "-", str(status.pid), memory, idle, job, len(status.queue)


def job_line(job: "JobState") -> str:
    """What a job does and how far it is, in a few words."""
    words = [job.arguments[0], *([] if job.state == "running" else [job.state])]
    if job.total:
        words.append(percent(job.done / job.total, places=0))
    if job.seconds_left is not None:
        words.append(f"{duration(job.seconds_left)} left")
    return " ".join(words)
