"""Concept traces and their overlap."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import (
    json_option,
    opened,
    run_argument,
    site_option,
    store_option,
)
from nfinspect.present.numbers import counted, fixed, number, percent
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.errors import RequestError
from nfinspect_store.types import RANK_ORDER, RANKS, RAW_ORDER, SELECTIONS

if TYPE_CHECKING:
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.trace import Trace

_baseline = click.option(
    "--baseline",
    metavar="B",
    help="Concept to compare with; by default the one called baseline, if the run has it.",
)
_no_baseline = click.option(
    "--no-baseline", is_flag=True, help="Rank raw values, even if the run has a concept called baseline."
)
_tokens = click.option(
    "--tokens",
    type=click.Choice(SELECTIONS),
    help="Tokens of a prompt that count; by default generated if there are any, else all.",
)
TRACE_TOP = 10
"""Neurons of a trace if --top does not say otherwise."""

_top = click.option(
    "--top", metavar="K", type=click.IntRange(min=1), default=TRACE_TOP, show_default=True, help="Neurons in the trace."
)
_rank = click.option(
    "--rank", type=click.Choice(RANKS), default="difference", show_default=True, help="What to rank neurons by."
)


@click.command()
@run_argument
@click.option("--concept", metavar="C", required=True, help="Concept to trace.")
@_baseline
@_no_baseline
@_tokens
@_top
@_rank
@site_option
@store_option
@json_option
def trace(
    run: str,
    concept: str,
    baseline: str | None,
    no_baseline: bool,
    tokens: str | None,
    top: int,
    rank: str,
    site: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Rank neurons by how a concept changes them, compared with a baseline."""
    from nfinspect.analysis.trace import trace as analyse

    against = _against(baseline, no_baseline)
    with opened(store, run, committed=True) as file:
        found = analyse(file, concept, baseline=against, tokens=tokens, top=top, rank=rank, site=site)
    _show(found, trace_lines(found), as_json)


def _against(baseline: str | None, none: bool) -> str | None:
    """What the analyses take as their baseline; None leaves the choice to them."""
    from nfinspect.analysis.comparison import NO_BASELINE

    if baseline is not None and (none or not baseline):
        raise RequestError("expected --baseline with a concept of the run, or --no-baseline")
    return NO_BASELINE if none else baseline


def trace_lines(found: "Trace") -> list[str]:
    """A trace for people."""
    against = (
        f"against {found.baseline} ({counted(found.baseline_samples, 'prompt')})"
        if found.baseline
        else "without a baseline"
    )
    fewer = any(row.baseline_samples < found.baseline_samples for row in found.neurons)
    columns = [
        Column("#"),
        Column("neuron", text=True),
        Column("in top"),
        *([Column("against")] if fewer else []),
        Column("%", spare=3),
        Column("mean"),
        Column("baseline", spare=2),
        Column("difference"),
        Column("effect"),
        Column("AUROC"),
        Column("q", spare=1),
    ]
    rows = [
        (
            row.rank,
            row.address,
            f"{row.occurrences}/{row.samples}",
            *([row.baseline_samples] if fewer else []),
            percent(row.percent / 100, places=0),
            row.concept_mean,
            row.baseline_mean,
            row.difference,
            number(row.effect_size, digits=3),
            fixed(row.auroc),
            number(row.q_value, digits=2),
        )
        for row in found.neurons
    ]
    tokens = "last token" if found.tokens == "last" else f"{found.tokens} tokens"
    which = f"{tokens} at {found.site}, by {RANK_ORDER[found.rank] if found.baseline else RAW_ORDER}"
    title = f"{found.concept} ({counted(found.samples, 'prompt')}) {against}, {which}"
    return [*wrapped(title), *(wrapped(found.significance) if found.significance else ()), *table(columns, rows)]


@click.command()
@run_argument
@click.option("--concepts", metavar="A,B,C", help="Two concepts or more: what their traces share.")
@click.option("--kinds", metavar="A,B,C",
              help="Two kinds of neurons or more, such as dead,positional,delta,ngrams1,attention.")  # fmt: skip
@_baseline
@_no_baseline
@_tokens
@click.option("--top", metavar="K", type=click.IntRange(min=1),
              help="Neurons in each trace (10 if not given), or of the kind attention (20).")  # fmt: skip
@_rank
@site_option
@store_option
@json_option
def overlap(
    run: str,
    concepts: str | None,
    kinds: str | None,
    baseline: str | None,
    no_baseline: bool,
    tokens: str | None,
    top: int | None,
    rank: str,
    site: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Count neurons that concepts' traces, or kinds of neurons, share, against chance."""
    from nfinspect.analysis.overlap import overlap as analyse

    against = _against(baseline, no_baseline)
    if (concepts is None) == (kinds is None):
        given = "neither" if kinds is None else "both"
        raise RequestError(f"expected either --concepts A,B,C or --kinds A,B,C, found {given}")
    if kinds is not None:
        if against is not None or tokens is not None or rank != "difference":
            raise RequestError("--baseline, --no-baseline, --tokens and --rank are for traces: they go with --concepts")
        from nfinspect.cli.kinds import show_kinds

        with opened(store, run) as file:
            show_kinds(file, kinds, site, top, as_json)
        return
    names = [name.strip() for name in (concepts or "").split(",") if name.strip()]
    if len(set(names)) < 2:
        raise RequestError(f"expected two concepts or more, as in --concepts tulip,hanoi; found {concepts!r}")
    with opened(store, run, committed=True) as file:
        found = analyse(file, names, baseline=against, tokens=tokens, top=top or TRACE_TOP, rank=rank, site=site)
    _show(found, overlap_lines(found), as_json)


def overlap_lines(found: "Overlap") -> list[str]:
    """An overlap for people."""
    columns = [
        Column("a", text=True),
        Column("b", text=True),
        Column("shared"),
        Column("Jaccard"),
        Column("by chance", spare=1),
        Column("p"),
        Column("neurons", text=True),
    ]
    rows = [
        (
            pair.a,
            pair.b,
            pair.overlap,
            fixed(pair.jaccard),
            number(pair.expected, digits=3),
            number(pair.p_value, digits=2),
            " ".join(neuron.address for neuron in pair.shared),
        )
        for pair in found.pairs
    ]
    against = f"against {found.baseline}" if found.baseline else "without a baseline"
    share = percent(found.top / found.eligible if found.eligible else None)
    title = f"Shared by the top {found.top} ({share} of {found.eligible:,} live neurons) at {found.site}, {against}"
    return [*wrapped(title), *table(columns, rows)]


def _show(found: "Trace | Overlap", lines: list[str], as_json: bool) -> None:
    """The notes on stderr, then the result as JSON or as lines for people."""
    for text in found.notes:
        output.note(text)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(lines)
