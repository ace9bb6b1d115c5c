"""A report of a run, or of several beside each other: figures, their data, one page."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.long_work import progress
from nfinspect.cli.options import complete_run, json_option, opened, site_option, store_option
from nfinspect.text import model_name
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect_store.reader import RunFile


@click.command()
@click.argument("run", metavar="[RUN]", required=False, shell_complete=complete_run)
@click.option("--runs", metavar="A,B,C", help="Several runs in the same figures, instead of RUN.")
@click.option("--out", metavar="DIR", required=True, type=Path, help="Directory to write; made if it is not there.")
@click.option(
    "--force", is_flag=True, help="Write into a directory that holds files, replacing those of the same name."
)
@site_option
@store_option
@json_option
def report(
    run: str | None, runs: str | None, out: Path, force: bool, site: str | None, store: str | None, as_json: bool
) -> None:
    """Figures of a run with their data, and a page that explains them. Needs the extra [figures].

    What an analysis has not been run for is said on the page, with the command that makes it.
    """
    from nfinspect.figures.compare import check_runs
    from nfinspect.figures.report import write_report
    from nfinspect.figures.sections import compared_sections, names_of, sections_of
    from nfinspect.figures.style import require_matplotlib

    if (run is None) == (runs is None):
        raise RequestError("expected RUN, or several as --runs A,B,C: one of them")
    require_matplotlib()  # before anything is read for nothing
    with ExitStack() as stack:
        if run is not None:
            file = stack.enter_context(opened(store, run))
            place = file.resolve_site(site)
            with progress("reading results") as tick:
                sections = sections_of(file, place, tick)
            title, facts = f"Report of {file.name}", run_facts(file, place)
        else:
            asked = check_runs([name.strip() for name in (runs or "").split(",") if name.strip()])
            files = [stack.enter_context(opened(store, name)) for name in asked]
            by_name = dict(zip(names_of(files), files, strict=True))
            with progress("reading results") as tick:
                sections = compared_sections(by_name, site, tick)
            title, facts = f"{', '.join(by_name)} compared", compared_facts(by_name, site)
        with progress("figures") as tick:
            done = write_report(out, title, facts, sections, force=force, tick=tick)
    if as_json:
        output.document(done.to_json())
        return
    document = done.to_json()
    absent = document["absent"]
    assert isinstance(absent, list)
    for one in absent:
        output.note(f"left out: {one['title']}. {one['why']}" + (f" {one['command']}" if one["command"] else ""))
    output.note(f"{len(sections) - len(absent)} figures, {len(done.files)} files in {out}: {out / 'report.md'}")


def run_facts(file: "RunFile", site: str) -> Mapping[str, str]:
    """What the page says of a run."""
    layers = file.site_layers(site)
    info = file.info
    return {
        "run": file.name,
        "model": f"{model_name(info.model)} ({info.model_type})" if info.model else "none",
        "site": f"{site}, {sum(layer.neurons for layer in layers):,} neurons in {len(layers)} layers",
        "text": f"{file.prompts:,} prompts, {file.tokens:,} tokens; concepts: {', '.join(file.concepts)}",
        "status": info.status,
        "made by": f"nfinspect {info.nfinspect_version}",
    }


def compared_facts(runs: Mapping[str, "RunFile"], site: str | None) -> Mapping[str, str]:
    """What the page says of several runs, one line each."""
    facts = {}
    for name, file in runs.items():
        of_run = run_facts(file, file.resolve_site(site))
        facts[name] = "; ".join(of_run[key] for key in ("model", "site", "text"))
    return facts
