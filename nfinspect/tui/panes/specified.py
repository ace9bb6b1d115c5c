"""The pane of an analysis that has a spec: the spec defines everything it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.analyses import spec
from nfinspect.analyses.analysis_spec import Shown, made_with, option_words, part
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.fields import field_column
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing, Found
from nfinspect.tui.plot_lines import plot_lines
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import AnalysisSpec, Field, Options, RowSet
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result


class SpecifiedPane(AnalysisPane):
    """Rows that an analysis lists. Its variants have digit keys, and each a result of its own; `d` goes to the next of
    its lists.
    """

    spec: ClassVar[AnalysisSpec]
    _variant = _list = 0
    _on_screen = 0
    """The list whose rows are in the table: another one may have been asked for."""

    def __init__(self, session: Session, site: str | None = None, *, job: str | None = None) -> None:
        super().__init__(session, self.spec.site if self.spec.site in session.sites else site, job=job)

    # which list

    @property
    def _rows_of(self) -> RowSet:
        return self.spec.lists[self._list]

    def _fields(self) -> Sequence[Field]:
        return self._rows_of.fields(self.analysis)

    def columns(self) -> list[Column]:
        return [field_column(field, self.glyphs) for field in self._fields()]

    def listing(self) -> Listing:
        rows, fields = self._rows_of, {field.key: field for field in self._fields()}
        named = rows.named

        def value(row: Any, key: str) -> Any:
            if key in named:  # where it stands, whatever a column of that name shows
                return part(row, key)
            return fields[key].of(row) if key in fields else None

        return Listing(
            rows=rows.rows,
            value=value,
            text=rows.searched,
            place=lambda row: tuple(part(row, name) for name in named),
            ascending=lambda key: key in named or (key in fields and fields[key].ascending),
            named=named,
            order=rows.order,
            empty=rows.empty,
        )

    def show_found(self, found: Found) -> None:
        self._on_screen = self._list
        super().show_found(found)

    def neurons_of(self, row: Any) -> tuple[tuple[int, int], ...]:
        if self.analysis is None:
            return ()
        shown = Shown(self.session.layers, self.site, self.site == self.session.default_site)
        return self.spec.lists[self._on_screen].neurons(row, self.analysis, shown)

    def action_list(self) -> None:
        there = [i for i, one in enumerate(self.spec.lists) if self.analysis is None or one.there(self.analysis)]
        before = self._fields()
        self._list = next((i for i in there if i > self._list), there[0])
        if tuple(self._fields()) != tuple(before):
            self.rows.reset()
        self.draw_about()
        self.reorder()

    # which result

    @property
    def _options(self) -> Options:
        return self.spec.every_variant()[self._variant].options

    def fits(self) -> Callable[[Result], bool]:
        if not self.spec.sited:
            return lambda result: True
        sizes = {layer.layer: layer.neurons for layer in self.session.layers if layer.site == self.site}
        return partial(_fits, self._options, self.site, sizes)

    def adopt(self, result: Result) -> None:
        site = str(result.document["site"]) if self.spec.sited else self.site
        self.site = site if site in self.session.sites else self.site
        for i, variant in enumerate(self.spec.variants):
            if made_with(result, variant.options):
                self._variant = i

    def reader(self) -> Callable[[Result], Any]:
        return partial(_read, self.spec, self.session)

    def options(self) -> tuple[str, ...]:
        return option_words(self._options)

    def action_variant(self, place: int) -> None:
        self._variant, self._place = place, 0
        self.changed()

    # what is said and drawn

    def choices(self) -> list[Cell | str]:
        pieces: list[Cell | str] = []
        for key, variant in enumerate(self.spec.variants):
            here = key == self._variant
            word = f"[{variant.name}] " if here else f"{variant.name} "
            pieces += [Cell(f"{key + 1} ", "bold"), Cell(word, "accent" if here else "dim")]
        if len(self.spec.lists) > 1:
            pieces += [Cell("d ", "bold"), Cell(self._rows_of.name, "accent")]
        return pieces

    def facts(self, analysis: Any) -> str:
        return self.spec.sentence(analysis, self._found.result if self._found is not None else None)

    def note(self, analysis: Any) -> str:
        offered = self.spec.offers(analysis)
        return "; ".join((*self.spec.notes(analysis), *((f"R, then {offered}, lists them",) if offered else ())))

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return [
            Drawing(one.name, partial(plot_lines, one.plot), one.follows)
            for one in self.spec.drawings
            if one.there(analysis)
        ]


def _fits(options: Options, site: str, sizes: dict[int, int], result: Result) -> bool:
    """Whether a result was made with these options, is about the site, and of layers that are the run's: a model of the
    same name may be another one. sizes: neurons by layer.
    """
    return (
        made_with(result, options)
        and result.document["site"] == site
        and all(sizes.get(layer["layer"]) == layer["neurons"] for layer in result.document["layers"])
    )


def _read(one: AnalysisSpec, session: Session, result: Result) -> Any:
    """In a worker."""
    found = one.read(result)
    return found if one.joined is None else one.joined(found, result, session.results)


@cache
def pane_of(name: str) -> type[SpecifiedPane]:
    """The pane of an analysis, with its own keys: a digit for each variant, `d` where there are several lists."""
    one = spec(name)
    keys: list[BindingType] = [
        Binding(str(i + 1), f"variant({i})", variant.name.capitalize(), id=f"{name}.{variant.name}")
        for i, variant in enumerate(one.variants)
    ]
    if len(one.lists) > 1:
        keys.append(Binding("d", "list", "List", id=f"{name}.list"))
    own = {"spec": one, "command_name": name, "help_text": one.explains, "BINDINGS": keys}
    return type(f"{name.capitalize()}Pane", (SpecifiedPane,), own)
