"""A report of one run, or of several compared: figures, their data, one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import (
    json_option,
    one_run,
    opened,
    optional_run_argument,
    run_names,
    runs_option,
    site_option,
    store_option,
)
from nfinspect.cli.progress import progress
from nfinspect.present.numbers import counted
from nfinspect.text import model_name
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.present.charts import Section
    from nfinspect_store.reader import RunFile


def compared_kinds() -> tuple[str, ...]:
    """Kinds of neurons whose analyses are drawn for several runs."""
    from nfinspect.analyses import specs
    from nfinspect.analyses.neuron_kinds import kind_of

    drawn = (one for one in specs() if one.comparison and one.comparison.figures)
    return tuple(kind_of(one, one.every_variant()[0]) for one in drawn)


@click.command()
@optional_run_argument
@runs_option
@click.option("--out", metavar="DIR", required=True, type=Path,
              help="Directory of the report; replaces an earlier report, never other files.")  # fmt: skip
@click.option("--with-model", is_flag=True,
              help="Also compute, if not saved, what needs RUN's model: attention, suppression, ablation.")  # fmt: skip
@click.option("--model", metavar="M", help="Where the run's model is, for --with-model; by default where the run says.")
@site_option
@store_option
@json_option
def report(
    run: str | None,
    runs: str | None,
    out: Path,
    with_model: bool,
    model: str | None,
    site: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Figures of a run with their data, and a page that explains them. Needs the extra [figures].

    Analyses that need only the run are computed if missing, and saved; those that need its model are shown if saved, or
    computed with --with-model. With --runs several runs are drawn in the same figures, after RUN's own.
    """
    from nfinspect.figures.compare import check_runs
    from nfinspect.figures.folder import check_directory
    from nfinspect.figures.report import write_report
    from nfinspect.present.style import require_matplotlib

    names = [one_run(run)] if runs is None else check_runs(run_names(run, runs))
    if model is not None and not with_model:
        raise RequestError("--model goes with --with-model: without that no model is loaded")
    if with_model and run is None:
        raise RequestError("--with-model needs RUN: it runs the model of one run")
    require_matplotlib()  # before anything is read in vain
    check_directory(out)
    sections: list[Section] = []
    facts: Mapping[str, str] = {}
    if run is not None:
        with opened(store, run) as file:
            sections += own_sections(file, site, with_model, model)
            facts = run_facts(file, file.resolve_site(site))
            title = f"Report of {file.name}"
    if runs is not None:
        compared, more, title_of_all = compared_part(store, names, site)
        sections, facts = [*sections, *compared], {**facts, **more}
        title = title if run is not None else title_of_all
    with progress("figures") as tick:
        done = write_report(out, title, facts, sections, tick=tick)
    if as_json:
        output.document(done.to_json())
        return
    for one in done.absent:
        output.note(f"left out: {one.title}. {one.why}" + (f" {one.command}" if one.command else ""))
    output.note(f"{len(done.charts)} figures, {len(done.files)} files in {out}: {out / 'report.md'}")


def own_sections(file: "RunFile", site: str | None, with_model: bool, model: str | None) -> "list[Section]":
    """The figures of one run, once the missing analyses are computed."""
    from nfinspect.cli.report_parts import make_from_run, make_with_model
    from nfinspect.experiments.run_model import named_model
    from nfinspect.figures.sections import sections_of

    if with_model:
        named_model(file, model, "--with-model")  # before the analyses are computed in vain
    place = file.resolve_site(site)
    refused = make_from_run(file, place)
    if with_model:
        refused |= make_with_model(file, place, model)
    with progress("reading results") as tick:
        return sections_of(file, place, refused, tick)


def compared_part(
    store: str | None, names: list[str], site: str | None
) -> "tuple[list[Section], Mapping[str, str], str]":
    """The figures of several runs, what the page says of these, and a title."""
    from nfinspect.cli.compared import opened_runs
    from nfinspect.cli.report_parts import make_from_run
    from nfinspect.figures.sections import Part, compared_sections

    with opened_runs(store, names) as files:
        parts = {}
        for name, file in files.items():
            place = file.resolve_site(site)
            parts[name] = Part(file, place, make_from_run(file, place, compared_kinds()))
        with progress("reading results") as tick:
            sections = compared_sections(parts, tick)
        facts = {}
        for name, part in parts.items():
            told = run_facts(part.run, part.site)
            facts[f"compared: {name}"] = "; ".join(
                told[key] for key in ("model", "edits", "site", "text") if key in told
            )
        return sections, facts, f"{', '.join(files)} compared"


def run_facts(file: "RunFile", site: str) -> Mapping[str, str]:
    """What the page says of a run."""
    layers = file.site_layers(site)
    info = file.info
    return {
        "run": file.name,
        "model": f"{model_name(info.model)} ({info.model_type})" if info.model else "none",
        **({"edits": f"the model was edited: {file.edits}"} if file.edits else {}),
        "site": f"{site}, {counted(sum(x.neurons for x in layers), 'neuron')} in {counted(len(layers), 'layer')}",
        "text": f"{counted(file.prompts, 'prompt')}, {counted(file.tokens, 'token')}; "
        f"concepts: {', '.join(file.concepts)}",
        "status": info.status,
        "made by": f"nfinspect {info.nfinspect_version}",
    }
