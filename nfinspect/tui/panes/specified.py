"""The pane of an analysis that has a spec: everything that it shows is told there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import spec
from nfinspect.tui.columns.fields import field_column
from nfinspect.tui.engine import Session
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.plot_lines import plot_lines
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analyses.spec import Field
    from nfinspect_store.results import Result


class SpecifiedPane(AnalysisPane):
    """The neurons that an analysis lists."""

    def __init__(self, name: str, session: Session, site: str | None = None) -> None:
        self.spec = spec(name)
        self.command_name, self.help_text = name, self.spec.explains
        super().__init__(session, self.spec.site if self.spec.site in session.sites else site)

    @property
    def _fields(self) -> tuple[Field, ...]:
        return self.spec.fields

    def columns(self) -> list[Column]:
        return [field_column(field, self.glyphs) for field in self._fields]

    def reader(self) -> Callable[[Result], Any]:
        return self.spec.read

    def listing(self) -> Listing:
        fields = {field.key: field for field in self._fields}
        return Listing(
            rows=self.spec.listed,
            value=lambda row, key: fields[key].of(row) if key in fields else getattr(row, key),
            text=self.spec.searched,
            ascending=lambda key: key == "layer" or (key in fields and fields[key].ascending),
            order=self.spec.order,
            empty=self.spec.empty,
        )

    def facts(self, analysis: Any) -> str:
        return self.spec.sentence(analysis)

    def note(self, analysis: Any) -> str:
        offered = self.spec.offers(analysis)
        return "; ".join((*self.spec.notes(analysis), *((f"R, then {offered}, lists them",) if offered else ())))

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return [Drawing(one.name, partial(plot_lines, one.plot), one.follows) for one in self.spec.drawings]
