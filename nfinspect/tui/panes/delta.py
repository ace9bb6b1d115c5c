"""Neurons that change with every token, and Mamba's step size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.analyses import delta_columns
from nfinspect.tui.drawings import delta_layers, delta_mamba, delta_ratio, delta_step
from nfinspect.tui.engine import Session
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.delta import Delta, DeltaRow
    from nfinspect_store.results import Result

ORDERS = {"step_sensitivity": "step", "von_neumann_ratio": "ratio"}


class DeltaPane(AnalysisPane):
    """Every neuron of the site, by either measure; or the delta-sensitive ones alone."""

    command_name = "delta"
    help_text = (
        "step: step sensitivity, mean |change from one token to the next| in units of the neuron's std. ratio: von "
        "Neumann ratio, mean squared change over variance (0: frozen, 2: white noise, it keeps nothing of the token "
        "before). delta-sensitive: ratio at least 2 and step at least 0.2. Both leave position 0 out and never go "
        "across prompts. lag N: mean |change| / std so many tokens after one was replaced (delta --substitute, needs "
        "the model). Mamba's step size is how much of a token each channel lets into its state."
    )
    empty = "no such neuron"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort", id="delta.sort"),
        Binding("d", "only", "Delta-sensitive only", id="delta.only"),
    ]

    def __init__(self, session: Session, site: str | None = None) -> None:
        super().__init__(session, site)
        self._sort = "von_neumann_ratio"
        self._only = True

    def columns(self) -> list[Column]:
        found = self.analysis
        return delta_columns(self._sort, found.substitution.lags if found and found.substitution else (), self.glyphs)

    def read(self, result: Result, results: Sequence[Result]) -> Delta:
        from nfinspect.analysis.delta import Delta
        from nfinspect.analysis.substitution import Substitution

        found = Delta.from_json(result.document)
        for other in self.session.results("substitution"):
            if other.settings.get("site") == found.site and other.settings.get("layers") == result.settings["layers"]:
                found = found.with_substitution(Substitution.from_parts(other.document, other.table("neurons")))
                break
        return found

    def choices(self) -> list[Cell | str]:
        which = "delta-sensitive" if self._only else "all neurons"
        return [Cell("s ", "bold"), "by ", Cell(ORDERS[self._sort], "accent"), Cell("  d ", "bold"), which]

    def facts(self, analysis: Delta) -> str:
        a = analysis
        if not a.neurons:
            return "statistics only: there is Mamba's own step size, and nothing on its neurons"
        mamba = f"; step size of {len(a.mamba_delta):,} channels" if a.mamba_delta else ""
        return f"{len(a.delta_sensitive):,} delta-sensitive of {len(a.neurons):,} neurons; {a.pairs:,} steps{mamba}"

    def rows(self, analysis: Delta) -> Sequence[DeltaRow]:
        kept = self._rows
        if kept is None or kept[0] != (id(analysis), self._sort, self._only):
            ordered = analysis.sorted_by(self._sort)
            rows = ordered.delta_sensitive if self._only else ordered.neurons
            kept = self._rows = ((id(analysis), self._sort, self._only), rows)
        return kept[1]

    _rows: tuple[tuple[int, str, bool], tuple[DeltaRow, ...]] | None = None

    def drawings(self, analysis: Delta) -> Sequence[Drawing]:
        of_neurons = (Drawing("ratio", delta_ratio), Drawing("step", delta_step), Drawing("layers", delta_layers))
        mamba = (Drawing("Mamba's step size", delta_mamba),) if analysis.mamba_delta else ()
        return (*(of_neurons if analysis.neurons else ()), *mamba)

    def action_sort(self) -> None:
        self._sort = next(order for order in ORDERS if order != self._sort)
        self._show_rows()

    def action_only(self) -> None:
        self._only = not self._only
        self._show_rows()

    def _show_rows(self) -> None:
        if self.analysis is not None:
            self.table.set_columns(self.columns())
            self.table.put_rows(self.rows(self.analysis))
            self.table.move_to(0)
        self.draw_about()
