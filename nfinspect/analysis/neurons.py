"""Lists of neurons by class, layer or filter, sorted and paged in DuckDB whatever the options."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.classification_cache import kept_classification
from nfinspect.analysis.filters import COLUMNS, Condition, check_class, check_column, no_sets, parse_filter
from nfinspect.analysis.numbers import number
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import quoted
from nfinspect_store.tables import RunTables
from nfinspect_store.types import CLASSES, Layer

RECOMPUTED = "recomputed_neurons"
"""The name in DuckDB of a table computed with other options than the run's own."""


@dataclass(frozen=True)
class NeuronRow:
    """A row of the table `neurons`; None where undefined. `cls` is the column `class`."""

    site: str
    layer: int
    neuron: int
    n: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    mean_abs: float | None
    firing_rate: float | None
    cls: str
    dormancy: float | None
    skewness: float | None
    excess_kurtosis: float | None
    near_dead: bool | None
    rate_upper95: float | None
    approximate: bool

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"

    def to_json(self) -> dict[str, object]:
        """The columns of the table `neurons` under their own names."""
        return {"class" if name == "cls" else name: value for name, value in vars(self).items()}


@dataclass(frozen=True)
class NeuronPage:
    """The rows from `offset` on of a list of `total` neurons."""

    rows: tuple[NeuronRow, ...]
    total: int
    offset: int

    def to_json(self) -> list[dict[str, object]]:
        return [row.to_json() for row in self.rows]


def list_neurons(
    run: RunTables,
    site: str | None = None,
    cls: str | None = None,
    layer: int | None = None,
    sort: str = "max",
    descending: bool = True,
    filter: str | None = None,  # noqa: A002
    limit: int | None = 50,
    offset: int = 0,
    options: HealthOptions | None = None,
) -> NeuronPage:
    """A page of a list of neurons; without a limit all of it.

    Undefined values come last in either direction, ties in order of layer and neuron. filter: see `filters`. With
    options other than the defaults the neurons are recomputed, once while the run is open. Raises RequestError for an
    unknown site, class, layer, column or filter.
    """
    site = run.resolve_site(site)
    where = _where(run, site, layer, filter)
    if cls is not None:
        where = where.both(Condition('"class" = ?', (check_class(cls),)))
    if offset < 0 or (limit is not None and limit < 0):
        raise RequestError(f"a page starts at 0 or later and has 0 rows or more, found offset {offset}, limit {limit}")
    order = f"{quoted(check_column(sort))} {'DESC' if descending else 'ASC'} NULLS LAST"
    with _neurons(run, site, options) as (cursor, source):
        count = f"SELECT count(*) FROM {source} WHERE {where.sql}"
        page = f"""SELECT {", ".join(quoted(column) for column in COLUMNS)} FROM {source} WHERE {where.sql}
                   ORDER BY {order}, "layer", "neuron" LIMIT ? OFFSET ?"""
        total = cursor.execute(count, where.values).fetchall()[0][0]
        rows = cursor.execute(page, (*where.values, limit, offset)).fetchall()
    return NeuronPage(tuple(_row(row) for row in rows), int(total), offset)


def count_classes(
    run: RunTables,
    site: str | None = None,
    layer: int | None = None,
    filter: str | None = None,  # noqa: A002
    options: HealthOptions | None = None,
) -> dict[str, int]:
    """How many neurons of each class such a list holds; all of CLASSES are there. Raises what `list_neurons` does."""
    site = run.resolve_site(site)
    where = _where(run, site, layer, filter)
    with _neurons(run, site, options) as (cursor, source):
        query = f'SELECT "class", count(*) FROM {source} WHERE {where.sql} GROUP BY "class"'
        held = dict(cursor.execute(query, where.values).fetchall())
    return {name: int(held.get(name, 0)) for name in dict.fromkeys((*CLASSES, *held))}


def _where(run: RunTables, site: str, layer: int | None, filter: str | None) -> Condition:  # noqa: A002
    where = Condition('"site" = ?', (site,))
    if layer is not None:
        where = where.both(Condition('"layer" = ?', (run.resolve_layer(layer, site).layer,)))
    if filter is not None and filter.strip():
        where = where.both(parse_filter(filter, run.marked if isinstance(run, RunFile) else no_sets))
    return where


def neuron_row(run: RunTables, layer: Layer, neuron: int, options: HealthOptions | None = None) -> NeuronRow:
    """One neuron's row."""
    with _neurons(run, layer.site, options) as (cursor, source):
        query = f"""SELECT {", ".join(quoted(column) for column in COLUMNS)} FROM {source}
                    WHERE "site" = ? AND "layer" = ? AND "neuron" = ?"""
        row = cursor.execute(query, (layer.site, layer.layer, neuron)).fetchone()
    assert row is not None  # every neuron of a classified site has a row
    return _row(row)


@contextmanager
def _neurons(
    run: RunTables, site: str, options: HealthOptions | None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A cursor and the name of the table of neurons: the run's, or one computed with other options."""
    cursor = run.cursor()
    chosen = options or HealthOptions()
    # Fetched to the end: a connection with an open result takes no other query.
    stored = bool(cursor.execute("SELECT 1 FROM neurons WHERE site = ? LIMIT 1", [site]).fetchall())
    try:
        if stored and chosen == HealthOptions():
            yield cursor, "neurons"
        else:
            cursor.register(RECOMPUTED, kept_classification(run, site, chosen).table)
            yield cursor, RECOMPUTED
    finally:
        cursor.close()


def _row(values: tuple[object, ...]) -> NeuronRow:
    return NeuronRow(*(number(value) if isinstance(value, float) else value for value in values))  # type: ignore[arg-type]
