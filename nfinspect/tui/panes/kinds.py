"""What the kinds of neurons share: dead, positional, delta-sensitive, detectors of n-grams, attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.analyses.kinds import SPEC
from nfinspect.tui.listing import Arranged
from nfinspect.tui.panes.analysis import AnalysisPane
from nfinspect.tui.panes.found import Found

if TYPE_CHECKING:
    from nfinspect.tui.session import Session


class KindsPane(AnalysisPane):
    """Counted whenever the pane is entered, from the other analyses' saved results; its own is not saved."""

    spec = SPEC
    help_text = SPEC.explains

    def entered(self) -> None:
        self.changed()

    def finder(self) -> Callable[[], Found]:
        return partial(_find, self.session, self.site, self.command.asked(), self.rows.arranger())

    def nothing(self) -> str:
        return "No kind besides dead is known yet."


def _find(
    session: Session, site: str, command: Callable[[], tuple[str, ...]], arrange: Callable[[Any], Arranged]
) -> Found:
    """In a worker."""
    overlap = session.kinds(site)
    return Found((), 0, overlap, command(), arrange(overlap) if overlap is not None else None)
