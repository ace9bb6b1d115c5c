"""Options that several commands share, and how a command gets at its run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nfinspect_store.catalog import list_runs, run_path, store_path
from nfinspect_store.errors import RunBusy, StoreError
from nfinspect_store.heartbeat import being_written

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect_store.reader import RunFile

Command = TypeVar("Command", bound=Callable[..., Any])

SELECTIONS = ("last", "generated", "all")
RANKS = ("difference", "effect", "auroc")


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of run names."""
    try:
        names = [entry.name for entry in list_runs(store_path(ctx.params.get("store")))]
    except StoreError:
        return []
    return [name for name in names if name.startswith(incomplete)]


run_argument = click.argument("run", metavar="RUN", shell_complete=complete_run)
store_option = click.option(
    "--store", metavar="DIR", help="Directory of runs; else $NFINSPECT_STORE, else ./nfinspect-store."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
site_option = click.option("--site", help="Where neurons are read: mlp, mixer, attn or resid, as the run has them.")


def health_options(command: Command) -> Command:
    """The thresholds of `health` and `neurons`; see make_health_options."""
    for option in reversed(
        [
            click.option("--skip-first", is_flag=True, help="Leave out the tokens at position 0."),
            click.option(
                "--threshold-scale",
                type=click.Choice(["layer", "absolute"]),
                default="layer",
                show_default=True,
                help="What the thresholds are of: the layer's mean |a|, or |a| itself.",
            ),
            click.option("--threshold-missing", type=float, default=0.01, show_default=True),
            click.option("--threshold-weak", type=float, default=0.1, show_default=True),
            click.option("--threshold-activation-rate", type=float, default=0.01, show_default=True),
        ]
    ):
        command = option(command)
    return command


def make_health_options(
    skip_first: bool,
    threshold_scale: str,
    threshold_missing: float,
    threshold_weak: float,
    threshold_activation_rate: float,
) -> "HealthOptions":
    """The options of the command line as the analyses take them. Raises RequestError."""
    from nfinspect.analysis.classes import HealthOptions

    return HealthOptions(
        threshold_missing=threshold_missing,
        threshold_weak=threshold_weak,
        threshold_scale="absolute" if threshold_scale == "absolute" else "layer",
        skip_first=skip_first,
        threshold_activation_rate=threshold_activation_rate,
    )


def find_run(store: str | None, run: str) -> Path:
    """The file of RUN. Raises RunNotFound, RunBusy."""
    path = run_path(store_path(store), run)
    if being_written(path):
        raise RunBusy(f"{path.stem} is being captured: wait until it has finished (nfinspect runs shows how far it is)")
    return path


@contextmanager
def opened(store: str | None, run: str) -> "Iterator[RunFile]":
    """RUN, open for reading."""
    from nfinspect_store.reader import RunFile

    with RunFile.open(find_run(store, run)) as file:
        yield file
