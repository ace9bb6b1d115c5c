"""The sample model over the sample concepts: what a newcomer sees first."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.capture import captured
from nfinspect.cli.options import store_option
from nfinspect_store.catalog import list_runs, store_path

if TYPE_CHECKING:
    from nfinspect_store.reader import RunFile

DEMO_RUN = "demo"
DEMO_MODEL = "gpt2-relu"
DEMO_TOKENS = 16
"""New tokens for each of the demo's prompts."""


@click.command()
@click.option("--headless", is_flag=True, help="Print health, traces and overlap instead of opening the app.")
@store_option
def demo(headless: bool, store: str | None) -> int:
    """Capture the sample model over the sample concepts, then open the app on it.

    Without a terminal it prints health, traces and overlap. A demo captured earlier is opened at once.
    """
    directory = store_path(store)
    done = any(entry.name == DEMO_RUN and entry.status == "complete" for entry in list_runs(directory))
    if not done:
        _capture_demo(directory)
    if headless or not output.has_terminal():
        _print_demo(directory)
        return 0
    from nfinspect.cli.group import open_app

    return open_app(str(directory), DEMO_RUN)


def _capture_demo(directory: Path) -> None:
    import nfinspect_samples

    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect_store.catalog import delete_run, new_run_path

    unfinished = new_run_path(directory, DEMO_RUN)
    if unfinished.exists():
        delete_run(unfinished, force=True)
    concepts = nfinspect_samples.CONCEPTS
    output.note(f"capturing the sample model {DEMO_MODEL} over {', '.join(concepts)} into {directory}")
    captured(
        CaptureRequest(
            model=str(nfinspect_samples.path(DEMO_MODEL)),
            store=directory,
            prompts=tuple(PromptFile(nfinspect_samples.path("prompts", f"{c}.json"), c) for c in concepts),
            generate=DEMO_TOKENS,
            sites=("mlp", "resid"),
            run=DEMO_RUN,
        )
    )


def _print_demo(directory: Path) -> None:
    from nfinspect.analysis.health import network_report
    from nfinspect.analysis.overlap import overlap
    from nfinspect.analysis.trace import trace
    from nfinspect.cli.concepts import overlap_lines, trace_lines
    from nfinspect.cli.health import health_lines
    from nfinspect_store.reader import RunFile

    with RunFile.open(directory / f"{DEMO_RUN}.duckdb") as file:
        concepts = _concepts(file)
        output.lines(health_lines(network_report(file)))
        for concept in concepts:
            output.line()
            output.lines(trace_lines(trace(file, concept, top=5)))
        output.line()
        output.lines(overlap_lines(overlap(file, concepts)))
    output.line()
    output.line(f"In a terminal, nfinspect {directory / f'{DEMO_RUN}.duckdb'} opens the app on this run.")


def _concepts(file: "RunFile") -> list[str]:
    return [concept for concept in file.concepts if concept != "baseline"]
