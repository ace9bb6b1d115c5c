"""The firing analysis of one text, stage by stage."""

from typing import TYPE_CHECKING

import click
from rich.cells import cell_len

from nfinspect import output
from nfinspect.backend.hosting import hosted
from nfinspect.cli.options import bos_option, chat_option, full_name, health_options, json_option, model_options
from nfinspect.cli.through_backend import Options, backend_option
from nfinspect.experiments.run_model import quiet_transformers
from nfinspect.present.numbers import counted, fixed, grouped, percent
from nfinspect.present.tables import Column, table, wrapped
from nfinspect.text import model_name, visible
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.experiments.text_report import Stage, TextFiring
    from nfinspect.models import Bos

MOST_NEXT = 100
MOST_TOKENS = 48
MOST_ISSUES = 12
"""Shown to people; the JSON has all."""


def _model(options: Options) -> str:
    """The model of a text's analysis. Raises RequestError for a simulated network."""
    if options["simulated"]:
        raise RequestError("expected --simulated or --backend, found both: a simulated network is in no backend")
    if options["model"] is not None:
        return full_name(options["model"], options["revision"])
    import nfinspect_samples

    from nfinspect.subtext import SAMPLE_MODEL

    return str(nfinspect_samples.path(SAMPLE_MODEL))


@click.command()
@click.argument("text", metavar="TEXT")
@click.option("--model", metavar="M", help="A hub name or a local directory; the sample model if not given.")
@click.option("--simulated", is_flag=True, help="Simulate a network instead of running a model; the result says so.")
@click.option("--top", metavar="K", type=click.IntRange(1, MOST_NEXT), default=5, show_default=True,
              help="Likeliest next tokens shown.")  # fmt: skip
@bos_option
@chat_option
@backend_option(_model)
@health_options
@model_options
@json_option
@click.option(
    "--store",
    metavar="DIR",
    help="With --backend: where that is; else $NFINSPECT_STORE, else ./nfinspect-store.",
)
def text(
    text: str,
    model: str | None,
    simulated: bool,
    top: int,
    options: "HealthOptions",
    bos: "Bos",
    chat: bool,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
    store: str | None,
) -> None:
    """Firing analysis of one text: tokens, embedding, attention, deep layers, output."""
    if store is not None and hosted() is None:
        raise RequestError("--store goes with --backend: it says where the backend is; nothing of a text is saved")
    if simulated and model:
        raise RequestError("expected --model or --simulated, found both")
    from nfinspect.subtext import SubtextAnalyzer

    if not simulated:
        quiet_transformers()
    analyzer = SubtextAnalyzer(
        model,
        simulated=simulated,
        bos=bos,
        chat=chat,
        revision=revision,
        dtype=dtype,
        device=device,
        allow_pickle=allow_pickle,
    )
    found = analyzer.analyze(text, top=top, **vars(options))
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(text_lines(found))


def text_lines(found: "TextFiring") -> list[str]:
    """The analysis for people."""
    tokens = len(found.tokens)
    columns = [
        Column("stage", text=True, whole=True),
        Column("site", text=True, whole=True),
        Column("layers", spare=2),
        Column("neurons"),
        Column("firing"),
        *(Column(name) for name in ("dead", "miss.", "weak", "sat.")),
        Column("spor.", spare=1),
        Column("score"),
    ]
    through = (
        f"{counted(tokens, 'word')} through a simulated network, no model"
        if found.simulated
        else f"{counted(tokens, 'token')} through {model_name(found.model)}"
    )
    figures = f"health {fixed(found.neural_health_score)}, firing rate {percent(found.overall_firing_rate)}"
    issues = [f"{stage.name}: {grouped(issue)}" for stage in found.stages for issue in stage.issues]
    if len(issues) > MOST_ISSUES:
        issues = [*issues[:MOST_ISSUES], f"and {len(issues) - MOST_ISSUES} more"]
    rows = [row for stage in found.stages for row in _stage_rows(stage)]
    lines = [*wrapped(f"{through}: {figures}. {found.interpretation}."), "", *table(columns, rows), ""]
    lines += _token_lines(found)
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
            fixed(report.overall_health_score),
        )
        for report in stage.reports
    ]


def _token_lines(found: "TextFiring") -> list[str]:
    tokens = [
        f"'{token.token}'" + ("" if token.surprisal is None else f" {fixed(token.surprisal, places=1)}")
        for token in found.tokens[:MOST_TOKENS]
    ]
    if len(found.tokens) > MOST_TOKENS:
        tokens.append(f"and {len(found.tokens) - MOST_TOKENS:,} more")
    following = found.next_tokens
    if following is None:
        return ["Words", *_flowed(tokens)]
    likeliest = ["-" if token is None else f"'{token}' {percent(p)}" for _, token, p in following.top]
    return [
        *wrapped(f"Tokens, with their surprisal in nats ({_mean(found.mean_surprisal)})"),
        *_flowed(tokens),
        *wrapped(f"Likeliest next tokens (entropy {fixed(following.entropy, places=2)} nats)"),
        *_flowed(likeliest),
    ]


def _mean(surprisal: float | None) -> str:
    return "a first token has none" if surprisal is None else f"mean {fixed(surprisal, places=2)}"


def _flowed(items: list[str]) -> list[str]:
    """Items side by side, with line breaks only between them: the spaces in a token are its own."""
    lines = [""]
    for item in map(visible, items):
        if lines[-1] and cell_len(lines[-1]) + 2 + cell_len(item) > output.width():
            lines.append("")
        lines[-1] += "  " + item
    return lines
