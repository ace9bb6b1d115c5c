"""The description of an analysis. Its command, its pane, its saved result, the comparison of runs, its figures and its
kinds of neurons are built from it. Other modules name an analysis only to order a list, or for a step that it alone
has.

A spec is data: what is special about an analysis is a small function in its own file that the spec holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nfinspect.present.numbers import PLAIN, Signs, count, fixed, number, percent, quoted, signed

if TYPE_CHECKING:
    import pyarrow as pa

    from nfinspect.analysis.ticks import Reporter
    from nfinspect.present.charts import Chart, Section
    from nfinspect.present.plots import Plot
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result
    from nfinspect_store.types import Layer

Form = Literal[
    "neuron", "layer", "number", "fixed", "signed", "percent", "count", "interval", "text", "texts", "tokens", "yes"
]
"""How a value is written. fixed: to `digits` decimal places; signed: as a change; percent: a share, 0 to 1, in %;
count: a whole number; interval: two ends; texts: texts in quotes, a missing one is None; tokens: the same with their
probabilities; yes: "yes" if true, else nothing. An empty text is written as nothing in every form.
"""

Options = Mapping[str, Any]
"""An analysis' own options by name, every one of them."""


def option_words(options: Options) -> tuple[str, ...]:
    """Options as arguments of the command; a flag that is set is its name alone."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return tuple(word for flag, value in flags.items() for word in ((flag,) if value is True else (flag, str(value))))


def made_with(result: "Result", options: Options) -> bool:
    """Whether a saved result has these options in its settings."""
    return all(result.settings.get(name) == value for name, value in options.items())


def part(row: Any, name: str) -> Any:
    """A value of a row by its name: an attribute of an object, or an entry of a row of a document."""
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


@dataclass(frozen=True)
class Option:
    """One option of the command and, unless it is used `afterwards`, of `run.analyse` and `compute`.

    name: in Python; the command's has dashes. least, most: bounds of a whole number. A flag has the type bool. choices:
    the values it may have. afterwards: it has no part in the saved result, only in what the command makes of it
    (`finish`).
    """

    name: str
    help: str
    type: type = int
    default: Any = None
    metavar: str | None = None
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    afterwards: bool = False


@dataclass(frozen=True)
class Field:
    """One column of a table. key: the row's attribute, and the column's name in data; meaning: what it is, with its
    unit.

    title: its heading in the app, header: in the command's table, the title if None; digits: significant ones (fixed:
    decimal places), 0 for whole percents; spare: where the terminal is narrow, columns with a higher number are dropped
    first, those with 0 never; sorts: whether rows can be sorted by it; ascending: then from the smallest on; tone: of
    the app's cells; flex: it takes the room that is left.
    """

    key: str
    meaning: str
    title: str = ""
    form: Form = "number"
    digits: int = 3
    width: int = 8
    header: str | None = None
    spare: int = 0
    sorts: bool = True
    ascending: bool = False
    tone: str = ""
    flex: bool = False
    value: Callable[[Any], Any] | None = None

    def of(self, row: Any) -> Any:
        """The value in a row."""
        return part(row, self.key) if self.value is None else self.value(row)

    def written(self, row: Any, signs: Signs = PLAIN, room: int | None = None) -> str:
        """The value in a row for people. room: cells of a narrow column, to which digits are cut."""
        if self.form == "neuron":
            return f"L{row.layer}/N{row.neuron}"
        value = self.of(row)
        match self.form:
            case _ if value == "":
                return ""
            case "text":
                return str(value)
            case "yes":
                return "yes" if value else ""
            case "fixed":
                return fixed(value, signs, self.digits)
            case "signed":
                return signed(value, signs, self.digits)
            case "percent":
                return percent(value, signs, None if self.digits else 0)
            case "layer" if room is not None:
                return f"L{value}"
            case "count" if room is not None:
                return count(value, signs)
            case "interval":
                each = 99 if room is None else (room - len(" to ")) // 2
                return signs.none if None in value else " to ".join(number(x, signs, self.digits, each) for x in value)
            case "texts":
                return " ".join(quoted(text, signs) for text in value)
            case "tokens":
                return "  ".join(f"{quoted(x['token'], signs)} {percent(x['probability'], places=0)}" for x in value)
        return number(value, signs, self.digits, room or 99)

    @property
    def head(self) -> str:
        """Its heading in the command's table."""
        return self.title if self.header is None else self.header

    @property
    def aligned_left(self) -> bool:
        """Whether it reads as text."""
        return self.form in ("neuron", "text", "texts", "tokens", "yes", "interval")


