"""A log of the app, repeated without a terminal."""

import shlex
from pathlib import Path

import click

from nfinspect import output
from nfinspect.cli.options import store_option
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import expanded

NOT_REPEATED = ("delete", "backend", "backends", "demo", "watch", "replay")
"""Commands that destroy, that do not end, or that open the app."""

INTERRUPTED = 130

LONGEST = 16 * 2**20
"""Bytes of a log that are read."""


@click.command()
@click.argument("log", metavar="LOG")
@click.option("--no-sql", is_flag=True, help="Leave out the SQL that screens were read by.")
@click.option("--print", "dry", is_flag=True, help="Print the commands, run none.")
@store_option
def replay(log: str, no_sql: bool, dry: bool, store: str | None) -> int:
    """Repeat the commands of a LOG that the app has exported (@, then e).

    Each is printed on stderr before it runs. With --store they read that store instead of their own. The status is 1 if
    one of them failed; the others are repeated all the same.
    """
    from nfinspect.cli import main

    repeated = [c for c in _commands(Path(expanded(log))) if not (no_sql and c[0] == "sql")]
    failed = 0
    for arguments in repeated:
        if store is not None:
            arguments = _in_store(arguments, store)
        output.note("$ " + shlex.join(["nfinspect", *arguments]))
        status = 0 if dry else main(arguments)
        if status == INTERRUPTED:
            return INTERRUPTED
        failed += status != 0
    if failed:
        output.note(f"{failed} of {len(repeated)} commands failed")
    return 1 if failed else 0


def _commands(path: Path) -> list[list[str]]:
    """Raises RequestError for a file that is no log, before anything of it is run."""
    try:
        if path.stat().st_size > LONGEST:
            raise RequestError(f"expected a log of at most {LONGEST} bytes, found a larger file: {path}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the log {path}: {getattr(error, 'strerror', None) or error}") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            found.append(_command(line, f"{path}, line {number}"))
    return found


def _command(line: str, where: str) -> list[str]:
    from nfinspect.cli.group import commands

    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError(f"{where}: this command cannot be read: {error}") from error
    if words[:1] != ["nfinspect"] or words[1:2] == [] or words[1] not in commands():  # options first would hide one
        raise RequestError(f"{where}: expected a command of nfinspect, found {line[:60]!r}")
    if words[1] in NOT_REPEATED:
        raise RequestError(f"{where}: a log does not repeat {words[1]}: it {_why(words[1])}")
    return words[1:]


def _why(command: str) -> str:
    return {"delete": "deletes a run", "replay": "repeats a log"}.get(command, "does not end by itself")


def _in_store(arguments: list[str], store: str) -> list[str]:
    """The same command over another store."""
    place = next((i for i, word in enumerate(arguments) if word == "--store"), None)
    kept = arguments if place is None else arguments[:place] + arguments[place + 2 :]
    return [*kept, "--store", store]
