"""Put the parts of a capture together."""

import re

import click

from nfinspect import output
from nfinspect.cli.options import complete_run, find_run, json_option, store_option
from nfinspect.cli.progress import progress
from nfinspect.present.numbers import counted, size
from nfinspect_store.catalog import merged_path, store_path

BESIDE = re.compile(r"\.part-\d+-of-\d+(\.results/?|\.duckdb\..+)")
"""How the path of what lies beside a part ends: its results, its log, its heartbeat. `NAME.part-*` names it too."""


@click.command()
@click.argument("out", metavar="OUT")
@click.argument("parts", metavar="PART...", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--partial", is_flag=True, help="Merge the parts that are there; the run says what is missing.")
@click.option(
    "--attach", is_flag=True, help="Leave the values in the parts: OUT holds all the rest, and reads them there."
)
@store_option
@json_option
def merge(out: str, parts: tuple[str, ...], partial: bool, attach: bool, store: str | None, as_json: bool) -> None:
    """Merge the parts of a capture (capture --shard I/N) into the run OUT.

    OUT is the run that one process would have made. The parts may come in any order, and stay. Their results and logs
    among PART are passed over. A run made with --attach stands for its parts: merge OUT RUN makes one file of it.
    """
    from nfinspect.capturing.merging import merge_runs

    path = merged_path(store_path(store), out)
    runs = [find_run(store, part) for part in parts if not BESIDE.fullmatch(part, part.rfind(".part-"))]
    with progress("merging") as tick:
        done = merge_runs(path, runs, partial=partial, attach=attach, note=output.note, told=tick)
    if as_json:
        output.document(
            {
                "run": path.stem,
                "path": str(path),
                "bytes": path.stat().st_size,
                "written": done.written,
                "attached": done.attached,
                "parts": list(done.parts),
                "left_out": list(done.left_out),
                "missing": [{"first": start, "last": stop - 1} for start, stop in done.missing],
                "prompts": done.prompts,
                "tokens": done.tokens,
            }
        )
    elif done.written:
        of = f"{counted(len(done.parts), 'part')}, {counted(done.prompts, 'prompt')}, {counted(done.tokens, 'token')}"
        stay = ", whose values stay in the parts" if done.attached else ""
        output.note(f"merged {path.stem} ({size(path.stat().st_size)}): {of}{stay}")
