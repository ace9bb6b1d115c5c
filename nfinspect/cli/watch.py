"""The history of a training, while a FiringMonitor writes it or afterwards."""

import time
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import json_option, store_option
from nfinspect.cli.tables import figure, percent, wrapped
from nfinspect.text import visible
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import StoreError
from nfinspect_store.history import history_path, list_histories

if TYPE_CHECKING:
    from nfinspect.analysis.history import History

REFRESH = 0.5
"""Seconds between looks at the file: a screen is 5 kB, and the line may be slow."""

FEWEST_ROWS = 16


def complete_history(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of the names of histories."""
    try:
        return [n for n in list_histories(store_path(ctx.params.get("store"))) if n.startswith(incomplete)]
    except StoreError:
        return []


@click.command()
@click.argument("run", metavar="RUN", shell_complete=complete_history)
@click.option("--once", is_flag=True, help="Show the history as it stands and stop.")
@store_option
@json_option
def watch(run: str, once: bool, store: str | None, as_json: bool) -> None:
    """The health of a training that a FiringMonitor watches, live until it ends.

    RUN is the name that the monitor was given, or the path of a history file. Where stdout is no terminal, the history is
    shown once.
    """
    from nfinspect.analysis.history import LiveHistory

    live = LiveHistory(history_path(store_path(store), run))
    live.update()
    if as_json:
        output.document(live.history.to_json())
        return
    if once or not output.is_terminal():
        output.lines(history_lines(live.history, output.width(), max(FEWEST_ROWS, output.height())))
        return
    with output.Screen() as screen:
        while True:
            history = live.history
            screen.show(history_lines(history, output.width(), output.height() - 1))
            if history.status != "capturing":
                break
            time.sleep(REFRESH)
            live.update()


def history_lines(history: "History", width: int, height: int) -> list[str]:
    """The history for people, in `height` lines."""
    status = "training" if history.status == "capturing" else history.status
    head = f"{history.name}: {history.info.get('model', '')}, {status}"
    if not history.readings:
        return [visible(f"{head}, no reading yet")[:width]]
    last = history.readings[-1]
    figures = [f"step {last.step}", f"health {figure(last.health_score, 3)}", f"dead {percent(last.dead_share)}"]
    if last.loss is not None:
        figures.insert(1, f"loss {figure(last.loss)}")
    alerts = [line for alert in reversed(history.alerts) for line in wrapped(str(alert), "  ")]
    shown = alerts[: max(3, height // 5)]
    count = f"{len(history.alerts)} alert{'' if len(history.alerts) == 1 else 's'}"
    title = f"{count}, the newest first" if alerts else "no alerts"
    room = height - 2 - 1 - len(shown)
    lines = [visible(head)[:width], visible(", ".join(figures))[:width]]
    return [*lines, *charts(history, width, room), title, *shown][:height]


def charts(history: "History", width: int, height: int) -> list[str]:
    """Score and dead share, and the activation rate of some layers, over the steps."""
    from nfinspect.tui.widgets.line_chart import Line, evenly, line_chart

    readings = history.readings
    steps = [reading.step for reading in readings]
    network = [
        Line("score", "o", tuple(reading.health_score for reading in readings)),
        Line("dead share", "x", tuple(reading.dead_share for reading in readings)),
    ]
    rates = {
        name: {layer.layer_name: layer.activation_rate for layer in reading.layers}
        for name, reading in enumerate(readings)
    }
    chosen = [history.layers[i] for i in evenly(len(history.layers))]
    layers = [
        Line(visible(name)[-24:], str(history.layers.index(name) % 10), tuple(rates[i].get(name) for i in rates))
        for name in chosen
    ]
    upper = height // 2
    return [
        *line_chart(steps, network, "network", width, upper),
        *line_chart(steps, layers, "activation rate", width, height - upper),
    ]
