"""What the kinds of neurons share: dead, positional, delta-sensitive, detectors of n-grams, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.tui.bar_drawings import kind_map
from nfinspect.tui.columns.analyses import kind_columns
from nfinspect.tui.listing import Arranged, Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing, Found
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analyses.kind_overlap import KindOverlap, KindPair
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result


class KindsPane(AnalysisPane):
    """Counted anew, whenever the pane is entered, from what the other analyses have kept; nothing of its own is."""

    command_name = "kinds"
    help_text = (
        "Pairs of kinds and how many neurons are of both, beside what chance would give: expected count and P(as many "
        "or more), hypergeometric. Live neurons are counted; with dead as one of the two, all. The kinds are those "
        "whose analysis is kept over all layers; r makes the ones that need no model. attention: the 20 neurons with "
        "the largest |score| of the newest result, this run's before its model's. Enter goes to the first neuron of a "
        "pair, J and K along all of them; Space marks them."
    )

    def columns(self) -> list[Column]:
        return kind_columns(self.glyphs)

    def adopt(self, result: Result) -> None:
        """There is nothing to choose."""

    def entered(self) -> None:
        self.changed()

    def finder(self) -> Callable[[], Found]:
        return partial(_find, self.session, self.site, self.command.asked(), self.rows.arranger())

    def listing(self) -> Listing:
        return Listing(
            rows=lambda analysis: analysis.pairs,
            place=lambda row: (row.a, row.b),
            text=lambda row: f"{row.a} {row.b}",
            named=(),
            empty="no pair",
        )

    def nothing(self) -> str:
        return "No kind beside the dead is known yet."

    def facts(self, analysis: KindOverlap) -> str:
        sizes = ", ".join(f"{one.kind} {one.neurons:,}" for one in analysis.sets)
        return f"{sizes}; {analysis.alive:,} live of {analysis.neurons:,} neurons"

    def note(self, analysis: KindOverlap) -> str:
        return "; ".join(analysis.notes)

    def neurons_of(self, row: KindPair) -> tuple[tuple[int, int], ...]:
        return tuple((one.layer, one.neuron) for one in row.shared)

    def drawings(self, analysis: KindOverlap) -> Sequence[Drawing]:
        return (Drawing("map", kind_map),)


def _find(
    session: Session, site: str, command: Callable[[], tuple[str, ...]], arrange: Callable[[Any], Arranged]
) -> Found:
    """In a worker."""
    overlap = session.kinds(site)
    return Found((), 0, overlap, command(), arrange(overlap) if overlap is not None else None)
