"""A run from a simulated network whose faults are known."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import json_option, store_option
from nfinspect.present.numbers import counted, grouped, percent, size
from nfinspect.present.tables import Column, table, wrapped
from nfinspect_store.catalog import new_run_path, store_path

if TYPE_CHECKING:
    from nfinspect.capturing.simulated import Simulation

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")
FAULTS = ("dead", "saturated", "sporadic", "missing", "weak")


class ShareOption(click.ParamType[tuple[str, float]]):
    """`dead=0.1`."""

    name = "CLASS=SHARE"

    def convert(
        self, value: str | tuple[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, share = value.partition("=")
        try:
            number = float(share)
        except ValueError:
            number = float("nan")
        if name not in FAULTS or not 0 <= number <= 1:
            self.fail(f"expected CLASS=SHARE, a share from 0 to 1 of {', '.join(FAULTS)}; found {value!r}", param, ctx)
        return name, number


@click.command()
@click.option("--layers", type=click.IntRange(1, 1000), default=12, show_default=True)
@click.option("--neurons", type=click.IntRange(min=1), default=768, show_default=True, help="Neurons of each layer.")
@click.option("--tokens", type=click.IntRange(min=200), default=512, show_default=True,
              help="With fewer than 200 no neuron can be sporadic.")  # fmt: skip
@click.option("--activation", type=click.Choice(ACTIVATIONS), default="relu", show_default=True,
              help="silu stands for a gated MLP.")  # fmt: skip
@click.option("--share", "shares", type=ShareOption(), multiple=True,
              help="Share of the first layer's neurons with a fault, such as dead=0.1; 0 plants none.")  # fmt: skip
@click.option("--degradation", type=click.FloatRange(0, 100), default=2.0, show_default=True,
              help="Growth of the shares up to the last layer; 2 makes them three times as large.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--run", "name", metavar="NAME", help="The run's name; simulated-ACTIVATION-SEED if not given.")
@store_option
@json_option
def simulate(
    layers: int,
    neurons: int,
    tokens: int,
    activation: str,
    shares: tuple[tuple[str, float], ...],
    degradation: float,
    seed: int,
    name: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Simulate a network with planted faults as a run, and say how well they are found."""
    from nfinspect.analysis.planted import SHARES, NetworkPlan

    plan = NetworkPlan(layers, neurons, tokens, activation, degradation, seed, {**SHARES, **dict(shares)})
    path = new_run_path(store_path(store), f"simulated-{activation}-{seed}" if name is None else name)
    from nfinspect.capturing.simulated import simulate_run

    found = simulate_run(path, plan)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(simulation_lines(found))


def simulation_lines(found: "Simulation") -> list[str]:
    """What was planted and what was found, for people."""
    from nfinspect.analysis.planted import possible_faults

    plan, health, run = found.plan, found.health, found.path.stem
    impossible = [name for name in FAULTS if plan.shares.get(name) and name not in possible_faults(plan.activation)]
    columns = [
        Column("class", text=True),
        *(Column(name) for name in ("planted", "found", "correct", "precision", "recall")),
    ]
    rows = [
        (one.name, one.planted, one.found, one.correct, percent(one.precision), percent(one.recall))
        for one in found.detection
    ]
    title = (
        f"A simulated {plan.activation} network of {counted(plan.layers, 'layer')} with "
        f"{counted(plan.neurons, 'neuron')} each, on {plan.tokens:,} tokens, seed {plan.seed}: the run {run} "
        f"({size(found.path.stat().st_size)})"
    )
    lines = [*wrapped(title), "", *table(columns, rows), ""]
    if impossible:
        lines += wrapped(f"Not planted: {', '.join(impossible)}, which {plan.activation} neurons cannot be.")
    lines += wrapped(f"{grouped(health.summary)}. {health.interpretation}.")
    return [*lines, *wrapped(f"The true classes are in its table planted: nfinspect sql {run} 'FROM planted'")]
