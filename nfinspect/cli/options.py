"""Options that several commands share, and how a command opens its run."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nfinspect import model_files, output
from nfinspect_store.byte_limits import needed_limit, resume_advice
from nfinspect_store.catalog import list_runs, run_path, store_path
from nfinspect_store.errors import NfinspectError, NotARun, RequestError, RunBusy, StoreError
from nfinspect_store.heartbeat import being_written

if TYPE_CHECKING:
    from nfinspect.backend.remote import RunUnderWay
    from nfinspect_store.reader import RunFile

GIVEN = "nfinspect.given"
"""Where contexts have the arguments of the whole command."""

Command = TypeVar("Command", bound=Callable[..., Any])


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of run names."""
    try:
        names = [entry.name for entry in list_runs(store_path(ctx.params.get("store")))]
    except StoreError:
        return []
    return [name for name in names if name.startswith(incomplete)]


run_argument = click.argument("run", metavar="RUN", shell_complete=complete_run)
optional_run_argument = click.argument("run", metavar="[RUN]", required=False, shell_complete=complete_run)
runs_option = click.option("--runs", metavar="A,B,C", help="Compare several runs; RUN, if given, comes first.")
store_option = click.option(
    "--store", metavar="DIR", help="Directory of runs; else $NFINSPECT_STORE, else ./nfinspect-store."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
layers_option = click.option("--layers", metavar="LIST", help="Such as 0-3,11; all if not given.")
site_option = click.option(
    "--site", help="Where neurons are read: mlp, shared, mixer, attn or resid, if the run has it."
)


def model_options(command: Command) -> Command:
    """How a model is loaded: --revision, --dtype, --device, --allow-pickle."""
    for option in reversed(
        [
            click.option("--revision", metavar="R", help="Branch, tag or commit of a hub model, as in NAME@R."),
            click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps, balanced."),
            click.option(
                "--allow-pickle",
                is_flag=True,
                help="Load pickled weights, which can run code; not needed for safetensors.",
            ),  # fmt: skip
        ]
    ):
        command = option(command)
    return command


bos_option = click.option(
    "--bos",
    type=click.Choice(["auto", "each", "none"]),
    default="auto",
    show_default=True,
    help="Put BOS before texts and windows: as the tokenizer does, always, or never.",
)
chat_option = click.option(
    "--chat", is_flag=True, help="Read each text as a user's message in the model's chat template."
)


def health_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The thresholds of `health` and `neurons`; the command gets them as one `options: HealthOptions`."""

    @functools.wraps(command)
    def with_options(
        skip_first: bool,
        threshold_scale: str,
        threshold_missing: float,
        threshold_weak: float,
        threshold_activation_rate: float,
        **others: Any,
    ) -> Any:
        from nfinspect.analysis.classes import HealthOptions

        options = HealthOptions(
            threshold_missing=threshold_missing,
            threshold_weak=threshold_weak,
            threshold_scale="absolute" if threshold_scale == "absolute" else "layer",
            skip_first=skip_first,
            threshold_activation_rate=threshold_activation_rate,
        )
        return command(options=options, **others)

    decorated: Callable[..., Any] = with_options
    for option in reversed(
        [
            click.option("--skip-first", is_flag=True, help="Leave out the tokens at position 0."),
            click.option(
                "--threshold-scale",
                type=click.Choice(["layer", "absolute"]),
                default="layer",
                show_default=True,
                help="Thresholds on mean |a|: relative to the layer's, or absolute.",
            ),
            click.option("--threshold-missing", type=float, default=0.01, show_default=True),
            click.option("--threshold-weak", type=float, default=0.1, show_default=True),
            click.option("--threshold-activation-rate", type=float, default=0.01, show_default=True),
        ]
    ):
        decorated = option(decorated)
    return decorated


def full_name(model: str, revision: str | None) -> str:
    """MODEL with its revision, `NAME@R`: the name that results and runs are saved under. Raises WrongRevision."""
    return model if revision is None else model_files.full_name(model, revision)


def find_run(store: str | None, run: str) -> Path:
    """The file of RUN. Raises RunNotFound, RunBusy."""
    path = run_path(store_path(store), run)
    if being_written(path):
        raise RunBusy(f"{path.stem} is being captured: wait until it has finished (nfinspect runs shows its progress)")
    return path


def run_names(run: str | None, runs: str) -> list[str]:
    """RUN, if given, and those of `--runs A,B,C`. Raises RequestError for fewer than two, and for one named twice."""
    names = [*([run] if run else []), *(name.strip() for name in runs.split(",") if name.strip())]
    if len(names) < 2 or len(set(names)) < len(names):
        raise RequestError(f"expected two or more different runs, as in --runs A,B; found {', '.join(names) or 'none'}")
    return names


def one_run(run: str | None) -> str:
    """RUN. Raises RequestError where it is not given."""
    if run is None:
        raise RequestError("expected RUN, or several runs as --runs A,B,C")
    return run


def under_way(store: str | None, run: str) -> "RunUnderWay | None":
    """RUN as far as it is committed, if a backend of its store is capturing it. Raises RunNotFound."""
    path = run_path(store_path(store), run)
    if not being_written(path):
        return None
    from nfinspect.backend.remote import run_under_way

    return run_under_way(path)


@contextmanager
def opened(store: str | None, run: str, *, committed: bool = False) -> "Iterator[RunFile]":
    """RUN, open for reading. A note on stderr says if it is incomplete.

    committed: also a run that a backend is capturing, as of its last commit; not for what saves a result, which would
    be of a part. Raises StoreError for a run whose capture was cut short before anything was written.
    """
    from nfinspect_store.reader import RunFile

    if committed and (part := under_way(store, run)) is not None:
        with part:
            output.note(f"{part.name} is being captured: it holds {part.tokens:,} tokens so far")
            yield part
        return
    with RunFile.open(find_run(store, run)) as file:
        file.require_tokens()
        if file.info.status != "complete":
            resume = f"repeat its capture command {resume_advice(needed_limit(file.info))} to continue"
            output.note(f"{file.name} is {status_of(file.info.status)}: it holds {file.tokens:,} tokens; {resume}")
        with damage_told(file.path):
            yield file


DAMAGE_SOUGHT = 2**30
"""Largest run, in bytes, that is read whole after an unexpected error, to find out whether the file is the cause."""


@contextmanager
def damage_told(path: Path) -> "Iterator[None]":
    """Blames an error that nfinspect does not raise on purpose on the run if `verify` finds it damaged.

    Raises NotARun with the first of its problems.
    """
    try:
        yield
    except (NfinspectError, click.ClickException, click.exceptions.Exit, OSError, MemoryError):
        raise
    except Exception as error:
        from nfinspect_store.verify import verify_run

        problems = verify_run(path).problems if path.stat().st_size <= DAMAGE_SOUGHT else ()
        if problems:
            raise NotARun(f"{path.stem} is damaged: {problems[0]} (nfinspect verify says more)") from error
        raise


def status_of(status: str) -> str:
    """A run's true status: a killed capture could not record that it was interrupted."""
    return "interrupted" if status == "capturing" else status
