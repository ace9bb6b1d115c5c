"""From places to panes: the one module that knows all of them. A pane is imported when it is first opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfinspect.tui.panes.base import Pane
    from nfinspect.tui.places import Place


def open_pane(place: Place) -> Pane:
    """The pane of a place."""
    made: Pane = _pane(place.pane)(*place.arguments, **place.options)
    return made


def _pane(name: str) -> Any:
    """The class of a pane. An analysis without a pane of its own has the one that its spec fills."""
    match name:
        case "runs":
            from nfinspect.tui.panes.runs import RunsPane

            return RunsPane
        case "frequencies":
            from nfinspect.tui.panes.sheet import FrequencyPane

            return FrequencyPane
        case "columns":
            from nfinspect.tui.panes.sheet import DescribePane

            return DescribePane
        case "log":
            from nfinspect.tui.panes.log import LogPane

            return LogPane
        case "live":
            from nfinspect.tui.panes.live import LivePane

            return LivePane
        case "capture":
            from nfinspect.tui.panes.capture import CapturePane

            return CapturePane
        case "history":
            from nfinspect.tui.panes.history import HistoryPane

            return HistoryPane
        case "compare":
            from nfinspect.tui.panes.compare import ComparePane

            return ComparePane
        case "diff":
            from nfinspect.tui.panes.diff import DiffPane

            return DiffPane
        case "layers":
            from nfinspect.tui.panes.layers import LayersPane

            return LayersPane
        case "neurons":
            from nfinspect.tui.panes.neurons import NeuronsPane

            return NeuronsPane
        case "neuron":
            from nfinspect.tui.panes.neuron import NeuronPane

            return NeuronPane
        case "walk":
            from nfinspect.tui.panes.walk import WalkPane

            return WalkPane
        case "lab":
            from nfinspect.tui.panes.lab import LabPane

            return LabPane
        case "trace":
            from nfinspect.tui.panes.trace import TracePane

            return TracePane
        case "overlap":
            from nfinspect.tui.panes.overlap import OverlapPane

            return OverlapPane
        case "marked":
            from nfinspect.tui.panes.marked import MarkedPane

            return MarkedPane
        case "sql":
            from nfinspect.tui.panes.sql import SqlPane

            return SqlPane
        case "tables":
            from nfinspect.tui.panes.schema import SchemaPane

            return SchemaPane
        case "record":
            from nfinspect.tui.panes.record import RecordPane

            return RecordPane
        case "analyses":
            from nfinspect.tui.panes.analyses import AnalysesPane

            return AnalysesPane
        case "kinds":
            from nfinspect.tui.panes.kinds import KindsPane

            return KindsPane
        case "lens":
            from nfinspect.tui.panes.lens import LensPane

            return LensPane
        case "logits":
            from nfinspect.tui.panes.logits import LogitsPane

            return LogitsPane
        case "similar":
            from nfinspect.tui.panes.similar import SimilarPane

            return SimilarPane
        case _:
            from nfinspect.tui.panes.analysis import pane_of

            return pane_of(name)