@dataclass(frozen=True)
class Table:
    """A table of the command. title: printed above it; top: only as many rows as --top says."""

    fields: Sequence[Field]
    rows: Sequence[Any]
    title: str = ""
    top: bool = False


@dataclass(frozen=True)
class Shown:
    """What the app shows of a run: its layers, a site, and whether that is the run's default one."""

    layers: "Sequence[Layer]"
    site: str
    usual: bool


Neurons = tuple[tuple[int, int], ...]
"""(layer, neuron) of each."""


def own_neuron(row: Any, found: Any, of: Shown) -> Neurons:
    """The neuron that a row is about."""
    return ((row.layer, row.neuron),)


def no_neurons(row: Any, found: Any, of: Shown) -> Neurons:
    """For rows that are about no neuron."""
    return ()


@dataclass(frozen=True)
class RowSet:
    """A list that the app shows. fields: its columns, from what was found, or from None (for -h); rows: from what was
    found; order: the field that it is sorted by ("" for none), and whether the largest comes first; empty: what is said
    if it has no row; there: whether it is shown at all.

    searched: the text of a row that a filter searches. named: what a filter may name besides the columns. neurons:
    those that a row is about, from the row, what was found and what is shown.
    """

    fields: Callable[[Any], Sequence[Field]]
    rows: Callable[[Any], Sequence[Any]]
    order: tuple[str, bool]
    empty: str
    name: str = ""
    there: Callable[[Any], bool] = lambda found: True
    searched: Callable[[Any], str] = lambda row: ""
    named: tuple[str, ...] = ("layer", "neuron")
    neurons: Callable[[Any, Any, Shown], Neurons] = own_neuron


@dataclass(frozen=True)
class Variant:
    """An analysis with some of its options chosen: a key of the pane, and a topic of the comparison of runs.

    name: of the key and the topic; word: its label in the pane, the name if empty; title: of its figures.
    """

    name: str
    options: Options
    title: str
    word: str = ""


@dataclass(frozen=True)
class Drawing:
    """One way to draw what was found. plot: from that and the row under the cursor; follows: it depends on the row;
    there: whether it can be drawn at all.
    """

    name: str
    plot: "Callable[[Any, Any], Plot]"
    follows: bool = False
    there: Callable[[Any], bool] = lambda found: True


@dataclass(frozen=True)
class Measure:
    """A figure of each layer by which runs are compared. unit: %, count (whole numbers) or none.

    of: its value, from a layer of the document.
    """

    key: str
    title: str
    meaning: str
    of: Callable[[Mapping[str, Any]], float | None]
    unit: str = ""
    width: int = 7


@dataclass(frozen=True)
class Comparison:
    """How several runs are compared. facts, layers: the command's columns for a run and for its layers, from what was
    found, which has `site` and `layers`. measures: the app's columns, from a variant's name. said, refused: a run's
    summary, and why it cannot be compared (else ""), from a document's layers. figures, more: figures, and further
    tables of the command, from what was found by run name. takes: whether a document can be compared. by_variant: each
    variant is a topic of its own.
    """

    measures: Callable[[str], Sequence[Measure]]
    said: Callable[[Sequence[Mapping[str, Any]]], str]
    facts: Callable[[Any], Sequence[Field]] = lambda found: ()
    layers: Callable[[Any], Sequence[Field]] = lambda found: ()
    refused: Callable[[Sequence[Mapping[str, Any]]], str] = lambda layers: ""
    figures: "Callable[[Mapping[str, Any]], Sequence[Chart]] | None" = None
    more: Callable[[Mapping[str, Any]], Sequence[Table]] = lambda found: ()
    takes: Callable[[Mapping[str, Any]], bool] = lambda document: True
    by_variant: bool = False


@dataclass(frozen=True)
class NeuronKind:
    """Neurons that an analysis lists, as a kind (`overlap --kinds`, `ablate --kinds`).

    rows: the name of the list in the document; strength: the field by which the strongest neurons are taken, "" if the
    list is in that order; options: those of the command, and of a saved result that fits. collective: it is the newest
    of several other kinds. counts: whether a row of the list is of the kind. refused: why a document cannot tell, else
    "". strongest: as many rows as wanted, from a result whose list has only the first few.
    """

    name: str
    rows: str
    strength: str = ""
    options: Options = field(default_factory=dict)
    counts: Callable[[Mapping[str, Any]], bool] = lambda row: True
    refused: Callable[[Mapping[str, Any]], str] = lambda document: ""
    collective: bool = False
    strongest: "Callable[[Result, int], Sequence[Mapping[str, Any]]] | None" = None


