"""The command of an analysis, built from its spec."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.capture import layer_list
from nfinspect.cli.fields import field_table
from nfinspect.cli.options import (
    json_option,
    layers_option,
    one_run,
    opened,
    optional_run_argument,
    run_argument,
    run_names,
    runs_option,
    site_option,
    store_option,
)
from nfinspect.cli.progress import CommandLine, recompute_option
from nfinspect.cli.through_backend import backend_option, model_of_run
from nfinspect.present.tables import wrapped
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import AnalysisSpec, Option

top_option = click.option(
    "--top", metavar="K", type=click.IntRange(min=0), default=20, show_default=True, help="Neurons shown."
)


def analysis_command(spec: "AnalysisSpec") -> click.Command:
    """`nfinspect NAME RUN`, and for several runs `--runs A,B,C`."""

    def run_it(
        run: str | None,
        layers: str | None,
        top: int,
        site: str | None,
        recompute: bool,
        store: str | None,
        as_json: bool,
        runs: str | None = None,
        **options: Any,
    ) -> None:
        where: dict[str, Any] = {"site": site, "layers": layer_list(layers), "recompute": recompute}
        spec.check(options)
        asked = {name: options[name] for name in spec.defaults()}
        if runs is not None:
            from nfinspect.cli.compared import compare

            for option in spec.options:
                if option.afterwards and options[option.name] != option.default:
                    raise RequestError(f"{_name(option)} goes with one run: the comparison does not include it")
            compare(spec, store, run_names(run, runs), as_json, **where, **asked)
            return
        from nfinspect.results import find_or_compute

        reporter = CommandLine()
        with opened(store, one_run(run)) as file:
            kept, found = find_or_compute(spec, file, reporter=reporter, **where, **asked)
            if spec.finish is not None:
                found = spec.finish(file, kept, found, {**options, "recompute": recompute}, reporter)
            about_values = file.value_notes
        for text in (*about_values, *spec.notes(found)):
            output.note(text)
        if offered := spec.offers(found):
            output.note(f"{offered} lists them")
        if as_json:
            document = spec.document(found)
            output.document({**document, "notes": [*about_values, *spec.notes(found)]} if about_values else document)
        else:
            output.lines(lines(spec, found, top))

    needs_model = any(option.name == "substitute" for option in spec.options)
    decorators: Iterable[Callable[..., Any]] = (
        *((optional_run_argument, runs_option) if spec.comparison else (run_argument,)),
        *map(_option, spec.options),
        layers_option,
        top_option,
        site_option,
        recompute_option,
        store_option,
        json_option,
        *((backend_option(_runs_model),) if needs_model else ()),
    )
    command: Callable[..., Any] = run_it
    for decorate in reversed(list(decorators)):
        command = decorate(command)
    fields = "\n".join(f"  {field.key}: {field.meaning}" for field in spec.lists[0].fields(None))
    told = f"{spec.does}\n\n{spec.explains}\n\n\b\nFields of each neuron:\n{fields}"
    return click.command(spec.name, help=told, short_help=spec.does)(command)


def _runs_model(options: dict[str, Any]) -> str:
    """The model that `--substitute` needs. Raises RequestError without it."""
    if not options["substitute"]:
        raise RequestError("--backend goes with --substitute: all else is computed from the run")
    return model_of_run({**options, "run": one_run(options["run"])}, "substitution")


def _name(option: "Option") -> str:
    return f"--{option.name.replace('_', '-')}"


def _option(option: "Option") -> Callable[..., Any]:
    if option.type is bool:
        return click.option(_name(option), is_flag=True, help=option.help)
    kind: Any = option.type
    if option.choices:
        kind = click.Choice(option.choices)
    elif option.type is int:
        kind = click.IntRange(min=option.least, max=option.most)
    return click.option(
        _name(option),
        metavar=option.metavar,
        type=kind,
        default=option.default,
        show_default=option.default is not None,
        help=option.help,
    )


def lines(spec: "AnalysisSpec", found: Any, top: int = 0) -> list[str]:
    """What was found for people: its tables, those of the neurons with the first `top`."""
    shown = [table for table in spec.printed(found) if not table.top or (table.rows and top)]
    said: list[str] = []
    for i, table in enumerate(shown):
        said += [*([""] if i else []), *(wrapped(table.title) if table.title else ())]
        said += field_table(replace(table, rows=table.rows[:top]) if table.top else table)
        if table.top and len(table.rows) > top:
            said.append(f"and {len(table.rows) - top:,} more (--top {len(table.rows)})")
    return said
