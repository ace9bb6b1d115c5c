"""Layer health and the network report."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import (
    health_options,
    json_option,
    opened,
    run_argument,
    site_option,
    store_option,
)
from nfinspect.present.numbers import fixed, grouped, percent
from nfinspect.present.tables import Column, table, wrapped

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.health import NetworkReport


@click.command()
@run_argument
@site_option
@health_options
@store_option
@json_option
def health(
    run: str,
    site: str | None,
    options: "HealthOptions",
    store: str | None,
    as_json: bool,
) -> None:
    """Layer health and the network report of a run."""
    from nfinspect.analysis.health import network_report

    with opened(store, run, committed=True) as file:
        report = network_report(file, site, options)
    if as_json:
        output.document(report.to_json())
    else:
        output.lines(health_lines(report))


def health_lines(report: "NetworkReport") -> list[str]:
    """The report for people."""
    columns = [
        Column("layer"),
        Column("neurons"),
        Column("firing"),
        Column("pattern", text=True),
        *(Column(name) for name in ("dead", "missing", "weak", "satur.", "sporad.", "score")),
    ]
    rows = [
        (
            layer.layer,
            layer.neurons,
            percent(layer.activation_rate),
            layer.firing_pattern,
            layer.dead_neurons,
            layer.missing_neurons,
            layer.weak_neurons,
            layer.saturated_neurons,
            layer.sporadic_neurons,
            fixed(layer.health_score),
        )
        for layer in report.layer_analyses
    ]
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
