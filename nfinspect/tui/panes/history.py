"""The history of a training that a FiringMonitor watches, while it runs or afterwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.history import (
    alert_columns,
    alert_note,
    head,
    layer_columns,
    layer_note,
    reading_columns,
)
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.history_charts import history_charts, wrapped_note
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.analysis.history import Alert, History, LiveHistory, Reading

LIVE_SECONDS = 0.5
QUIET_SECONDS = 3.0
"""Between two looks at a training that has ended: it may be resumed."""

NOTE_LINES = 4
"""Lines under the charts, at most a third of the room, for the alert or the layer under the cursor."""


class HistoryPane(Pane):
    """Charts over a table: of the readings, of the layers of one of them, or of the alerts.

    The reading under the cursor is marked in the charts; if it is the newest one, newer ones are followed.
    """

    help_text = (
        "A reading is one step of the training. score: the network's health, 0 to 1; dead share: of all neurons; "
        "activation rate: the share of (token, neuron) pairs that fire, by layer (five of them at most are drawn). "
        "j and k go from reading to reading, G to the newest, which is then followed. died, revived: neurons whose "
        "state changed since the previous reading. Under the charts the alert or the layer under the cursor is shown "
        "in full; y copies all of it, of a reading what died and revived in every layer. Enter on a reading shows its "
        "layers, on an alert its reading."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "table('readings')", "Readings", id="history.readings"),
        Binding("2", "table('layers')", "Layers", id="history.layers"),
        Binding("3", "table('alerts')", "Alerts", id="history.alerts"),
        Binding("y", "copy", "Copy", show=False, id="history.copy"),
        Binding("e", "export", "Export", show=False, id="history.export"),
    ]

    DEFAULT_CSS = """
    HistoryPane #head { height: 2; padding: 0 1; }
    HistoryPane ChartBox { height: 3fr; }
    HistoryPane PagedTable { height: 2fr; }
    """

    _live: LiveHistory | None = None
    _history: History | None = None
    _looking = _failing = False
    _table = "readings"
    _at: int | None = None  # the step that is looked at; None: the newest

    def __init__(self, run: str) -> None:
        super().__init__(f"{run} (training)")
        self._run = run

    def compose(self) -> ComposeResult:
        yield Headline(id="head")
        yield ChartBox(id="charts")
        table = PagedTable((), glyphs=self.glyphs, empty="none yet", id="table")
        table.add_class("panel", "ruled-top")
        yield table

    first_focus: ClassVar[str] = "PagedTable"

    @property
    def hint(self) -> str:
        return {"readings": "", "layers": "layers of this reading", "alerts": "alerts"}[self._table]

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("watch", self._run, "--once")

    def entered(self) -> None:
        self.look_every(LIVE_SECONDS, self._look)
        self._look()

    def _look(self) -> None:
        if not self._looking and self.app.screen is self.screen:
            self._looking = True
            read = partial(_read, self._live, partial(self.hub.engine.history, self._run))
            busy = "" if self._history else "reading the history"
            self.load("history", read, self._show, self._failed, busy=busy)

    # answers

    def _show(self, answer: tuple[LiveHistory, History]) -> None:
        """The history as it is now; drawn only if it has changed."""
        self._looking = False
        if self._failing:  # it was not there, or could not be read, until now
            self._failing = False
            self.hub.say("")
        self._live, history = answer
        self.look_every(LIVE_SECONDS if history.status == "capturing" else QUIET_SECONDS, self._look)
        old, self._history = self._history, history
        if old is None or _stand(old) != _stand(history):
            self._fill()

    def _failed(self, line: str) -> None:
        self._looking, self._failing = False, True
        self.say_failed(line)

    # drawing

    @property
    def reading(self) -> Reading | None:
        """The one that is looked at."""
        readings = self._history.readings if self._history else ()
        chosen = (reading for reading in reversed(readings) if self._at is None or reading.step <= self._at)
        return next(chosen, readings[0] if readings else None)

    def _fill(self) -> None:
        """The table, and whatever depends on the reading that is looked at."""
        history, table = self._history, self.table
        if history is None:
            return
        reading = self.reading
        if self._table == "readings":
            table.set_columns(reading_columns(history, self.glyphs))
            if reading is not None:
                table.cursor = history.readings.index(reading)
            table.put_rows(history.readings)
        elif self._table == "layers":
            layers = reading.layers if reading is not None else ()
            table.set_columns(layer_columns([layer.layer_name for layer in layers], self.glyphs))
            table.put_rows(layers)
        else:
            table.set_columns(alert_columns(self.glyphs))
            table.put_rows(history.alerts)
        self._draw()

    def _draw(self) -> None:
        history, reading = self._history, self.reading
        if history is None:
            return
        self.query_one("#head", TextBlock).put(content(*head(history, reading, self.glyphs)))
        box = self.query_one(ChartBox)
        width, height = box.content_size
        if reading is not None and width and height:
            here = None if self._at is None else reading.step
            plain = self.glyphs.plain
            note = wrapped_note(self._note(), width, min(NOTE_LINES, height // 3), plain=plain, more="y copies all")
            self.load("charts", partial(_drawn, history, width, height, plain, here, note), box.put_lines)

    def _note(self) -> str:
        row = self.table.current
        if row is None or self._table == "readings":
            return ""
        return alert_note(row) if self._table == "alerts" else layer_note(row)

    def on_chart_box_resized(self) -> None:
        self._draw()

    # keys

    def on_paged_table_moved(self, message: PagedTable.Moved) -> None:
        if self._history is None or message.row is None:
            return
        if self._table == "readings":
            self._look_at(message.row)
        else:
            self._draw()

    def _look_at(self, reading: Reading) -> None:
        """If it is the newest reading, follow newer ones; else stay at it."""
        assert self._history is not None
        at = None if reading is self._history.readings[-1] else reading.step
        if at != self._at:
            self._at = at
            self._draw()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        if self._table == "readings":
            self.action_table("layers")
        elif self._table == "alerts":
            alert: Alert = message.row
            self._at = alert.step
            self.action_table("readings")
            self.hub.say(str(alert), "warn")

    def action_table(self, name: str) -> None:
        self._table = name
        self.table.cursor = 0
        self._fill()
        self.hub.update_trail()

    def action_copy(self) -> None:
        """The row under the cursor, with every neuron that it names."""
        row = self.table.current
        if row is None:
            self.hub.say("there is nothing to copy yet", "warn")
        else:
            notes = map(layer_note, row.layers) if self._table == "readings" else (self._note(),)
            first = [f"step {row.step}"] if self._table == "readings" else []
            self.hub.copy("\n".join([*first, *notes]))

    def export(self) -> Export | None:
        return json_export(f"{self._run}.json", self._history)


def _stand(history: History) -> tuple[object, ...]:
    """What tells whether there is something new in a history."""
    return history.status, len(history.readings), len(history.alerts), history.readings[-1:]


def _read(live: LiveHistory | None, make: Callable[[], LiveHistory]) -> tuple[LiveHistory, History]:
    """Called in a worker: reads the lines that came since the last look."""
    live = live or make()
    live.update()
    return live, live.history


def _drawn(
    history: History, width: int, height: int, plain: bool, here: int | None, note: tuple[str, ...]
) -> tuple[Cell, ...]:
    """Called in a worker: the charts, and the note under them."""
    charts = history_charts(history, width, height - len(note), plain=plain, here=here)
    return (*charts, *map(Cell, note))
