"""Layer health and the network report."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import (
    health_options,
    json_option,
    one_run,
    opened,
    optional_run_argument,
    run_names,
    runs_option,
    site_option,
    store_option,
)
from nfinspect.present.numbers import fixed, grouped, percent
from nfinspect.present.tables import Column, table, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.analysis.scores import LayerHealth


@click.command()
@optional_run_argument
@runs_option
@site_option
@health_options
@store_option
@json_option
def health(
    run: str | None,
    runs: str | None,
    site: str | None,
    options: "HealthOptions",
    store: str | None,
    as_json: bool,
) -> None:
    """Layer health and the network report of a run."""
    from nfinspect.analysis.health import network_report

    if runs is not None:
        _compare(store, run_names(run, runs), site, options, as_json=as_json)
        return
    with opened(store, one_run(run), committed=True) as file:
        report = network_report(file, site, options)
    if as_json:
        output.document(report.to_json())
    else:
        output.lines(health_lines(report))


def _compare(
    store: str | None, names: "Sequence[str]", site: str | None, options: "HealthOptions", *, as_json: bool
) -> None:
    """Print the health of several runs, next to each other by depth."""
    from nfinspect.analysis.health import network_report
    from nfinspect.cli.compared import RUN_COLUMNS, by_depth, document_of, note_on, of_each, opened_runs

    with opened_runs(store, names, committed=True) as files:
        found = of_each(files, lambda file: network_report(file, site, options))
        edits = {name: file.edits for name, file in files.items()}
    for name, report in found.items():
        note_on(name, "", report.notes)  # of edits, too
    if as_json:
        documents = (document_of(name, one.to_json(), edits[name], "layer_analyses") for name, one in found.items())
        output.document({"runs": list(documents)})
        return
    columns = [Column("run", text=True), Column("site", text=True, spare=1), Column("layers"), Column("with issues")]
    rows = [
        (name, one.site, one.total_layers, one.problematic_layers, fixed(one.overall_health_score))
        for name, one in found.items()
    ]
    layers = by_depth({name: one.layer_analyses for name, one in found.items()}, _figures)
    output.lines(
        [
            *wrapped(f"Health of {len(found)} runs"),
            *table([*columns, Column("score")], rows),
            "",
            *wrapped("By depth: 0 is the first layer, 1 the last"),
            *table([*RUN_COLUMNS, *FIGURES], layers),
        ]
    )


FIGURES = (
    Column("firing"),
    Column("pattern", text=True, spare=1),
    *(Column(name) for name in ("dead", "missing", "weak", "satur.", "sporad.", "score")),
)
"""Of a layer's health."""


def _figures(layer: "LayerHealth") -> tuple[object, ...]:
    return (
        percent(layer.activation_rate),
        layer.firing_pattern,
        layer.dead_neurons,
        layer.missing_neurons,
        layer.weak_neurons,
        layer.saturated_neurons,
        layer.sporadic_neurons,
        fixed(layer.health_score),
    )


def health_lines(report: "NetworkReport") -> list[str]:
    """The report for people."""
    columns = [Column("layer"), Column("neurons"), *FIGURES]
    rows = [(layer.layer, layer.neurons, *_figures(layer)) for layer in report.layer_analyses]
    lines = wrapped(f"Health {fixed(report.overall_health_score)} at {report.site}. {report.interpretation}.")
    lines += [line for note in report.notes for line in wrapped(f"NOTE {note}.")]
    lines += [*wrapped(f"{grouped(report.summary)}."), "", *table(columns, rows)]
    lines += router_lines(report)
    issues = [f"L{layer.layer}  {grouped(issue)}" for layer in report.layer_analyses for issue in layer.issues]
    for title, texts in (
        ("Issues", issues),
        ("Alerts", report.alerts),
        ("What may help", report.recommendations),
    ):
        if texts:
            lines += ["", title, *(line for text in texts for line in wrapped(text, "  "))]
    if report.approximate:
        lines += [
            "",
            "Some figures are estimated from histograms: the run does not keep every value as computed (--keep stats, "
            "--precision, --where beyond).",
        ]
    return lines


def router_lines(report: "NetworkReport") -> list[str]:
    """How the tokens are spread over the experts of each layer that is a mixture of them."""
    routed = [(layer.layer, layer.router) for layer in report.layer_analyses if layer.router is not None]
    if not routed:
        return []
    columns = [Column(name) for name in ("layer", "experts", "unused", "entropy", "least", "most")]
    rows = [
        (
            number,
            router.experts,
            router.unused,
            fixed(router.entropy) if router.entropy is not None else "-",
            percent(min(router.load)),
            percent(max(router.load)),
        )
        for number, router in routed
    ]
    return ["", "Router load", *table(columns, rows)]
