"""A log of the app, repeated without a terminal."""

import shlex
from pathlib import Path

import click

from nfinspect import output
from nfinspect.cli.options import store_option
from nfinspect.tui.journal import with_store, without_store
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import expanded

NOT_REPEATED = {
    "delete": "deletes a run",
    "migrate": "changes a run",
    "export": "writes files",
    "report": "writes files",
    "replay": "repeats a log",
    "demo": "opens the app",
    "backend": "does not end by itself",
    "backends": "ends backends",
}
"""Commands that a log does not repeat, and why: it shows and computes, and leaves alone what is there."""

REFUSED = ("--out", "--force", "--allow-pickle", "--add", "--remove", "--note", "--stop")
"""Options that write over files, change marks, or run what a file contains."""

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
            arguments = list(with_store(without_store(arguments), Path(store)))
        output.note("$ " + shlex.join(["nfinspect", *arguments]))
        status = 0 if dry else main(arguments)
        if status == INTERRUPTED:
            return INTERRUPTED
        failed += status != 0
    if failed:
        output.note(f"{failed:,} of {len(repeated):,} commands failed")
    return 1 if failed else 0


def _commands(path: Path) -> list[list[str]]:
    """Raises RequestError for a file that is no log, before anything of it is run."""
    try:
        if path.stat().st_size > LONGEST:
            raise RequestError(f"expected a log of at most {LONGEST:,} bytes, found a larger file: {path}")
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
    if why := NOT_REPEATED.get(words[1]):
        raise RequestError(f"{where}: a log does not repeat {words[1]}: it {why}")
    options = words[: words.index("--")] if "--" in words else words
    if found := next((o for word in options if (o := word.partition("=")[0]) in REFUSED), None):
        raise RequestError(f"{where}: a log does not repeat a command with {found}")
    if words[1] == "watch" and not {"--once", "--json"} & set(options):
        raise RequestError(f"{where}: a log repeats watch with --once only: else it does not end by itself")
    if words[1] == "sql" and "-" in words:
        raise RequestError(f"{where}: a log does not repeat statements that are typed")
    return words[1:]
