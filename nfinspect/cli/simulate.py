"""A run from a simulated network whose faults are known."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import json_option, store_option
from nfinspect.cli.tables import Column, percent, size, table, wrapped
from nfinspect_store.catalog import new_run_path, store_path

if TYPE_CHECKING:
    from nfinspect.capturing.simulated import Simulation

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")


@click.command()
@click.option("--layers", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--neurons", type=click.IntRange(min=1), default=768, show_default=True, help="Neurons of each layer.")
@click.option("--tokens", type=click.IntRange(min=1), default=512, show_default=True, help="200 or more.")
@click.option("--activation", type=click.Choice(ACTIVATIONS), default="relu", show_default=True,
              help="silu is that of a gated MLP.")  # fmt: skip
@click.option("--degradation", type=click.FloatRange(min=0), default=2.0, show_default=True,
              help="How much larger the shares of faulty neurons are in the last layer than in the first.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--run", "name", metavar="NAME", help="The run's name; simulated-ACTIVATION-SEED if not given.")
@store_option
@json_option
def simulate(
    layers: int,
    neurons: int,
    tokens: int,
    activation: str,
    degradation: float,
    seed: int,
    name: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a run from a simulated network with planted faults, and say how well they are found."""
    from nfinspect.analysis.planted import NetworkPlan

    plan = NetworkPlan(layers, neurons, tokens, activation, degradation, seed)
    path = new_run_path(store_path(store), name or f"simulated-{activation}-{seed}")
    from nfinspect.capturing.simulated import simulate_run

    found = simulate_run(path, plan)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(simulation_lines(found))


def simulation_lines(found: "Simulation") -> list[str]:
    """What was planted and what was found, for people."""
    plan, health = found.plan, found.health
    columns = [
        Column("class", text=True),
        *(Column(name) for name in ("planted", "found", "correct", "precision", "recall")),
    ]
    rows = [
        (one.name, one.planted, one.found, one.correct, percent(one.precision), percent(one.recall))
        for one in found.detection
    ]
    title = (
        f"A simulated {plan.activation} network of {plan.layers} layers with {plan.neurons} neurons each, on "
        f"{plan.tokens} tokens, seed {plan.seed}: the run {found.path.stem} ({size(found.path.stat().st_size)})"
    )
    return [*wrapped(title), "", *table(columns, rows), "", *wrapped(f"{health.summary}. {health.interpretation}.")]
