"""All binding ids, and which of them work together, so that what is wrong in a keymap is reported."""

from functools import cache

from textual.dom import DOMNode

from nfinspect.analyses import names
from nfinspect.tui.keymap import Known, known_ids


@cache
def binding_ids(app: type[DOMNode]) -> frozenset[str]:
    """Every binding id. app: the app's class, whose keys are included."""
    return known_bindings(app).ids


def known_bindings(app: type[DOMNode]) -> Known:
    """Every binding id, and the places in which keys of a table, a pane and the app meet."""
    from nfinspect.tui.dialogs import Confirm, Picker
    from nfinspect.tui.help import HelpScreen
    from nfinspect.tui.panes.analyses import AnalysesPane
    from nfinspect.tui.panes.analysis import pane_of
    from nfinspect.tui.panes.capture import CapturePane, CommandLine
    from nfinspect.tui.panes.compare import ComparePane
    from nfinspect.tui.panes.diff import DiffPane
    from nfinspect.tui.panes.history import HistoryPane
    from nfinspect.tui.panes.lab import LabPane
    from nfinspect.tui.panes.layers import LayersPane
    from nfinspect.tui.panes.lens import LensPane
    from nfinspect.tui.panes.live import LivePane
    from nfinspect.tui.panes.log import LogPane
    from nfinspect.tui.panes.marked import MarkedPane
    from nfinspect.tui.panes.neuron import NeuronPane
    from nfinspect.tui.panes.neurons import NeuronsPane
    from nfinspect.tui.panes.overlap import OverlapPane
    from nfinspect.tui.panes.record import RecordPane
    from nfinspect.tui.panes.runs import RunsPane
    from nfinspect.tui.panes.schema import SchemaPane
    from nfinspect.tui.panes.sheet import SheetPane
    from nfinspect.tui.panes.sql import SqlPane
    from nfinspect.tui.panes.trace import TracePane
    from nfinspect.tui.panes.walk import WalkPane
    from nfinspect.tui.prompt_line import PromptInput
    from nfinspect.tui.widgets.paged_table import PagedTable
    from nfinspect.tui.widgets.sql_editor import SqlEditor
    from nfinspect.tui.widgets.text_panel import TextPanel
    from nfinspect.tui.widgets.token_text import TokenText

    panes = (
        RunsPane,
        CapturePane,
        CommandLine,
        LivePane,
        HistoryPane,
        LayersPane,
        NeuronsPane,
        NeuronPane,
        TracePane,
        OverlapPane,
        SqlPane,
    )
    analyses = (
        AnalysesPane,
        LensPane,
        ComparePane,
        DiffPane,
        MarkedPane,
        WalkPane,
        LabPane,
        LogPane,
        SheetPane,
        SchemaPane,
        RecordPane,
    )  # the others add no keys of their own
    others = (app, PromptInput, Confirm, Picker, HelpScreen, PagedTable, TextPanel, TokenText, SqlEditor)
    every: tuple[type[DOMNode], ...] = (*panes, *analyses, *map(pane_of, names()))
    places = tuple((PagedTable, pane, app) for pane in every if pane is not CommandLine)
    return Known(known_ids((*others, *every)), places)
