"""What an analysis says of itself, once. Its command, its pane, its kept result, the comparison of runs, its figures
and its kinds of neurons are made of it; nothing else in the tree knows a single analysis.

A spec is data: what is special about an analysis is a small function in its own file that the spec hands over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from nfinspect.present.charts import Chart
    from nfinspect.present.plots import Plot
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result

Form = Literal["neuron", "layer", "number", "percent", "count", "text", "yes"]
"""How a value is written: percent is of a share 0 to 1, count of whole numbers, yes of what is true or not."""

Options = Mapping[str, Any]
"""An analysis' own options by name, every one of them."""


@dataclass(frozen=True)
class Option:
    """One option of the command, of `run.analyse` and of `compute`. name: in Python; the command's has dashes.

    least: of a whole number. A flag has the type bool.
    """

    name: str
    help: str
    type: type = int
    default: Any = None
    metavar: str | None = None
    least: int | None = None


@dataclass(frozen=True)
class Field:
    """One column of a table. key: the row's attribute, and the column's name in data; meaning: what it is, its unit.

    title: its head in the app, header: in the command's table, the title if none; spare: of the columns that go first
    where the terminal is narrow; ascending: it is read from the smallest on; tone: of the app's cells.
    """

    key: str
    meaning: str
    title: str = ""
    form: Form = "number"
    digits: int = 3
    width: int = 8
    header: str | None = None
    spare: int = 0
    ascending: bool = False
    tone: str = ""
    value: Callable[[Any], Any] | None = None

    def of(self, row: Any) -> Any:
        """The value in a row."""
        return getattr(row, self.key) if self.value is None else self.value(row)

    @property
    def head(self) -> str:
        """Its head in the command's table."""
        return self.title if self.header is None else self.header


@dataclass(frozen=True)
class Table:
    """Fields and the rows that they are of."""

    fields: tuple[Field, ...]
    rows: Sequence[Any]


@dataclass(frozen=True)
class Drawing:
    """One way to draw what was found. plot: of it and the row under the cursor; follows: it is about that row."""

    name: str
    plot: "Callable[[Any, Any], Plot]"
    follows: bool = False


@dataclass(frozen=True)
class Measure:
    """A figure of each layer, by which runs are compared. unit: %, count (of whole numbers), or neither.

    of: from a layer of the document.
    """

    key: str
    title: str
    meaning: str
    of: Callable[[Mapping[str, Any]], float | None]
    unit: str = ""
    width: int = 7


@dataclass(frozen=True)
class Comparison:
    """Of several runs. facts: a column of each run, from what was found; layers: of each of its layers; measures: what
    the app compares and draws; said: in short, from the layers of a document; refused: why these say nothing, else "".
    figure: of what was found by the names of the runs.
    """

    facts: tuple[Field, ...]
    layers: tuple[Field, ...]
    measures: tuple[Measure, ...]
    said: Callable[[Sequence[Mapping[str, Any]]], str]
    refused: Callable[[Sequence[Mapping[str, Any]]], str] = lambda layers: ""
    figure: "Callable[[Mapping[str, Any]], Chart] | None" = None


@dataclass(frozen=True)
class NeuronKind:
    """Neurons that an analysis lists, as a kind (`overlap --kinds`, `ablate --kinds`).

    rows: the list in the document; strength: the field that says how much of the kind a neuron is, "" where the list is
    in that order; options: those with which the command makes it, where they are not the usual ones.
    """

    name: str
    rows: str
    strength: str = ""
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class AnalysisSpec:
    """An analysis.

    name: of its command, its place after `:` and its kept results. format: of these, to be raised when the document,
    its tables or the meaning of its figures changes. needs: whether a run is enough. site: the
    one that it is about, where that is not the run's usual one.
    does: the command's help in one line. answers: what it answers, in a few words. explains: every figure, with the
    source. title: of its figures. what: is being made, for the progress line.
    settings: what a kept result is found by beside site and layers, from a run and the options. compute: what is found,
    from a run and, by name, site, layers, tick and the options. document, tables, read: to a kept result and back; read
    raises KeyError, TypeError, ValueError or StoreError for what is none.
    headline: of the command's answer. layers: a row for each. listed: the neurons that were found, the highest first.
    fields: of these, the neuron among them. order: the field by which the app sorts them, and whether the highest comes
    first. empty: said where there are none. searched: the words of a row that a filter looks in.
    sentence: what was found, in the app. notes: what the reader should beware of. offers: an option that would show
    more, else "". kept: a kept document in one line.
    """

    name: str
    format: int
    does: str
    answers: str
    explains: str
    title: str
    what: str
    options: tuple[Option, ...]
    settings: "Callable[[RunFile, Options], Mapping[str, Any]]"
    compute: "Callable[..., Any]"
    document: Callable[[Any], Mapping[str, Any]]
    tables: "Callable[[Any], Mapping[str, pa.Table]]"
    read: "Callable[[Result], Any]"
    headline: Callable[[Any], str]
    layers: Callable[[Any], Table]
    fields: tuple[Field, ...]
    listed: Callable[[Any], Sequence[Any]]
    sentence: Callable[[Any], str]
    notes: Callable[[Any], Sequence[str]]
    kept: Callable[[Mapping[str, Any]], str]
    order: tuple[str, bool]
    empty: str
    drawings: tuple[Drawing, ...]
    kinds: tuple[NeuronKind, ...] = ()
    comparison: Comparison | None = None
    figure: "Callable[[Any], Chart] | None" = None
    figure_name: str = ""
    offers: Callable[[Any], str] = lambda found: ""
    searched: Callable[[Any], str] = lambda row: ""
    site: str | None = None
    needs: Literal["run", "model"] = "run"

    def defaults(self) -> dict[str, Any]:
        """Its options as they are if none is given."""
        return {option.name: option.default for option in self.options}
