"""The columns of a watched training: its readings, the layers of one of them, the alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from nfinspect.analysis.module_names import distinct_names, layer_words, whole_names
from nfinspect.present.numbers import counted, fixed, number, percent
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.glyphs import ASCII, Glyphs
from nfinspect.tui.widgets.history_charts import end_of
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.history import Alert, History, LayerReading, Reading

STATUS = {"capturing": ("training", "accent"), "complete": ("complete", "good"), "interrupted": ("interrupted", "warn")}
NOT_FINITE = "not finite"


def head(history: History, reading: Reading | None, g: Glyphs) -> list[Cell | str]:
    """Two lines: the training, and its network at a reading."""
    word, tone = STATUS.get(history.status, (history.status, "bad"))
    every = history.info.get("every")
    pieces: list[Cell | str] = [
        Cell(str(history.info.get("model", "")), "bold"),
        "  ",
        Cell(word, tone),
        Cell(f"  read every {every} steps, {counted(len(history.readings), 'reading')}, ", "dim"),
        Cell(counted(len(history.alerts), "alert"), "warn" if history.alerts else "dim"),
        "\n",
    ]
    if reading is None:
        return [*pieces, Cell("no reading yet", "dim")]
    missing = None if reading.missing_percentage is None else reading.missing_percentage / 100
    return [
        *pieces,
        Cell("step ", "dim"),
        Cell(f"{reading.step}", "accent"),
        Cell("  loss ", "dim"),
        number(reading.loss, g),
        Cell("  health ", "dim"),
        fixed(reading.health_score, g),
        Cell("  dead ", "dim"),
        percent(reading.dead_share, g),
        Cell("  dead or missing ", "dim"),
        percent(missing, g),
    ]


def alert_note(alert: Alert) -> str:
    """The whole of an alert: every neuron that died, with its step."""
    by_step: dict[int, list[str]] = {}
    for neuron, step in zip(alert.neurons, alert.died_at, strict=False):
        by_step.setdefault(step, []).append(f"N{neuron}")
    died = "; ".join(f"step {step}: {', '.join(names)}" for step, names in sorted(by_step.items()))
    return str(alert) + (f". Died at {died}" if died else "")


def layer_note(layer: LayerReading) -> str:
    """What the table has no room for: on how many tokens a reading rests, and which neurons died or came back."""
    changes = [
        f"{what}: {', '.join(f'N{neuron}' for neuron in neurons)}"
        for what, neurons in (("died since the previous reading", layer.died), ("revived", layer.revived))
        if neurons
    ]
    seen = f"{layer_words(layer.layer_name)}, {layer.neurons:,} neurons on {layer.tokens:,} tokens"
    return "; ".join([seen, *(changes or ["no neuron died or came back since the previous reading"])])


def reading_columns(history: History, g: Glyphs) -> list[Column]:
    """One row a reading."""
    alerts: dict[int, int] = {}
    for alert in history.alerts:
        alerts[alert.step] = alerts.get(alert.step, 0) + 1

    def score(r: Reading, width: int) -> Cell:
        return Cell(NOT_FINITE, "bad") if r.health_score is None else Cell(fixed(r.health_score, g))

    def changed(r: Reading, width: int) -> Cell:
        died, revived = (sum(len(getattr(layer, what)) for layer in r.layers) for what in ("died", "revived"))
        return Cell(f"+{died:,} -{revived:,}" if died or revived else "", "warn" if died else "")

    return [
        Column("step", 9, lambda r, w: Cell(f"{r.step}", "bold"), "right"),
        Column("loss", 10, lambda r, w: Cell(number(r.loss, g, room=w)), "right"),
        Column("health", 10, score, "right"),
        Column("dead", 7, lambda r, w: Cell(percent(r.dead_share, g)), "right"),
        Column("died, revived", 13, changed, "right"),
        Column("problematic", 11, lambda r, w: Cell(number(r.problematic_layers, g)), "right"),
        Column("alerts", 6, lambda r, w: Cell(str(alerts.get(r.step, "")), "warn"), "right"),
    ]


def layer_columns(names: Sequence[str], g: Glyphs) -> list[Column]:
    """One row a layer of a reading. names: of all its layers; a path that is too long is cut to what tells it apart."""
    short = dict(zip(names, distinct_names(names), strict=True))

    def name(x: LayerReading, width: int) -> Cell:
        (whole,) = whole_names([x.layer_name])
        shown = visible_in(whole, g)
        if cell_len(shown) > width:
            shown = end_of(visible_in(short[x.layer_name], g), width, g is ASCII)
        return Cell(shown, "bold")

    def pattern(x: LayerReading, width: int) -> Cell:
        if not x.finite:
            return Cell(NOT_FINITE, "bad")
        return Cell(x.firing_pattern or g.none, "" if x.firing_pattern == "normal" else "warn")

    return [
        Column("layer", 14, name, flex=True),
        Column("neurons", 7, lambda x, w: Cell(number(x.neurons, g)), "right"),
        Column("pattern", 10, pattern),
        Column("health", 6, lambda x, w: Cell(fixed(x.health_score, g)), "right"),
        Column("rate", 6, lambda x, w: Cell(percent(x.activation_rate, g)), "right"),
        Column("dead", 6, lambda x, w: Cell(number(x.dead_neurons, g)), "right"),
        Column("satur.", 6, lambda x, w: Cell(number(x.saturated_neurons, g)), "right"),
        Column("gradient", 9, lambda x, w: Cell(number(x.gradient_rms, g, 3, w)), "right"),
    ]


def alert_columns(g: Glyphs) -> list[Column]:
    """One row an alert."""

    def level(a: Alert, width: int) -> Cell:
        return Cell(a.level, "bad" if a.level == "critical" else "warn")

    return [
        Column("step", 9, lambda a, w: Cell(f"{a.step}", "bold"), "right"),
        Column("level", 8, level),
        Column("alert", 40, lambda a, w: Cell(a.text), flex=True),
    ]
