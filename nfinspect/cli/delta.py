"""Neurons that are sensitive to a change of the input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.analysis.ticks import Tick
from nfinspect.cli.capture import layer_list
from nfinspect.cli.options import json_option, layers_option, opened, run_argument, site_option, store_option
from nfinspect.cli.progress import find_or_compute, recompute_option
from nfinspect.cli.run_model import named_model, run_model
from nfinspect.present.numbers import number
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.mamba_channels import ChannelRow
    from nfinspect.analysis.substitution import Substitution
    from nfinspect.results import Made
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result
    from nfinspect_store.types import Layer

ORDERS = ("step_sensitivity", "von_neumann_ratio")
MIN_RATIO, MIN_STEP = 2.0, 0.2
"""Those of nfinspect.analysis.delta, which is imported when the command runs."""


@click.command()
@run_argument
@layers_option
@click.option("--sort", type=click.Choice(ORDERS), default=ORDERS[0], show_default=True, help="Order.")
@click.option("--top", metavar="K", type=click.IntRange(min=0), default=20, show_default=True, help="Neurons shown.")
@click.option("--min-ratio", type=float, default=MIN_RATIO, show_default=True,
              help="Von Neumann ratio from which a neuron counts as delta-sensitive.")  # fmt: skip
@click.option("--min-step", type=float, default=MIN_STEP, show_default=True,
              help="Step sensitivity from which it does.")  # fmt: skip
@click.option("--substitute", is_flag=True, help="Also replace tokens and read the neurons anew: needs the model.")
@click.option("--model", metavar="M", help="The run's model, for --substitute; where the run says if not given.")
@click.option("--draws", metavar="N", type=click.IntRange(min=1), default=256, show_default=True,
              help="Tokens replaced.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Which tokens are replaced, and by which.")
@site_option
@recompute_option
@store_option
@json_option
def delta(
    run: str,
    layers: str | None,
    sort: str,
    top: int,
    min_ratio: float,
    min_step: float,
    substitute: bool,
    model: str | None,
    draws: int,
    seed: int,
    site: str | None,
    recompute: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Neurons that change with every token, and Mamba's step size."""
    from nfinspect.analysis.chosen import chosen_layers

    if model and not substitute:
        raise RequestError("--model goes with --substitute: everything else is told by the run")
    with opened(store, run) as file:
        asked = layer_list(layers)
        _, found = kept_delta(file, site, asked, min_ratio, min_step, recompute=recompute)
        found = found.sorted_by(sort)
        if substitute:
            found = found.with_substitution(
                _substitution(file, chosen_layers(file, site, asked), model, draws, seed, recompute)
            )
    for text in found.notes:
        output.note(text)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(delta_lines(found, top))


def kept_delta(
    file: "RunFile",
    site: str | None = None,
    layers: "Sequence[int] | None" = None,
    min_ratio: float = MIN_RATIO,
    min_step: float = MIN_STEP,
    *,
    recompute: bool = False,
) -> "tuple[Result, Delta]":
    """The kept analysis, or a new one, which is kept."""
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.delta import delta as analyse
    from nfinspect_store.results import run_results

    chosen = chosen_layers(file, site, layers)
    where = {"site": chosen[0].site, "layers": [layer.layer for layer in chosen]}
    settings = {**where, "min_ratio": min_ratio, "min_step": min_step}

    def make(tick: Tick) -> "Made":
        found = analyse(file, site, layers, min_ratio=min_ratio, min_step=min_step, tick=tick)
        return found.to_json(), {}

    def read(result: "Result") -> Delta:
        return Delta.from_json(result.document)

    folder, what, run_id = run_results(file.path), "delta-sensitive neurons", file.info.run_id
    return find_or_compute(folder, "delta", settings, run_id, make, read, recompute=recompute, what=what)


def _substitution(
    file: "RunFile", layers: "Sequence[Layer]", model: str | None, draws: int, seed: int, recompute: bool
) -> "Substitution":
    from nfinspect.analysis.substitution import LAGS, Substitution
    from nfinspect_store.results import run_results

    named_model(file, model, "substitution")
    site, numbers = layers[0].site, [layer.layer for layer in layers]

    def make(tick: Tick) -> "Made":
        from nfinspect.experiments.substitution import substitution_sensitivity

        loaded = run_model(file, model, "substitution")
        found = substitution_sensitivity(file, loaded, site, numbers, draws=draws, seed=seed, tick=tick)
        return found.summary(), {"neurons": found.table()}

    def read(result: "Result") -> Substitution:
        return Substitution.from_parts(result.document, result.table("neurons"))

    # Wherever the model lies, its weights are the run's: the result is the same.
    settings = {"site": site, "layers": numbers, "draws": draws, "seed": seed, "lags": list(LAGS)}
    folder, run_id, what = run_results(file.path), file.info.run_id, "substituted tokens"
    return find_or_compute(folder, "substitution", settings, run_id, make, read, recompute=recompute, what=what)[1]


