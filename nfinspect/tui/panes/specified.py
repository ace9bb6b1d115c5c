"""The pane of an analysis that has a spec: everything that it shows is told there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import spec
from nfinspect.tui.columns.fields import field_column
from nfinspect.tui.engine import Session
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
        self.empty, self.order = self.spec.empty, self.spec.order
        super().__init__(session, self.spec.site if self.spec.site in session.sites else site)

    @property
    def _fields(self) -> tuple[Field, ...]:
        return self.spec.fields

    def columns(self) -> list[Column]:
        return [field_column(field, self.glyphs) for field in self._fields]

    def read(self, result: Result, results: Sequence[Result]) -> Any:
        return self.spec.read(result)

    def facts(self, analysis: Any) -> str:
        return self.spec.sentence(analysis)

    def note(self, analysis: Any) -> str:
        offered = self.spec.offers(analysis)
        return "; ".join((*self.spec.notes(analysis), *((f"R, then {offered}, lists them",) if offered else ())))

    def rows(self, analysis: Any) -> Sequence[Any]:
        return self.spec.listed(analysis)

    def value(self, row: Any, key: str) -> Any:
        field = next((field for field in self._fields if field.key == key), None)
        return getattr(row, key) if field is None else field.of(row)

    def ascending(self, key: str) -> bool:
        return key == "layer" or any(field.ascending for field in self._fields if field.key == key)

    def text(self, row: Any) -> str:
        return self.spec.searched(row)

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return [Drawing(one.name, partial(plot_lines, one.plot), one.follows) for one in self.spec.drawings]
