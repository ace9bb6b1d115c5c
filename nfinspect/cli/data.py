"""Getting at the data: SQL, and export to files."""

import difflib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.options import (
    complete_run,
    damage_told,
    find_run,
    json_option,
    run_argument,
    store_option,
    under_way,
)
from nfinspect.present.numbers import number, size
from nfinspect.present.tables import Column, fitted

if TYPE_CHECKING:
    from nfinspect_store.console import Console
    from nfinspect_store.query_result import QueryResult

SHOWN = 1000
"""Rows shown in a table for people; the other formats have all of them."""


@click.command(context_settings={"ignore_unknown_options": True})  # SQL may begin with a comment
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.argument("query", metavar="SQL")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--out", metavar="FILE", help="Write to FILE instead of stdout; parquet needs it.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop a query that takes longer.")
@store_option
@json_option
def sql(
    runs: tuple[str, ...],
    query: str,
    fmt: str,
    out: str | None,
    timeout: float | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Run one read-only SQL statement over a run; - reads it from stdin.

    Several RUNs are attached by name: FROM neurons reads the first one's table, FROM "other-run".neurons
    another's.
    """
    _check_options((*runs, query))
    fmt = "json" if as_json else fmt
    if fmt == "parquet" and not out:
        raise click.UsageError("parquet is written to a file: give --out FILE")
    if fmt == "table" and out:
        raise click.UsageError("--out goes with --format csv, json or parquet")
    text = sys.stdin.read() if query == "-" else query
    with _console(store, runs) as console:
        result = console.run(text, timeout=timeout)
        _interruptible(console, lambda: _write(result, fmt, out))


def _console(store: str | None, runs: tuple[str, ...]) -> "Console":
    """Over several runs, or over one, which a backend may be capturing."""
    from nfinspect_store.console import open_console

    if len(runs) == 1 and (part := under_way(store, runs[0])) is not None:
        from nfinspect.backend.remote import RemoteConsole

        with part:
            output.note(f"{part.name} is being captured: it holds {part.tokens:,} tokens so far")
            return RemoteConsole(part.path)
    paths: dict[str, Path] = {}
    for run in runs:
        path = find_run(store, run)
        name = path.stem
        while name in paths and paths[name] != path:
            name += "_"  # two files of the same name in different stores
        paths[name] = path
    return open_console(paths)


def _check_options(words: tuple[str, ...]) -> None:
    """Raises click's own error for a word that is an option and not SQL: a comment contains a space or a line break."""
    for word in words:
        if word.startswith("-") and word != "-" and not any(character.isspace() for character in word):
            name, context = word.partition("=")[0], click.get_current_context()
            known = [option for parameter in context.command.params for option in parameter.opts]
            raise click.NoSuchOption(name, possibilities=difflib.get_close_matches(name, known), ctx=context)


def _write(result: "QueryResult", fmt: str, out: str | None) -> None:
    from nfinspect_store.write_result import write_csv, write_json, write_result

    if out:
        rows = write_result(result, "csv" if fmt == "csv" else "json" if fmt == "json" else "parquet", out)
        output.note(f"{rows:,} rows in {out}")
    elif fmt == "csv":
        write_csv(result, output.data())
    elif fmt == "json":
        write_json(result, output.data())
    else:
        _show(result)


def _show(result: "QueryResult") -> None:
    rows = result.page(0, SHOWN)
    figures = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "HUGE")
    columns = [
        Column(column.name, text=not any(kind in column.type for kind in figures), spare=index)
        for index, column in enumerate(result.columns)
    ]
    if len(columns) == 2 and columns[0].header == "explain_key":  # a plan is a drawing of many lines
        for _key, drawing in rows:
            output.lines(str(drawing).split("\n"))
        return
    cells = [[cell if isinstance(cell, str) else _cell(cell) for cell in row] for row in rows]
    lines, hidden = fitted(columns, cells)
    output.lines(lines)
    if hidden:
        output.note(f"no room for {hidden} of {len(columns)} columns: --format csv, json or parquet has all of them")
    total = result.count()
    if total > len(rows):
        output.note(f"{len(rows):,} of {total:,} rows: --format csv, json or parquet has all of them")


def _cell(value: Any) -> str:
    from nfinspect_store.query_result import plain_value

    plain = plain_value(value)
    if isinstance(plain, float):
        return number(plain, digits=6)
    return "NULL" if value is None else "NaN" if plain is None else str(plain)


def _interruptible(console: "Console", work: Callable[[], None]) -> None:
    """Run `work` in a thread, so that Ctrl-C reaches Python while DuckDB computes, and cancels the query."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except KeyboardInterrupt:
        console.close()  # waits until the query has stopped
        thread.join(1)
        raise
    if failures:
        raise failures[0]


@click.command()
@run_argument
@click.option("--out", metavar="DIR", required=True, help="Directory to write; created if missing.")
@click.option(
    "--formats",
    default="parquet,safetensors",
    show_default=True,
    metavar="LIST",
    help="Any of parquet, csv, safetensors.",
)
@click.option("--tables", metavar="LIST", help="Tables to write; all public ones if not given.")
@click.option("--no-activations", is_flag=True, help="Tables only.")
@click.option(
    "--force", is_flag=True, help="Write into a directory that contains files, replacing those of the same name."
)
@store_option
@json_option
def export(
    run: str,
    out: str,
    formats: str,
    tables: str | None,
    no_activations: bool,
    force: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a run's tables and activations as Parquet, CSV and safetensors."""
    from nfinspect_store.export import export_run

    path = find_run(store, run)
    with damage_told(path):
        done = export_run(
            path,
            out,
            formats=_list(formats),
            tables=None if tables is None else _list(tables),
            activations=not no_activations,
            force=force,
            tell=output.note,
        )
    if as_json:
        output.document({"directory": str(done.directory), "files": done.files, "bytes": done.bytes})
    else:
        output.note(f"{len(done.files)} files, {size(done.bytes)}, in {done.directory}")


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