def delta_lines(found: "Delta", top: int) -> list[str]:
    """The analysis for people, with the first `top` neurons."""
    parts = [_neuron_lines(found, top)] if found.neurons else []
    if found.mamba_delta:
        parts.append(_mamba_lines(found.mamba_delta))
    return [line for i, part in enumerate(parts) for line in (["", *part] if i else part)]


def _neuron_lines(found: "Delta", top: int) -> list[str]:
    title = (
        f"{len(found.delta_sensitive)} delta-sensitive of {len(found.neurons)} neurons at {found.site}, from "
        f"{found.pairs} steps (ratio at least {found.min_ratio:g}, step at least {found.min_step:g})"
    )
    columns = [
        Column("layer"),
        Column("neurons", spare=1),
        Column("delta-sensitive"),
        Column("never vary"),
        Column("median step"),
        Column("median ratio"),
    ]
    rows = [
        (
            layer.layer,
            layer.neurons,
            layer.delta_sensitive,
            layer.constant,
            number(layer.median_step_sensitivity, digits=3),
            number(layer.median_von_neumann_ratio, digits=3),
        )
        for layer in found.layers
    ]
    lines = [*wrapped(title), *table(columns, rows)]
    listed = found.neurons[:top]
    if not listed:
        return lines
    lags = () if found.substitution is None else found.substitution.lags
    columns = [Column("neuron", text=True), Column("step"), Column("ratio"), Column("delta-sensitive", text=True)]
    columns += [Column(f"lag {lag}") for lag in lags]
    cells = [
        (
            row.address,
            number(row.step_sensitivity, digits=3),
            number(row.von_neumann_ratio, digits=3),
            "yes" if row.delta_sensitive else "",
            *(number(value, digits=3) for value in row.substitution_sensitivity or ()),
        )
        for row in listed
    ]
    about = [] if found.substitution is None else wrapped(_about(found.substitution))
    more = len(found.neurons) - len(listed)
    ending = [f"and {more} more (--top {len(found.neurons)})"] if more else []
    return [*lines, "", *about, *table(columns, cells), *ending]


def _about(found: "Substitution") -> str:
    fewest = f", {min(found.samples)} of them at lag {found.lags[found.samples.index(min(found.samples))]}"
    return (
        f"lag: mean |Δa| / std so many tokens after a token that was replaced, {found.draws} draws"
        f"{fewest if min(found.samples) < found.draws else ''} ({found.unchanged} drew the same token again)"
    )


def _mamba_lines(rows: "Sequence[ChannelRow]") -> list[str]:
    """Mamba's Δ layer by layer."""
    import statistics

    def median(values: "Sequence[float | None]") -> float | None:
        defined = [value for value in values if value is not None]
        return statistics.median(defined) if defined else None

    columns = [
        Column("layer"),
        Column("channels"),
        Column("median Δ"),
        Column("median CV"),
        Column("surprisal, median", spare=1),
        Column("strongest"),
        Column("in channel"),
    ]
    cells = []
    for layer in dict.fromkeys(row.layer for row in rows):
        here = [row for row in rows if row.layer == layer]
        correlated = [row for row in here if row.surprisal_correlation is not None]
        strongest = max(correlated, key=lambda row: abs(row.surprisal_correlation or 0), default=None)
        cells.append(
            (
                layer,
                len(here),
                number(median([row.mean for row in here]), digits=3),
                number(median([row.cv for row in here]), digits=3),
                number(median([row.surprisal_correlation for row in here]), digits=3),
                number(strongest.surprisal_correlation if strongest else None, digits=3),
                str(strongest.channel) if strongest else "-",
            )
        )
    title = f"Mamba's step size Δ over {rows[0].n} tokens, and its correlation with the token's surprisal"
    return [*wrapped(title), *table(columns, cells)]
