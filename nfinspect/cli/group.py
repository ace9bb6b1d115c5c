"""The commands by name, each imported when it is called, and `nfinspect [STORE | RUN]`, which opens the app."""

import difflib
import importlib
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import click

from nfinspect import output
from nfinspect.analyses import command_of, does, names, spec
from nfinspect.cli.options import GIVEN
from nfinspect.version import VERSION
from nfinspect_store.errors import StoreError
from nfinspect_store.paths import expanded

RUN = "nfinspect.run"
"""Where the context has the run that the app is to open."""

COMMANDS = {
    "demo": "demo",
    "capture": "capture",
    "runs": "runs",
    "info": "runs",
    "merge": "merge",
    "verify": "runs",
    "migrate": "runs",
    "delete": "runs",
    "health": "health",
    "neurons": "neurons",
    "neuron": "neurons",
    "trace": "concepts",
    "overlap": "concepts",
    "ngrams": "",
    "positions": "",
    "delta": "",
    "attention": "attention",
    "similar": "similar",
    "logits": "logits",
    "ablate": "ablate",
    "walk": "walk",
    "generate": "generate",
    "text": "text",
    "simulate": "simulate",
    "watch": "watch",
    "marks": "marks",
    "diff": "diff",
    "replay": "replay",
    "sql": "data",
    "export": "data",
    "report": "report",
    "backend": "backend",
    "backends": "backend",
}
"""Each command's module in nfinspect.cli; empty where the command is built from an analysis's spec."""


def commands() -> tuple[str, ...]:
    """Every command, in the order of the help: analyses that are not listed above come last."""
    return tuple(dict.fromkeys([*COMMANDS, *map(command_of, names())]))


class Commands(click.Group):
    """Imports a command's module when the command is called; a first argument that is none is a store or a run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in commands():
            return None
        if not COMMANDS.get(cmd_name):
            from nfinspect.cli.analysis import analysis_command

            return analysis_command(spec(cmd_name))
        module = importlib.import_module(f"nfinspect.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with a line of help; commands built from a spec are not imported for that."""
        limit = formatter.width - 6 - max(map(len, commands()))
        listed = {name: self._listed(ctx, name) for name in commands()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit)) for name, one in listed.items()])

    def _listed(self, ctx: click.Context, name: str) -> click.Command:
        by_hand = self.get_command(ctx, name) if COMMANDS.get(name) else None
        return by_hand or click.Command(name, short_help=does(name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise output.ReaderGone from error  # click would make it exit status 1
        except KeyboardInterrupt as error:
            raise click.Abort from error  # click would print an empty line

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        places = self._arguments(args)
        if places and args[places[0]] not in commands():
            first = places[0]
            given, rest = args[first], [args[place] for place in places[1:]]
            others = [*args[:first], *args[first + 1 :]]
            words = ((arg.partition("="), after) for arg, after in pairwise([*others, ""]))
            stores = [value or after for (name, _, value), after in words if name == "--store"]
            if rest or not os.path.exists(expanded(given)):
                runs, trainings = ((), ()) if rest else _in_store(stores[-1] if stores else None)
                if given in trainings:
                    raise click.UsageError(f"{given} is a training: nfinspect watch {given} shows it", ctx)
                if given not in runs:
                    raise click.UsageError(neither(given, rest, runs), ctx)
                ctx.meta[RUN] = given
                args = others
            elif stores:
                raise click.UsageError(f"expected one store, found {given!r} and --store", ctx)
            else:
                args = ["--store", given, *others]
        ctx.meta[GIVEN] = list(args)
        return super().parse_args(ctx, args)

    def _arguments(self, args: list[str]) -> list[int]:
        """Indices of the arguments that are neither options of the app nor values of such options."""
        valued = {name for p in self.params if isinstance(p, click.Option) and not p.is_flag for name in p.opts}
        places, skip, ended = [], False, False
        for place, arg in enumerate(args):
            if not skip and (ended or not arg.startswith("-")):
                places.append(place)
            ended = ended or (not skip and arg == "--")
            skip = not skip and not ended and arg in valued
        return places


def _in_store(store: str | None) -> tuple[Sequence[str], Sequence[str]]:
    """The names of the runs and of the trainings in a store; none if it cannot be read."""
    from nfinspect_store.catalog import run_names, store_path
    from nfinspect_store.history import list_histories

    try:
        directory = store_path(store)
        return run_names(directory), list_histories(directory)
    except StoreError:
        return (), ()


def neither(given: str, rest: list[str], runs: Sequence[str] = ()) -> str:
    """Why the first argument is neither a command nor a store, nor one of `runs`."""
    if os.path.exists(expanded(given)):  # with something after it
        command = next((word for word in rest if word in commands()), None)
        meant = f"nfinspect {command} … --store {given}" if command else f"nfinspect {given} opens it"
        return f"expected a command, found {given!r}, which is a store, with more after it: {meant}"
    close = difflib.get_close_matches(given, {*commands(), *runs}, n=3 if runs else 1)
    if close:
        return f"no command, store or run is called {given!r}: did you mean {' or '.join(close)}?"
    if any(mark in given for mark in ("/", "~", ".")):
        kind = "run file" if given.endswith(".duckdb") else "directory"
        return f"no such {kind}: {given}"
    return f"no command or directory is called {given!r}: nfinspect -h lists the commands"


@click.group(
    cls=Commands,
    invoke_without_command=True,
    subcommand_metavar="[STORE | RUN | COMMAND [ARGS]...]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 diff --fail-if holds, 130 interrupted. --debug "
    "shows tracebacks.",
)
@click.version_option(VERSION, "--version", message="nfinspect %(version)s")
@click.option("--store", help="Directory of runs to open; else $NFINSPECT_STORE, else ./nfinspect-store.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw the app with ASCII characters only.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@click.pass_context
def nfinspect(ctx: click.Context, store: str | None, ascii_only: bool, no_mouse: bool) -> int | None:
    """Inspect the neurons of language models.

    Without a command: open the terminal app on STORE, a directory of runs, or on a run, by its file or its name.
    """
    if ctx.invoked_subcommand is not None:
        if store or ascii_only or no_mouse:
            command = ctx.invoked_subcommand
            where = f": nfinspect {command} … --store {store}" if store else ""
            raise click.UsageError(f"the app's options take no command after them, found {command}{where}", ctx)
        return None
    return open_app(store, ctx.meta.get(RUN), ascii_only=ascii_only, no_mouse=no_mouse)


def open_app(store: str | None, run: str | None = None, *, ascii_only: bool = False, no_mouse: bool = False) -> int:
    """The app on a store and one of its runs, if any, or on a run file. Needs a terminal."""
    from nfinspect_store.catalog import store_path
    from nfinspect_store.names import RUN_SUFFIX

    if not output.has_terminal():
        raise click.UsageError(
            "the app needs a terminal for keys and screen, and there is none: use a command such as "
            "`nfinspect runs --json`, or ssh -t"
        )
    given = expanded(store) if store else None
    if given is not None and os.path.isfile(given) and given.name.endswith(RUN_SUFFIX):
        given, run = given.absolute().parent, given.name.removesuffix(RUN_SUFFIX)
    directory = store_path(given)
    from nfinspect.tui.start import run_app

    return run_app(directory, run, ascii=ascii_only, mouse=not no_mouse)
