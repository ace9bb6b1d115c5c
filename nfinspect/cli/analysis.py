"""The command of an analysis, made of its spec."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.analyses.spec import Table
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
from nfinspect.present.tables import wrapped

if TYPE_CHECKING:
    from nfinspect.analyses.spec import AnalysisSpec, Option

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
        if runs is not None:
            from nfinspect.cli.compared import compare

            compare(spec, store, run_names(run, runs), as_json, **where, **options)
            return
        from nfinspect.results import find_or_compute

        with opened(store, one_run(run)) as file:
            _, found = find_or_compute(spec, file, reporter=CommandLine(), **where, **options)
        for text in spec.notes(found):
            output.note(text)
        if offered := spec.offers(found):
            output.note(f"{offered} lists them")
        if as_json:
            output.document(spec.document(found))
        else:
            output.lines(lines(spec, found, top))

    decorators: Iterable[Callable[..., Any]] = (
        *((optional_run_argument, runs_option) if spec.comparison else (run_argument,)),
        *map(_option, spec.options),
        layers_option,
        top_option,
        site_option,
        recompute_option,
        store_option,
        json_option,
    )
    command: Callable[..., Any] = run_it
    for decorate in reversed(list(decorators)):
        command = decorate(command)
    fields = "\n".join(f"  {field.key}: {field.meaning}" for field in spec.fields)
    told = f"{spec.does}\n\n{spec.explains}\n\n\b\nOf each neuron:\n{fields}"
    return click.command(spec.name, help=told, short_help=spec.does)(command)


def _option(option: "Option") -> Callable[..., Any]:
    name = f"--{option.name.replace('_', '-')}"
    if option.type is bool:
        return click.option(name, is_flag=True, help=option.help)
    kind: Any = click.IntRange(min=option.least) if option.type is int else option.type
    return click.option(
        name,
        metavar=option.metavar,
        type=kind,
        default=option.default,
        show_default=option.default is not None,
        help=option.help,
    )


def lines(spec: "AnalysisSpec", found: Any, top: int) -> list[str]:
    """What was found for people: the layers, then the first `top` neurons."""
    said = [*wrapped(spec.headline(found)), *field_table(spec.layers(found))]
    rows = spec.listed(found)
    if not rows or not top:
        return said
    ending = [f"and {len(rows) - top} more (--top {len(rows)})"] if len(rows) > top else []
    return [*said, "", *field_table(Table(spec.fields, rows[:top])), *ending]
