"""Neurons whose firing depends on the position."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.capture import layer_list
from nfinspect.cli.long_work import Made, Tick, find_or_compute, recompute_option
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
from nfinspect.cli.tables import Column, percent, table, wrapped

if TYPE_CHECKING:
    from nfinspect.analysis.positions import PositionAnalysis
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result


@click.command()
@optional_run_argument
@runs_option
@click.option(
    "--length",
    metavar="T",
    type=click.IntRange(min=1),
    help="Take every sequence of T tokens or more, cut to T; else those of the run's greatest length.",
)
@click.option("--allow-few", is_flag=True, help="List neurons although fewer than 100 sequences were read.")
@click.option("--layers", metavar="LIST", help="Such as 0-3,11; all if not given.")
@click.option("--top", metavar="K", type=click.IntRange(min=0), default=20, show_default=True, help="Neurons shown.")
@site_option
@recompute_option
@store_option
@json_option
def positions(
    run: str | None,
    runs: str | None,
    length: int | None,
    allow_few: bool,
    layers: str | None,
    top: int,
    site: str | None,
    recompute: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Neurons whose firing tells where in the sequence a token stands."""
    if runs is not None:
        from nfinspect.cli.compared import compare_positions

        compare_positions(store, run_names(run, runs), length, site, layer_list(layers), allow_few, recompute, as_json)
        return
    with opened(store, one_run(run)) as file:
        _, found = kept_positions(file, length, site, layer_list(layers), allow_few=allow_few, recompute=recompute)
    for text in found.notes:
        output.note(text)
    if found.held_back:
        output.note("--allow-few lists them")
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(position_lines(found, top))


def kept_positions(
    file: "RunFile",
    length: int | None = None,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    *,
    allow_few: bool = False,
    recompute: bool = False,
) -> "tuple[Result, PositionAnalysis]":
    """The kept analysis, or a new one, which is kept."""
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect.analysis.positions import PositionAnalysis
    from nfinspect.analysis.positions import positions as analyse
    from nfinspect.analysis.sequences import read_sequences
    from nfinspect_store.results import run_results

    chosen = chosen_layers(file, site, layers)
    taken = read_sequences(file, length).length
    settings = {
        "length": taken,
        "site": chosen[0].site,
        "layers": [layer.layer for layer in chosen],
        "allow_few": allow_few,
    }

    def make(tick: Tick) -> Made:
        found = analyse(file, length, site, layers, tick, allow_few=allow_few)
        return found.to_json(), {"profiles": found.profile_table()}

    def read(result: "Result") -> PositionAnalysis:
        return PositionAnalysis.from_json(result.document, result.table("profiles"))

    folder, what, run_id = run_results(file.path), "positional neurons", file.info.run_id
    return find_or_compute(folder, "positions", settings, run_id, make, read, recompute=recompute, what=what)


def position_lines(found: "PositionAnalysis", top: int) -> list[str]:
    """The analysis for people, with the first `top` neurons."""
    title = (
        f"{len(found.neurons)} positional neuron{'' if len(found.neurons) == 1 else 's'} at {found.site} "
        f"in {found.sequences} sequences of {found.length} tokens"
    )
    types = list(found.layers[0].types)
    columns = [Column("layer"), Column("neurons", spare=2), Column("positional"), Column("strong", spare=1)]
    rows: list[tuple[object, ...]] = [
        (layer.layer, layer.neurons, layer.positional, layer.strong, *layer.types.values()) for layer in found.layers
    ]
    if found.held_back:
        columns, types = [*columns[:2], Column("would pass, perhaps by chance")], []
        rows = [(layer.layer, layer.neurons, layer.would_pass) for layer in found.layers]
    lines = [*wrapped(title), *table([*columns, *(Column(name) for name in types)], rows)]
    if not found.neurons or not top:
        return lines
    columns = [
        Column("neuron", text=True),
        Column("information"),
        Column("type", text=True),
        Column("strength", text=True),
        Column("firing"),
    ]
    listed = [
        (row.address, row.mutual_information, row.type, row.strength, percent(row.firing_rate))
        for row in found.neurons[:top]
    ]
    more = len(found.neurons) - len(listed)
    ending = [f"and {more} more (--top {len(found.neurons)})"] if more else []
    return [*lines, "", *table(columns, listed), *ending]
