"""The firing analysis of one text, stage by stage."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.capture import quiet_transformers
from nfinspect.cli.options import health_options, json_option, model_options
from nfinspect.cli.tables import Column, figure, percent, table, wrapped
from nfinspect.text import model_name
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.experiments.text_report import Stage, TextFiring


@click.command()
@click.argument("text", metavar="TEXT")
@click.option("--model", metavar="M", help="A hub name or a local directory; the sample model if not given.")
@click.option("--simulated", is_flag=True, help="A simulated network instead of a model; the result says so.")
@click.option("--top", metavar="K", type=click.IntRange(min=1), default=5, show_default=True,
              help="Of the likeliest next tokens.")  # fmt: skip
@health_options
@model_options
@json_option
def text(
    text: str,
    model: str | None,
    simulated: bool,
    top: int,
    options: "HealthOptions",
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Firing analysis of one text: tokens, embedding, attention, deep layers, output."""
    if simulated and model:
        raise RequestError("expected --model or --simulated, found both")
    from nfinspect.subtext import SubtextAnalyzer

    if not simulated:
        quiet_transformers()
    analyzer = SubtextAnalyzer(model, simulated=simulated, dtype=dtype, device=device, allow_pickle=allow_pickle)
    found = analyzer.analyze(text, top=top, **vars(options))
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(text_lines(found))


def text_lines(found: "TextFiring") -> list[str]:
    """The analysis for people."""
    columns = [
        Column("stage", text=True, whole=True),
        Column("site", text=True, whole=True),
        Column("layers", spare=1),
        Column("neurons"),
        Column("firing"),
        *(Column(name) for name in ("dead", "missing", "weak", "satur.")),
        Column("sporad.", spare=2),
        Column("score"),
    ]
    title = f"{len(found.tokens)} tokens through {model_name(found.model)}: health {found.neural_health_score:.3f}"
    rate = f"firing rate {percent(found.overall_firing_rate)}"
    rows = [row for stage in found.stages for row in _stage_rows(stage)]
    lines = [*wrapped(f"{title}, {rate}. {found.interpretation}."), "", *table(columns, rows), "", *_token_lines(found)]
    issues = [f"{stage.name}: {issue}" for stage in found.stages for issue in stage.issues]
    for name, texts in (("Issues", issues), ("What may help", found.recommendations), ("Note", found.notes)):
        if texts:
            lines += ["", name, *(line for text in texts for line in wrapped(text, "  "))]
    return lines


def _stage_rows(stage: "Stage") -> list[tuple[object, ...]]:
    if not stage.reports:
        return [(stage.name, *("-",) * 10)]
    from nfinspect.experiments.text_report import site_firing_rate

    return [
        (
            stage.name,
            report.site,
            report.total_layers,
            sum(layer.neurons for layer in report.layer_analyses),
            percent(site_firing_rate(report)),
            *(
                sum(layer.count(name) for layer in report.layer_analyses)
                for name in ("dead", "missing", "weak", "saturated", "sporadic")
            ),
            f"{report.overall_health_score:.3f}",
        )
        for report in stage.reports
    ]


def _token_lines(found: "TextFiring") -> list[str]:
    said = "  ".join(
        f"'{token.token}'" + ("" if token.surprisal is None else f" {token.surprisal:.1f}") for token in found.tokens
    )
    following = found.next_tokens
    if following is None:
        return wrapped(f"Tokens: {said}")
    likeliest = "  ".join("-" if token is None else f"'{token}' {percent(p)}" for _, token, p in following.top)
    return [
        *wrapped(f"Tokens with their surprisal (nats; mean {figure(found.mean_surprisal, 3)}): {said}"),
        *wrapped(f"Next (entropy {following.entropy:.2f} nats): {likeliest}"),
    ]
