"""Neurons whose firing tells where in the sequence a token stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nfinspect.tui.cells import counted
from nfinspect.tui.columns.analyses import position_columns
from nfinspect.tui.drawings import position_layers, position_profile, position_scatter
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.positions import PositionalNeuron, PositionAnalysis
    from nfinspect_store.results import Result


class PositionsPane(AnalysisPane):
    """The first drawing is the profile of the neuron under the cursor."""

    command_name = "positions"
    help_text = (
        "MI: mutual information of firing and position, in nats, less its bias; above 0.05 a neuron is positional. "
        "The profile is the share of the sequences in which the neuron fires at each position. type, of the profile "
        "smoothed over 32 positions: oscillatory (crosses one half three times or more), both extremes (at most 0.05 "
        "and at least 0.95, each for 32 positions), one extreme, other. strong: the profile itself reaches 0.001 or "
        "0.999. It takes sequences of one length; R and --length T cut prompts of mixed lengths to T tokens. "
        "After Voita et al. 2023."
    )
    empty = "no neuron is positional"
    order = ("mutual_information", True)

    def columns(self) -> list[Column]:
        return position_columns(self.glyphs)

    def read(self, result: Result, results: Sequence[Result]) -> PositionAnalysis:
        from nfinspect.analysis.positions import PositionAnalysis

        return PositionAnalysis.from_json(result.document, result.table("profiles"))

    def facts(self, analysis: PositionAnalysis) -> str:
        a = analysis
        neurons = sum(layer.neurons for layer in a.layers)
        return (
            f"{counted(len(a.neurons), 'positional neuron')} of {neurons:,}; "
            f"{counted(a.sequences, 'sequence')} of {a.length:,} tokens"
        )

    def note(self, analysis: PositionAnalysis) -> str:
        lists = ("R, then --allow-few, lists them",) if analysis.held_back else ()
        return "; ".join((*analysis.notes, *lists))

    def rows(self, analysis: PositionAnalysis) -> Sequence[PositionalNeuron]:
        return analysis.neurons

    def text(self, row: PositionalNeuron) -> str:
        return f"{row.type} {row.strength}"

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return (
            Drawing("profile", position_profile, follows=True),
            Drawing("information", position_scatter, follows=True),
            Drawing("layers", position_layers),
        )
