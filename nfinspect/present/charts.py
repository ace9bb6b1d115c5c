"""What a figure is before it is drawn: tables with their units, the text that explains it, and how to draw it.

Everything that is drawn is in the chart's tables, so that its JSON and CSV have the whole figure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[["Figure", "Chart"], None]

WIDE = (8.0, 4.5)
"""Inches of a figure with one panel."""


RUN_COLUMNS = {
    "run": "name of the run",
    "layer": "layer, from 0",
    "depth": "layer / (layers - 1), from 0 to 1",
}
"""The columns that tell the layers of several runs apart."""


class Field(Protocol):
    """A column of rows that are objects."""

    @property
    def key(self) -> str: ...
    @property
    def meaning(self) -> str: ...
    def of(self, row: Any) -> Any: ...


@dataclass(frozen=True)
class Table:
    """columns: what each is, with its unit, by name. rows: one value for each column, None where undefined."""

    columns: Mapping[str, str]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> "Table":
        """A table of these rows. Raises ValueError if one does not have a value for every column."""
        held = tuple(tuple(row) for row in rows)
        if any(len(row) != len(columns) for row in held):
            raise ValueError(f"expected {len(columns)} values in every row: {', '.join(columns)}")
        return cls(columns, held)

    @classmethod
    def of_fields(cls, fields: Sequence[Field], rows: Iterable[Any]) -> "Table":
        """A column for each field, by its key."""
        return cls.of({field.key: field.meaning for field in fields}, ([f.of(row) for f in fields] for row in rows))

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        place = list(self.columns).index(name)
        return [row[place] for row in self.rows]

    def where(self, name: str, value: object) -> "Table":
        """The rows with this value in a column."""
        place = list(self.columns).index(name)
        return Table(self.columns, tuple(row for row in self.rows if row[place] == value))

    def to_json(self) -> dict[str, object]:
        return {"columns": dict(self.columns), "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}


@dataclass(frozen=True)
class Chart:
    """One figure. name: the stem of its files; n: what was counted, in words.

    text: paragraphs that say what is drawn, in which unit and by which definition; findings: what came out, also if
    that is nothing. tables: by name; the first one belongs to the whole figure.
    """

    name: str
    title: str
    n: str
    text: tuple[str, ...]
    findings: tuple[str, ...]
    tables: Mapping[str, Table]
    draw: Draw
    inches: tuple[float, float] = WIDE
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The first of the tables."""
        return next(iter(self.tables.values()))

    def to_json(self) -> dict[str, object]:
        """The document next to the figure."""
        return {
            "figure": self.name,
            "title": self.title,
            "n": self.n,
            "text": list(self.text),
            "findings": list(self.findings),
            "facts": dict(self.facts),
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }


@dataclass(frozen=True)
class Absent:
    """A figure without data: why there are none, and the command that computes them, if there is one."""

    name: str
    title: str
    why: str
    command: str | None = None

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


Section = Chart | Absent


def sentences(*said: str, of: str = "") -> tuple[str, ...]:
    """Notes and reasons as sentences of the page, with a capital and a full stop; empty ones are left out.

    of: the run that they are about, if there are several, which is put in front.
    """
    whole = (text if text.endswith(".") else f"{text}." for text in said if text)
    return tuple(f"{of}: {text}" if of else text[0].upper() + text[1:] for text in whole)


def percent(part: int, whole: int) -> float | None:
    """part / whole in %; None if whole is 0."""
    return 100 * part / whole if whole else None