@dataclass(frozen=True)
class Figures:
    """An analysis' figures in a report. charts: from the newest saved result of each variant, by the variant's name; at
    least one. name: of the placeholder for a missing result, the kind of neurons if empty. each: a placeholder for
    every variant without a result, else a single one, and only if none has a result.
    """

    charts: "Callable[[Mapping[str, Kept]], Sequence[Section]]"
    name: str = ""
    each: bool = True


@dataclass(frozen=True)
class Kept:
    """What was found, with the saved result that it was read from."""

    result: "Result"
    found: Any


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """An analysis.

    name       its place after `:`, and its command unless nfinspect.analyses.COMMANDS has another
    needs      whether a run is enough; with "model" the command is written by hand (nfinspect.cli)
    format     of its saved results: raise it when the document, its tables or the meaning of a figure changes
    keeps      the kind of its saved results, the name if None; "": nothing is saved
    site       the site it is about, if not the run's default one
    sited      whether a result is about a site at all
    of_neuron  it is about one neuron, which has to be named
    of_values  whether, in a run with these sites, it is refused without every value
    does, answers, explains, title
               the command's help in one line; what it answers, in a few words; every figure with its source; the title
               of its figures
    what       the progress line, from the options
    check      raises RequestError for options that do not go together
    settings   from a run and the options: what identifies a saved result, next to site and layers
    compute    called as compute(run, site=, layers=, tick=, **options); it and settings are None if it takes more
               than that
    document, tables, read
               the result as JSON and as Arrow tables, and back; read raises KeyError, TypeError, ValueError or
               StoreError for a saved result of another form. The document has `site`, and `layers` with `layer` and
               `neurons` in each, if the analysis is about a site
    covers     whether a saved result is about all of a site, if its site and layers do not tell
    finish     what the command prints, from the run, the saved result, what was found, all options and the reporter
    joined     what the app shows, from what was found, its result and the run's other saved results by kind
    printed    the tables of the command
    lists      what the app lists; one or more
    sentence   what was found in one line, for the app, from it and its result (None if it is not saved)
    notes      what the reader should beware of
    offers     an option that would show more, else ""
    kept       a saved result in one line
    variants   options that keys of the pane choose
    """

    name: str
    needs: Literal["run", "model"] = "run"
    format: int = 1
    keeps: str | None = None
    site: str | None = None
    sited: bool = True
    of_neuron: bool = False
    of_values: Callable[[Sequence[str]], bool] = lambda sites: False
    does: str = ""
    answers: str
    explains: str
    title: str = ""
    what: Callable[[Options], str] = lambda options: ""
    options: tuple[Option, ...] = ()
    check: Callable[[Options], None] = lambda options: None
    settings: "Callable[[RunFile, Options], Mapping[str, Any]] | None" = None
    compute: "Callable[..., Any] | None" = None
    document: Callable[[Any], Mapping[str, Any]] = lambda found: found.to_json()
    tables: "Callable[[Any], Mapping[str, pa.Table]]" = lambda found: {}
    read: "Callable[[Result], Any]" = lambda result: result.document
    covers: "Callable[[RunFile, Result, str], bool] | None" = None
    finish: "Callable[[RunFile, Result, Any, Options, Reporter], Any] | None" = None
    joined: "Callable[[Any, Result, Callable[[str], Sequence[Result]]], Any] | None" = None
    printed: Callable[[Any], Sequence[Table]]
    lists: tuple[RowSet, ...]
    sentence: Callable[[Any, Any], str]
    notes: Callable[[Any], Sequence[str]] = lambda found: found.notes
    offers: Callable[[Any], str] = lambda found: ""
    kept: "Callable[[Result], str]" = lambda result: ""
    drawings: tuple[Drawing, ...]
    variants: tuple[Variant, ...] = ()
    kinds: tuple[NeuronKind, ...] = ()
    comparison: Comparison | None = None
    figure: Figures | None = None

    @property
    def result_kind(self) -> str:
        """The kind of its saved results; empty if nothing is saved."""
        return self.name if self.keeps is None else self.keeps

    def defaults(self) -> dict[str, Any]:
        """The default options of its saved result."""
        return {option.name: option.default for option in self.options if not option.afterwards}

    def every_variant(self) -> tuple[Variant, ...]:
        """Its variants, or itself as the only one."""
        return self.variants or (Variant(self.name, {}, self.title),)
