"""The history of a training, live while a FiringMonitor writes it, or afterwards."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import json_option, store_option
from nfinspect.present.numbers import counted, fixed, number, percent
from nfinspect.present.tables import wrapped
from nfinspect.text import visible
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import StoreError
from nfinspect_store.history import history_path, list_histories

if TYPE_CHECKING:
    from nfinspect.analysis.history import Alert, History

REFRESH = 0.5
"""Seconds between looks at the file: a screen is 5 kB, and the connection may be slow."""

FEWEST_ROWS = 16


def complete_history(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of the names of histories."""
    try:
        return [n for n in list_histories(store_path(ctx.params.get("store"))) if n.startswith(incomplete)]
    except StoreError:
        return []


@click.command()
@click.argument("run", metavar="RUN", shell_complete=complete_history)
@click.option("--once", is_flag=True, help="Show the history as it stands, then stop.")
@store_option
@json_option
def watch(run: str, once: bool, store: str | None, as_json: bool) -> None:
    """Show the health of a training that a FiringMonitor watches, live until it ends.

    RUN is the name given to the monitor, or the path of a history file. If stdout is no terminal, the history is shown
    once.
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
    screen = output.Redrawn()
    while True:
        history = live.history
        screen.show(history_lines(history, output.width(), output.height() - 1))
        if history.status != "capturing":
            break
        time.sleep(REFRESH)
        live.update()


def _newest(alerts: Sequence["Alert"], most: int) -> list[str]:
    """As many of the newest alerts as fit into `most` lines; the newest one in any case, cut with an ellipsis."""
    lines: list[str] = []
    for alert in alerts[: -most - 1 : -1]:
        more = wrapped(str(alert), "  ")
        if lines and len(lines) + len(more) > most:
            break
        lines += more
    if len(lines) > most:
        lines[most:] = ["  .." if output.is_ascii() else "  …"]
    return lines


def history_lines(history: "History", width: int, height: int) -> list[str]:
    """The history for people, in `height` lines."""
    from nfinspect.tui.widgets.history_charts import history_charts

    status = "training" if history.status == "capturing" else history.status
    head = f"{history.name}: {history.info.get('model', '')}, {status}"
    if not history.readings:
        return [output.cut(visible(f"{head}, no reading yet"), width)]
    last = history.readings[-1]
    figures = [f"step {last.step}", f"health {fixed(last.health_score)}", f"dead {percent(last.dead_share)}"]
    if last.loss is not None:
        figures.insert(1, f"loss {number(last.loss)}")
    most = max(3, height // 5)
    alerts = _newest(history.alerts, most)
    title = f"{counted(len(history.alerts), 'alert')}, the newest first" if alerts else "no alerts"
    room = height - 2 - 1 - len(alerts)  # its own two lines, and the alerts' title
    lines = [output.cut(visible(text), width) for text in (head, ", ".join(figures))]
    charts = history_charts(history, width, room, plain=output.is_ascii())
    return [*lines, *(line.text for line in charts), title, *alerts][:height]
