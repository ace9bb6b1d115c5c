"""Which neurons are like one neuron."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.analyses.similar import SPEC
from nfinspect.tui.panes.analysis import AnalysisPane
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.found import Found

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address
    from nfinspect_store.results import Result


class SimilarPane(AnalysisPane):
    """Computed for one neuron when its place is first opened, and saved with the run. S looks at another site."""

    spec = SPEC
    help_text = SPEC.explains

    BINDINGS: ClassVar[list[BindingType]] = [Binding("d", "list", "List", id="similar.list")]

    def __init__(self, session: Session, address: Address) -> None:
        site = address.site or session.default_site
        self._address = f"{site}:L{address.layer}/N{address.neuron}"
        self._asked_for: set[str] = set()
        super().__init__(session, site, job=f"similar {address}")
        self.crumb = f"similar {address}"

    def options(self) -> tuple[str, ...]:
        return (self._address, "--site", self.site)

    def fits(self) -> Callable[[Result], bool]:
        return partial(_fits, super().fits(), self._address)

    def show_found(self, found: Found) -> None:
        super().show_found(found)
        can = not self.session.why_not(SPEC) and not self.session.under_way
        if found.analysis is None and can and self.site not in self._asked_for:
            self._asked_for.add(self.site)  # once: a command that failed is not repeated unasked
            self.action_make()

    def nothing(self) -> str:
        return "The run's values are read for this."

    def export(self) -> Export | None:
        name = self._address.replace(":", "-").replace("/", "-")
        return json_export(f"{self.session.name}-similar-{name}.json", self.analysis, self.rows.not_told)


def _fits(at_site: Callable[[Result], bool], address: str, result: Result) -> bool:
    """In a worker."""
    document: Any = result.document
    return document["of"] == address and at_site(result)
