"""Lists of neurons, and one neuron."""

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
from nfinspect.present.numbers import counted, number, percent
from nfinspect.present.tables import Column, table
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.neuron import ExampleText, NeuronDetail

CONTEXT = 8
"""Tokens shown on either side of an example's."""


@click.command()
@run_argument
@click.option(
    "--class",
    "cls",
    metavar="CLASS",
    help="dead, saturated, sporadic, missing, weak, normal; absent: of experts that no token was routed to.",
)
@click.option("--layer", type=int, help="Only this layer.")
@click.option("--filter", "condition", metavar="TEXT", help="A condition: 'max>4', or 'firing_rate<0.01 and max>3'.")
@click.option("--sort", default="max", show_default=True, metavar="COLUMN", help="A column of the SQL table neurons.")
@click.option("--asc", is_flag=True, help="Sort the lowest first.")
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True, help="Neurons listed.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Neurons to skip first.")
@site_option
@health_options
@store_option
@json_option
def neurons(
    run: str,
    cls: str | None,
    layer: int | None,
    condition: str | None,
    sort: str,
    asc: bool,
    top: int,
    offset: int,
    site: str | None,
    options: "HealthOptions",
    store: str | None,
    as_json: bool,
) -> None:
    """List neurons by class, layer or filter."""
    from nfinspect.analysis.neurons import list_neurons

    with opened(store, run, committed=True) as file:
        page = list_neurons(
            file,
            site,
            cls=cls,
            layer=layer,
            sort=sort,
            descending=not asc,
            filter=condition,
            limit=top,
            offset=offset,
            options=options,
        )
        notes = file.figure_notes
    for text in notes:
        output.note(text)
    if as_json:
        output.document(page.to_json())
        return
    columns = [
        Column("neuron", text=True),
        Column("class", text=True),
        Column("firing"),
        Column("max"),
        Column("mean"),
        Column("std", spare=2),
        Column("min", spare=1),
        Column("mean |a|", spare=3),
        Column("kurtosis-3", spare=5),
        Column("dormancy", spare=4),
    ]
    rows = [
        (
            row.address,
            row.cls,
            percent(row.firing_rate),
            row.max,
            row.mean,
            row.std,
            row.min,
            row.mean_abs,
            row.excess_kurtosis,
            row.dormancy,
        )
        for row in page.rows
    ]
    output.lines(table(columns, rows))
    shown = f"{offset + 1:,}-{offset + len(page.rows):,} of " if page.rows else "none of "
    output.note(f"{shown}{counted(page.total, 'neuron')}, by {sort}, the {'lowest' if asc else 'highest'} first")


@click.command()
@run_argument
@click.argument("address", metavar="L5/N123|@SET")
@click.option("--examples", type=click.IntRange(min=0), default=5, show_default=True, help="Examples of each kind.")
@site_option
@health_options
@store_option
@json_option
def neuron(
    run: str, address: str, examples: int, site: str | None, options: "HealthOptions", store: str | None, as_json: bool
) -> None:
    """One neuron, or each of a @set: statistics, histogram, examples with their text, means by concept."""
    from dataclasses import replace

    from nfinspect.analysis.neuron import neuron_detail
    from nfinspect_store.addresses import parse_address

    if address.startswith("@"):
        from nfinspect.cli.marks import neurons_of

        with opened(store, run) as file:
            chosen = [a for a in neurons_of(file, address) if site in (None, a.site)]
            details = [neuron_detail(file, a, options=options) for a in chosen]
        for text in dict.fromkeys(n for d in details for n in (*d.notes, *filter(None, [d.about_values]))):
            output.note(text)
        if as_json:
            output.document([detail.to_json() for detail in details])
        else:
            output.lines([line for detail in details for line in ("", *_lines(detail, examples))][1:])
        return
    parsed = parse_address(address)
    if parsed.site and site and parsed.site != site:
        raise RequestError(f"expected one site, found two: {address} and --site {site}")
    with opened(store, run, committed=True) as file:
        detail = neuron_detail(file, replace(parsed, site=parsed.site or site), options=options)
    for text in (*detail.notes, *filter(None, [detail.about_values])):
        output.note(text)
    if as_json:
        output.document(detail.to_json())
    else:
        output.lines(_lines(detail, examples))


def _lines(detail: "NeuronDetail", examples: int) -> list[str]:
    row = detail.row
    figures = {
        "tokens": row.n,
        "mean": row.mean,
        "std": row.std,
        "median": detail.median,
        "min": row.min,
        "max": row.max,
        "mean |a|": row.mean_abs,
        "skewness": row.skewness,
        "excess kurtosis": row.excess_kurtosis,
        "dormancy": row.dormancy,
    }
    place = "" if detail.expert is None else f" (expert {detail.expert})"
    tokens = "the tokens" if detail.expert is None else "the tokens routed to it"
    fires = f"fires on {percent(row.firing_rate)} of {tokens}" if row.n else "no token was routed to it"
    lines = [f"{row.site}:{row.address}{place}  {row.cls}, {fires}"]
    cells = [f"{name} {number(value)}" for name, value in figures.items()]
    lines += ["  ".join(cells[i : i + 6]) for i in range(0, len(cells), 6)]
    histogram = detail.histogram
    scale = "even bins" if histogram.linear else "signed-log bins"
    if histogram.edges:
        lines += [
            "",
            f"Histogram, {number(histogram.edges[0])} to {number(histogram.edges[-1])}, {scale}, "
            "heights are square roots of counts",
            _strip(histogram.counts),
        ]
    for title, found in (
        ("Highest", detail.top_examples),
        ("Lowest", detail.min_examples),
        ("At random", detail.random_examples),
    ):
        if found and examples:
            columns = [Column("value"), Column("concept", text=True), Column("text", text=True)]
            rows = [(number(e.value), e.concept, _in_context(e)) for e in found[:examples]]
            lines += ["", title, *table(columns, rows)]
    columns = [
        Column("concept", text=True),
        *(Column(n) for n in ("prompts", "tokens", "mean", "max", "firing")),
    ]
    means = [(c.concept, c.prompts, c.tokens, c.mean, c.max, percent(c.firing_rate)) for c in detail.concepts]
    return [*lines, "", "Concepts", *table(columns, means)]


def _in_context(example: "ExampleText") -> str:
    """The tokens around an example's, with it in brackets."""
    near = range(max(0, example.at - CONTEXT), min(len(example.window), example.at + CONTEXT + 1))
    return "".join(f"[{t}]" if i == example.at else t for i, t in enumerate(example.pieces(near))).strip()


def _strip(counts: tuple[int, ...]) -> str:
    """One character per bin. Roots, so that rare bins next to the one at zero stay visible; none is hidden."""
    from nfinspect.tui.glyphs import ASCII, UNICODE, level

    glyphs = ASCII if output.is_ascii() else UNICODE
    highest = max(counts, default=0) or 1
    return "".join(level((count / highest) ** 0.5, glyphs) for count in counts)
