"""Two runs neuron by neuron."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import complete_run, json_option, opened, site_option, store_option
from nfinspect.present.numbers import number, percent
from nfinspect.present.tables import Column, table, wrapped

if TYPE_CHECKING:
    from nfinspect.analysis.diff import Diff

HOLDS = 3
"""Exit status when the condition of --fail-if holds."""


@click.command()
@click.argument("a", metavar="A", shell_complete=complete_run)
@click.argument("b", metavar="B", shell_complete=complete_run)
@click.option("--fail-if", "condition", metavar="EXPR",
              help="Exit with status 3 if it holds: 'died>10 or health<-0.05'.")  # fmt: skip
@click.option("--other-texts", is_flag=True, help="Compare runs whose model and texts both differ, too.")
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True, help="Neurons listed; 0 for all.")
@site_option
@store_option
@json_option
def diff(
    a: str,
    b: str,
    condition: str | None,
    other_texts: bool,
    top: int,
    site: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Compare two runs neuron by neuron: who died, woke or moved from A to B.

    EXPR names died, woke, moved, changed, neurons (counts), health (overall score, B minus A) and the classes (their
    neurons, B minus A).
    """
    from dataclasses import replace

    from nfinspect.analysis.diff import FIGURES
    from nfinspect.analysis.diff import diff as compared
    from nfinspect.analysis.fail_if import parse_expression

    expression = parse_expression(condition, FIGURES) if condition is not None else None
    with opened(store, a) as one, opened(store, b) as other:
        found = compared(one, other, site, other_texts=other_texts)
    for text in found.notes:
        output.note(text)
    if as_json:
        output.document((replace(found, neurons=found.neurons[:top]) if top else found).to_json())
    else:
        output.lines(_lines(found, top))
    if expression is not None and expression.holds(found.figures()):
        figures = ", ".join(f"{name} {number(x, digits=6)}" for name, x in found.figures().items() if x)
        output.note(f"{condition} holds: {figures}")
        raise click.exceptions.Exit(HOLDS)


def _lines(found: "Diff", top: int) -> list[str]:
    shown = found.neurons[:top] if top else found.neurons
    health = found.health
    lines = wrapped(
        f"{found.b} against {found.a} at {found.site}, {found.compared:,} neurons: {found.died:,} died, "
        f"{found.woke:,} woke, {found.moved:,} moved, {found.changed:,} of another class; "
        f"health {health.a:.2f} -> {health.b:.2f}"
    )
    moves = [(pair.class_a, pair.class_b, pair.neurons) for pair in found.classes if pair.class_a != pair.class_b]
    if moves:
        columns = [Column("class in A", text=True), Column("class in B", text=True), Column("neurons")]
        lines += ["", *table(columns, moves)]
    if shown:
        columns = [
            Column("neuron", text=True, whole=True),
            Column("change", text=True),
            Column("class in A", text=True, spare=1),
            Column("class in B", text=True, spare=1),
            Column("fires in A"),
            Column("fires in B"),
            Column("h"),
            Column("q"),
        ]
        rows = [
            (
                row.address,
                row.change,
                row.class_a,
                row.class_b,
                percent(row.firing_rate_a),
                percent(row.firing_rate_b),
                number(row.effect_size),
                number(row.q_value),
            )
            for row in shown
        ]
        lines += ["", *table(columns, rows)]
    if len(shown) < len(found.neurons):
        lines += ["", f"{len(shown):,} of {len(found.neurons):,} neurons that differ: --top 0 lists all"]
    return lines
